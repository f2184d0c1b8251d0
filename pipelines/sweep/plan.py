"""Plan a sweep before it does anything: its space, its metric, its trials and the room for them."""

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from pipelines.config.sweep import POPULATION_BASED, SweepConfig
from pipelines.runtime.output_path import check_output
from pipelines.sweep.clone import check_may_differ
from pipelines.sweep.cluster import check_run, connect, index_corpora, steady_units
from pipelines.sweep.options import parse_options
from pipelines.sweep.presets import baseline_of, with_preset
from pipelines.sweep.scheduler_classes import check_scheduler
from pipelines.sweep.searchers import check_algorithm, grid_size, unit_axes
from pipelines.sweep.trainable import STAGE, TrialSpec
from pipelines.sweep.trial_store import TRIALS, read_sweep
from xmodal import storage
from xmodal.data.stream.block_cache import AUTO
from xmodal.errors import ConfigError
from xmodal.search.config_fields import paths, value_at, with_values
from xmodal.search.objective import Guard, SearchObjective, objectives, parse_guards
from xmodal.search.ranges import Units
from xmodal.search.rungs import Rungs, grace_of_ramp
from xmodal.search.space import SearchSpace, parse_space
from xmodal.search.trial import BASELINE, CLONE, SEARCH, WAITING, Trial

GRACE = 0.25  # of the budget, where nothing ramps up


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All that is decided before the first trial. `run` is the configuration that trials change, with absolute paths.

    `make(values, seed)` returns the configuration of a trial, or raises ConfigError where values cannot stand together.
    """

    config: SweepConfig
    run: Any
    space: SearchSpace
    by: tuple[SearchObjective, ...]
    guards: tuple[Guard, ...]
    baseline: Mapping[str, Any]
    rungs: Rungs
    make: Callable[[Mapping[str, Any], int], Any]
    base_seed: int
    target: str  # MODULE:FUNCTION that a trial's process calls
    algorithm_options: Mapping[str, Any] = field(default_factory=dict)
    scheduler_options: Mapping[str, Any] = field(default_factory=dict)
    address: str | None = None  # of the cluster; None: the trials need none
    concurrent: int = 1  # trials at a time when the sweep begins
    count_room: Callable[[], int] = lambda: 1  # trials at a time, as the cluster is now
    count_steady: Callable[[], int] = lambda: 0  # actors of trials that nodes which are not preempted take

    @property
    def population_based(self) -> bool:
        return self.config.scheduler in POPULATION_BASED

    @property
    def draw_count(self) -> int:
        """Return the number of trials that are drawn from the space."""
        if self.population_based:
            return self.config.population
        return grid_size(self.space, self.config.points) if self.config.algorithm == "grid" else self.config.trials

    @property
    def finalists(self) -> int:
        """Return the number of best trials that are repeated; several metrics leave no order of them."""
        return 0 if self.population_based or len(self.by) > 1 else self.config.finalists

    @property
    def trial_count(self) -> int:
        """Return the number of trials in all: with the baseline, and the repeats of finalists."""
        repeats = 0 if self.finalists == 0 else (min(self.finalists, self.draw_count) + 1) * (self.config.seeds - 1)
        return 1 + self.draw_count + repeats

    @property
    def spec(self) -> TrialSpec:
        """Return what all trials have in common, for their actors."""
        runs = storage.join(self.config.sweep.runs, self.config.sweep.name, TRIALS)
        return TrialSpec(
            config=replace(self.run, run=replace(self.run.run, runs=runs, resume=False)),
            target=self.target,
            needs_cluster=self.address is not None,
            silent_s=self.config.silent_s,
            options=self.config.storage,
        )

    def trial_config(self, trial: Trial, *, steady: bool = False) -> dict[str, Any]:
        """Return what Tune hands to the actor of a trial, on a `steady` node or any.

        `units` is what population based training changes; a copy starts from `parent` (name, step).
        """
        units = trial.units or ()
        parent = f"trial-{trial.parent:03d}" if trial.kind == CLONE and trial.parent is not None else None
        return {
            "number": trial.number, "name": trial.name, "values": dict(trial.values), "seed": trial.seed,
            "units": {str(axis): float(unit) for axis, unit in enumerate(units)},
            "parent": (parent, trial.parent_step), "steady": steady,
        }  # fmt: skip

    def baseline_trial(self) -> Trial:
        """Return the trial without the method, before all others."""
        units = self.space.encode(self.baseline)
        return Trial(number=-1, kind=BASELINE, values=self.baseline, units=units, seed=self.base_seed)

    def search_trial(
        self, values: Mapping[str, Any], units: Units | None, *, status: str = WAITING, why: str = ""
    ) -> Trial:
        """Return the trial of a point of the space, without a number."""
        return Trial(
            number=-1, kind=SEARCH, values=values, units=units, seed=self.base_seed, status=status, why=why
        )  # fmt: skip

    @property
    def mutations(self) -> dict[str, Any]:
        """Return what population based training may change, as Tune wants it."""
        return {"trial": {"units": unit_axes(self.space)}}

    @property
    def bounds(self) -> dict[str, Any]:
        """Return what PB2 may change, as Tune wants it."""
        return {"trial": {"units": {str(axis): [0.0, 1.0] for axis in range(self.space.size)}}}

    def explore(self, config: dict[str, Any]) -> dict[str, Any]:
        """Bring a copy's units back into the unit cube, as if its walls were mirrors.

        Tune multiplies each by 0.8 or 1.2. Where the values of the new point cannot stand together, the copy keeps
        those of the trial that it copies.
        """
        trial = config["trial"]
        mirrored = {axis: 1.0 - abs(1.0 - abs(float(unit)) % 2.0) for axis, unit in trial["units"].items()}
        values = self.space.decode([mirrored[str(axis)] for axis in range(self.space.size)])
        try:
            self.make(values, trial["seed"])
        except ConfigError:
            kept = self.space.encode(trial["values"]) or ()
            mirrored = {str(axis): unit for axis, unit in enumerate(kept)}
        return {**config, "trial": {**trial, "units": mirrored}}


def outline(config: SweepConfig) -> Plan:
    """Plan a sweep but for the cluster; ConfigError for what is wrong in its ranges, metric, guards or fields."""
    check_output(config.sweep.runs, "--runs")
    config = with_preset(replace(config, sweep=replace(config.sweep, runs=storage.absolute(config.sweep.runs))))
    if not config.search:
        raise ConfigError("nothing to search: give --search FIELD=RANGE ..., or a --preset")
    if config.beside:
        read_sweep(config.sweep.runs, config.beside, config.storage)
    by = objectives(config.metric, config.mode)
    space = parse_space(config.search, config.run)
    algorithm_options = parse_options("--algorithm-options", config.algorithm_options)
    scheduler_options = parse_options("--scheduler-options", config.scheduler_options)
    check_algorithm(config.algorithm, algorithm_options, len(by))
    check_scheduler(config.scheduler, scheduler_options)
    run = _for_copies(config, space) if config.scheduler in POPULATION_BASED else config.run
    plan = Plan(
        config=config, run=run, space=space, by=by, guards=parse_guards(config.guard),
        baseline=baseline_of(run, space),
        rungs=Rungs(grace=config.grace or _grace(run, space), reduction=config.reduction),
        make=_maker(run), base_seed=run.seed, target=getattr(run, "TARGET", STAGE),
        algorithm_options=algorithm_options, scheduler_options=scheduler_options,
    )  # fmt: skip
    plan.make(plan.baseline, run.seed)
    concurrent = config.concurrent or (os.cpu_count() or 1)
    return replace(plan, concurrent=concurrent, count_room=lambda: concurrent)


def prepare(config: SweepConfig, on_event: Callable[[Any], None]) -> Plan:
    """Plan a sweep with its cluster, where the run needs one: corpora are indexed once, for all trials."""
    plan = outline(config)
    if plan.target != STAGE:
        if hasattr(plan.config.run, "prepare"):
            plan.config.run.prepare()
        return plan
    plan = outline(replace(plan.config, run=check_run(plan.config.run, plan.config.sweep.runs)))
    room = connect(plan.run.resources, plan.config.concurrent)
    index_corpora(plan.run, on_event)
    resources = replace(room.share(plan.run.resources), address=room.address)
    data = replace(plan.run.data, cache=plan.run.data.cache or AUTO)  # equal rows are decoded once for all trials
    return replace(
        plan, run=replace(plan.run, resources=resources, data=data), address=room.address, concurrent=room.count(),
        count_room=room.count, count_steady=steady_units,
    )  # fmt: skip


def _maker(run: Any) -> Callable[[Mapping[str, Any], int], Any]:
    def make(values: Mapping[str, Any], seed: int) -> Any:
        return with_values(run, {**values, "seed": seed})

    return make


def _grace(run: Any, space: SearchSpace) -> float:
    """Return the share of the budget until a strength that ramps up has come near its peak.

    Before, small ones are ahead because they do less.
    """
    known = set(paths(run))
    if hasattr(run, "GRACE"):
        return run.GRACE
    if not {"domain.schedule", "domain.gamma"} <= known or value_at(run, "domain.loss") == "none":
        return GRACE
    if "domain.schedule" not in space.ranges and value_at(run, "domain.schedule") != "ramp":
        return GRACE
    swept = space.ranges.get("domain.gamma")
    gamma = min(swept.grid(2)) if swept else value_at(run, "domain.gamma")
    return max(GRACE, grace_of_ramp(gamma))


def _for_copies(config: SweepConfig, space: SearchSpace) -> Any:
    """Return the run with a checkpoint and metrics at each boundary; ConfigError for what cannot be copied."""
    check_may_differ(space.ranges)
    run, steps = config.run, value_at(config.run, "optim.steps")
    if steps is None:
        raise ConfigError(f"--scheduler {config.scheduler} needs the run's --steps: copies are made at shares of them")
    if steps % config.intervals:
        raise ConfigError(
            f"--scheduler {config.scheduler}: steps={steps} must be a multiple of intervals={config.intervals}"
        )
    every = steps // config.intervals
    logging = replace(run.logging, log_every=math.gcd(run.logging.log_every, every))
    keep = max(run.checkpoints.keep, config.intervals + 1)
    checkpoints = replace(run.checkpoints, checkpoint_every=every, keep=keep)
    measured = {}
    for name in ("validation", "target_validation"):
        part: Any = getattr(run, name, None)
        if part is not None and part.corpus is not None:
            measured[name] = replace(part, every=math.gcd(part.every, every))
    return replace(run, logging=logging, checkpoints=checkpoints, **measured)
