"""A run of xmodal as a trainable of Ray Tune, for `jobs.sweep` and for a Tuner of one's own.

    from ray import tune
    from pipelines.sweep import interval, xmodal_trainable

    tune.Tuner(
        xmodal_trainable("jobs.classify", base_config),
        param_space={
            "optim.learning_rate": tune.loguniform(1e-4, 1e-2), "balance.rescale": interval(0.1, 10, log=True),
        },
        tune_config=tune.TuneConfig(metric="multimodal/accuracy", mode="max", num_samples=8),
    ).fit()

Tune's actor trains nothing and reserves almost nothing, so that Tune may place it on any node. It holds one process
(`pipelines.sweep.trial_process`) that joins the cluster as a job of its own and trains one run. Whatever ends the actor
ends that job, and the cluster takes back the run's workers and placement groups.

What Tune stores as a checkpoint is a pointer to one that the run itself has committed. A trial that is started again
needs not even that: its run continues from its newest checkpoint.
"""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import ray
from ray import tune

from pipelines.config.run import RunOptions
from pipelines.sweep.clone import newest_committed
from pipelines.sweep.cluster import ACTOR_CPUS, STEADY, check_run, connect
from pipelines.sweep.trial_process import DONE, FAILED, PRELOADED, REPORT, Attempt, TrialProcess
from xmodal import storage
from xmodal.errors import ConfigError, nearest
from xmodal.search.config_fields import check_path, with_values
from xmodal.search.ranges import IntervalRange, NumberRange
from xmodal.storage import StorageOptions

STAGE = "pipelines.sweep.trial_process:run_stage"
JOBS = ("jobs.pretrain", "jobs.adapt", "jobs.classify")
POINTER = "pointer.json"
LISTEN_S = 0.5
COMMIT_TIMEOUT_S = 120.0
LOW, WIDTH = "low_unit", "width_unit"  # of an interval: what Tune draws, both in [0, 1]


class TrialFailed(Exception):
    """An attempt of a trial ended without a result, and another one may succeed."""


@dataclass(frozen=True, kw_only=True)
class TrialSpec:
    """What all trials of a search have in common."""

    config: Any  # of the run that is searched
    target: str = STAGE  # MODULE:FUNCTION that a trial's process calls
    needs_cluster: bool = True
    silent_s: float = 900.0  # seconds without a message after which a trial counts as hung
    actor_resources: Mapping[str, float] = field(default_factory=lambda: {"CPU": ACTOR_CPUS})
    options: StorageOptions = field(default_factory=StorageOptions)


def interval(low: float, high: float, *, log: bool = False) -> dict[str, Any]:
    """Return a search space of Tune for a field that holds a pair, e.g. `balance.rescale`: low <= high always holds.

    `low` and `high` bound both ends; with `log` orders of magnitude are uniform. ConfigError for bounds in no order.

    >>> from ray import tune
    >>> sorted(interval(0.1, 10, log=True))
    ['ends', 'log', 'low_unit', 'width_unit']
    """
    if not low < high or (log and low <= 0):
        raise ConfigError(f"interval({low:g}, {high:g}, log={log}) needs low < high, and low > 0 with log")
    return {LOW: tune.uniform(0.0, 1.0), WIDTH: tune.uniform(0.0, 1.0), "ends": (float(low), float(high)), "log": log}


def xmodal_trainable(job: str, config: Any, *, concurrent: int | None = None, **spec: Any) -> type["XmodalTrainable"]:
    """Return a trainable for `ray.tune.Tuner` whose trials are runs of a job of xmodal.

    Each trial is a run of its own in `config.run.runs`, named `NAME-TRIALID`, which any job of xmodal can read. The
    keys of `param_space` are fields of `config` by their dotted names; values that cannot stand together fail the
    trial with one sentence. Results hold all metrics that the run logs, with `step`, `steps`, `budget` (percent of a
    full run) and `run` (where the run is).

    Args:
        job: jobs.pretrain, jobs.adapt or jobs.classify.
        config: The configuration of that job, as its `parse` returns it. A Ray is started on this machine, or the
            cluster of `config.resources.address` joined, where there is none yet.
        concurrent: How many trials run at a time; on one machine they share its cores.
        spec: Further fields of `TrialSpec`, e.g. silent_s=3600.

    Raises:
        ConfigError: An unknown job, or the configuration of another one.
    """
    if job not in JOBS:
        raise ConfigError(f"no job {job!r} to search: {nearest(job, JOBS)}")
    kind = type(config).__module__.rpartition(".")[2]
    if kind != job.removeprefix("jobs."):
        raise ConfigError(f"this is a configuration of jobs.{kind}, not of {job}")
    checked = check_run(config, storage.absolute(config.run.runs))
    config = replace(checked, resources=connect(config.resources, concurrent).share(checked.resources))
    return trainable_class(TrialSpec(config=config, options=config.data.storage, **spec))


def trainable_class(spec: TrialSpec) -> type["XmodalTrainable"]:
    """Return a trainable whose trials are made from `spec`."""
    return type("XmodalTrial", (XmodalTrainable,), {"spec": spec})


class XmodalTrainable(tune.Trainable):
    """One trial of Tune, which is one run of xmodal; made by `xmodal_trainable`."""

    spec: ClassVar[TrialSpec]

    @classmethod
    def default_resource_request(cls, config: dict[str, Any]) -> tune.PlacementGroupFactory:
        steady = config.get("trial", {}).get("steady", False)
        needs = {STEADY: 1.0} if steady else dict(cls.spec.actor_resources)
        return tune.PlacementGroupFactory([needs], strategy="SPREAD")

    def setup(self, config: dict[str, Any]) -> None:
        self._process = TrialProcess(PRELOADED if self.spec.needs_cluster else ())
        self._config: Any = None
        self._parent: tuple[str | None, int] = (None, 0)
        self._prepare(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take another trial; a process whose run ended well is kept, and saves its imports."""
        self._process.kill_if_busy()
        self._prepare(new_config)
        return True

    def cleanup(self) -> None:
        self._process.kill()

    def halt(self) -> None:
        """End the run at once, also where Tune keeps the actor for another trial."""
        self._process.kill_if_busy()

    def step(self) -> dict[str, Any]:
        """Return the run's next report; the last one once the run has ended and its checkpoint is committed."""
        if not self._started:
            self._start()
        while True:
            for message in self._process.messages(LISTEN_S):
                kind = message["kind"]
                if kind == REPORT and (result := self._result(message)) is not None:
                    return result
                if kind == DONE:
                    return {**self._last, "done": True}
                if kind == FAILED:
                    return self._fail(message["error"], retry=message["retry"])
            if self._process.silent_s > self.spec.silent_s:
                self._process.kill()
                return self._fail(f"it said nothing for {self.spec.silent_s:g} s", retry=True)

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Write a pointer to the run's newest checkpoint; one of the step that was reported last is waited for."""
        step, every = int(self._last.get("step", 0)), self._config.checkpoints.checkpoint_every
        deadline = time.monotonic() + COMMIT_TIMEOUT_S
        while (newest := newest_committed(self._uri, step, self.spec.options)) < step and step % every == 0:
            if time.monotonic() > deadline:
                raise TrialFailed(f"{self._uri} has no checkpoint of step {step} after {COMMIT_TIMEOUT_S:g} s")
            time.sleep(0.2)
        Path(checkpoint_dir, POINTER).write_text(json.dumps({"run": self._uri, "step": newest}))

    def load_checkpoint(self, checkpoint_dir: Any) -> None:
        """Start as a copy of another trial's checkpoint; a trial's own run continues by itself."""
        pointer = json.loads(Path(checkpoint_dir, POINTER).read_text())
        if self._of_sweep or pointer["run"] == self._uri or not pointer["step"]:
            return  # a sweep has named copy and parent already
        name = f"{self._config.run.name}-from-{pointer['run'].rpartition('-')[2]}-{pointer['step']}"
        self._config = replace(self._config, run=replace(self._config.run, name=name))
        self._parent = (pointer["run"], pointer["step"])

    @property
    def _uri(self) -> str:
        return storage.join(self._config.run.runs, self._config.run.name)

    def _prepare(self, config: Mapping[str, Any]) -> None:
        """Take the values of a trial: those that a sweep has drawn, or those of Tune by dotted field."""
        base, self._of_sweep = self.spec.config, "trial" in config
        self._parent = (None, 0)
        if self._of_sweep:
            trial = config["trial"]
            values, name = {**trial["values"], "seed": trial["seed"]}, trial["name"]
            parent, step = trial["parent"]
            self._parent = (storage.join(base.run.runs, parent) if parent else None, step)
        else:
            values, name = plain_values(config), f"{base.run.name}-{self.trial_id}"
        changed = self.configure(base, values)
        self._config = replace(changed, run=RunOptions(name=name, runs=base.run.runs))
        self._last: dict[str, Any] = {}
        self._started = False

    @staticmethod
    def configure(base: Any, values: Mapping[str, Any]) -> Any:
        """Return the configuration with these values by dotted field; ConfigError for one that it does not have."""
        for path in values:
            check_path(base, path)
        return with_values(base, values)

    def _start(self) -> None:
        config, address = self._config, None
        if self.spec.needs_cluster:
            address = ray.get_runtime_context().gcs_address
            config = replace(config, resources=replace(config.resources, address=address))
        parent, step = self._parent
        self._process.start(
            Attempt(
                target=self.spec.target,
                config=config,
                address=address,
                options=self.spec.options,
                parent=parent,
                parent_step=step,
            )
        )
        self._started = True

    def _result(self, message: dict[str, Any]) -> dict[str, Any] | None:
        """Return a report as a result of Tune; None for one that Tune need not hear now."""
        step, steps = message["step"], message["steps"]
        self._last = {
            **message["metrics"], "step": step, "steps": steps, "budget": 100.0 * step / max(1, steps),
            "run": self._uri, "reported": tuple(message["metrics"]),
        }  # fmt: skip
        at_end = step >= steps  # returned when the run's last checkpoint is committed
        again = message.get("again", False) and not self._of_sweep  # Tune has heard it before the trial was restarted
        return None if at_end or again else self._last

    def _fail(self, error: str, *, retry: bool) -> dict[str, Any]:
        """Raise what another attempt may overcome. A sweep gets the rest as a result: Tune would retry that, too."""
        if retry or not self._of_sweep:
            raise TrialFailed(error)
        return {**self._last, "failed": error, "done": True}


def plain_values(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the values of a `param_space` by dotted field; those of `interval` become pairs.

    >>> plain_values({"optim": {"learning_rate": 0.1}, "seed": 3})
    {'optim.learning_rate': 0.1, 'seed': 3}
    >>> plain_values({"balance.rescale": {"low_unit": 0.0, "width_unit": 1.0, "ends": (1.0, 4.0), "log": False}})
    {'balance.rescale': (1.0, 4.0)}
    """
    values: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, Mapping) and LOW in value:
            low, high = value["ends"]
            field_range = IntervalRange(ends=NumberRange(low=low, high=high, log=value["log"]))
            units = [min(1.0, max(0.0, float(value[unit]))) for unit in (LOW, WIDTH)]  # PBT may step over an end
            values[prefix + name] = field_range.decode(units)
        elif isinstance(value, Mapping):
            values |= plain_values(value, f"{prefix}{name}.")
        else:
            values[prefix + name] = value
    return values
