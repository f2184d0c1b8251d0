"""What a sweep will do, before it does anything: its configuration in; space, metric, room for trials out."""

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from pipelines.config.sweep import PBT, SweepConfig
from pipelines.runtime.output_path import check_output
from pipelines.sweep.clone import check_may_differ
from pipelines.sweep.presets import baseline_of, with_preset
from pipelines.sweep.searchers import check_algorithm
from pipelines.sweep.strategy import Strategy
from pipelines.sweep.trial_store import read_sweep
from xmodal import storage
from xmodal.data.stream.block_cache import AUTO
from xmodal.errors import ConfigError
from xmodal.search.config_fields import paths, value_at, with_values
from xmodal.search.objective import SearchObjective, objectives, parse_guards
from xmodal.search.rungs import Rungs, grace_of_ramp
from xmodal.search.space import SearchSpace, parse_space
from xmodal.search.trial import Trial

PIPELINE = "pipelines.sweep.trial:carry_out"
GRACE = 0.25  # of the budget, where nothing ramps up


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All that is decided before the first trial. `config.run` holds places by absolute paths."""

    config: SweepConfig
    space: SearchSpace
    by: tuple[SearchObjective, ...]
    strategy: Strategy
    target: str  # MODULE:FUNCTION that a trial's process calls
    address: str | None
    concurrent: int
    share: Mapping[str, float]  # of the cluster, for each train worker of a trial

    def config_of(self, trial: Trial, runs: str) -> Any:
        """The configuration of a trial's run."""
        made = self.strategy.make(trial.values, trial.seed)
        found = replace(made, run=replace(made.run, name=trial.name, runs=runs))
        if self.address is None:
            return found
        per = {"cpus_per_worker": self.share.get("CPU"), "gpus_per_worker": self.share.get("GPU", 0.0)}
        data = replace(found.data, cache=found.data.cache or AUTO)  # equal rows are decoded once for all trials
        return replace(found, data=data, resources=replace(found.resources, address=self.address, **per))


def outline(config: SweepConfig) -> Plan:
    """The plan but for the cluster; ConfigError for everything that ranges, metric, guards or fields are wrong in."""
    check_output(config.sweep.runs, "--runs")
    config = with_preset(replace(config, sweep=replace(config.sweep, runs=storage.absolute(config.sweep.runs))))
    if not config.search:
        raise ConfigError("nothing to search: give --search FIELD=RANGE ..., or a --preset")
    if config.beside:
        read_sweep(config.sweep.runs, config.beside, config.storage)
    by = objectives(config.metric, config.mode)
    space = parse_space(config.search, config.run)
    check_algorithm(config.algorithm, len(by))
    run = _for_copies(config, space) if config.scheduler == PBT else config.run
    strategy = Strategy(
        config=config,
        space=space,
        by=by,
        guards=parse_guards(config.guard),
        baseline=baseline_of(run, space),
        rungs=Rungs(grace=config.grace or _grace(run, space), reduction=config.reduction),
        make=_maker(run),
        base_seed=run.seed,
    )
    strategy.make(strategy.baseline, run.seed)
    target = getattr(run, "TARGET", PIPELINE)
    return Plan(
        config=config, space=space, by=by, strategy=strategy, target=target, address=None,
        concurrent=config.concurrent or (os.cpu_count() or 1), share={},
    )  # fmt: skip


def prepare(config: SweepConfig, on_news: Callable[[Any], None]) -> Plan:
    """The plan with a cluster, where the run needs one: corpora are indexed once, for all trials."""
    plan = outline(config)
    if plan.target != PIPELINE:
        if hasattr(plan.config.run, "prepare"):
            plan.config.run.prepare()
        return plan
    from pipelines.sweep.cluster import checked, connect, index

    run = checked(plan.config.run, plan.config.sweep.runs)
    plan = outline(replace(plan.config, run=run))
    address, concurrent, share = connect(run.resources, plan.config.concurrent)
    index(run, on_news)
    return replace(plan, address=address, concurrent=concurrent, share=share)


def _maker(run: Any) -> Callable[[Mapping[str, Any], int], Any]:
    def make(values: Mapping[str, Any], seed: int) -> Any:
        return with_values(run, {**values, "seed": seed})

    return make


def _grace(run: Any, space: SearchSpace) -> float:
    """Until a strength that ramps up has come near its peak: before, small ones are ahead because they do less."""
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
    """The run with checkpoints and figures at each boundary; ConfigError for what cannot be copied."""
    check_may_differ(space.ranges)
    run, steps = config.run, value_at(config.run, "optim.steps")
    if steps is None:
        raise ConfigError("--scheduler pbt needs the run's --steps: copies are made at shares of them")
    if steps % config.intervals:
        raise ConfigError(f"--scheduler pbt: steps={steps} must be a multiple of intervals={config.intervals}")
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
