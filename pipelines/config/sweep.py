"""Configuration of jobs.sweep: a run, which of its fields are searched, by which algorithm, and for how long."""

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import tyro

from pipelines.config.run import RunOptions
from xmodal.errors import ConfigError
from xmodal.run.directory import check_run_name
from xmodal.search.objective import objectives, parse_guards
from xmodal.storage import StorageOptions

MINIMUMS = {"trials": 1, "points": 1, "finalists": 0, "seeds": 1, "retries": 0, "silent_s": 1, "population": 2}
POPULATION_BASED = ("pbt", "pb2")


@dataclass(frozen=True, kw_only=True)
class SweepConfig:
    """A search over fields of a run's configuration."""

    run: Annotated[Any, tyro.conf.Suppress] = None
    """the configuration of the run that is swept"""
    command: Annotated[tuple[str, ...], tyro.conf.Suppress] = ()
    """the words with which that run was asked for"""
    preset: str | None = None  # ranges, metric and guards by name: pretrain-default, adapt-default or mmpareto-default
    search: tuple[str, ...] = ()
    """fields that are searched, as FIELD=RANGE, e.g. domain.strength=loguniform(0.01,3)
    balance.rescale=interval(1,4)"""
    metric: tuple[str, ...] = ()  # metrics of the run's log that are optimised; several with --algorithm tpe
    mode: tuple[Literal["max", "min"], ...] = ("max",)
    """whether a metric is maximised or minimised: one for all metrics, or one for each"""
    guard: tuple[str, ...] = ()
    """conditions that a trial must meet, e.g. 'METRIC >= NUMBER' or 'METRIC >= NUMBER *
    baseline'"""
    sweep: RunOptions = field(default_factory=lambda: RunOptions(name="sweep"))
    trials: int = 24
    """number of points that are drawn from the space; the baseline and the repeats of
    finalists come on top"""
    algorithm: str = "random"
    """how points are drawn: random, grid, or by a searcher of Ray Tune: tpe, cmaes or nsga2 (Optuna; pip install
    'xmodal[sweep]'), hyperopt or bayesopt"""
    algorithm_options: tuple[str, ...] = ()
    """options of that searcher as NAME=VALUE, e.g. n_startup_trials=20"""
    points: int = 3  # number of grid points in each field; all combinations are tried, whatever --trials says
    scheduler: Literal["fifo", "asha", "median", "pbt", "pb2"] = "asha"
    """how Ray Tune stops trials early: asha, median, pbt and pb2 (population based training), or fifo,
    which runs all to the end"""
    scheduler_options: tuple[str, ...] = ()
    """options of that scheduler as NAME=VALUE, e.g. brackets=2"""
    grace: float | None = None
    """share of its budget that every trial gets before it may be stopped; None: 0.25, or until
    a strength has ramped up"""
    reduction: float = 3.0  # at each rung the best 1/reduction of the trials continue (asha) or are copied (pbt)
    population: int = 6  # number of trials of pbt that exist at a time
    intervals: int = 4
    """number of intervals of pbt, after each of which the worst trials take over the weights
    of the best"""
    concurrent: int | None = None  # number of trials at a time; None: as many as the cluster has room for
    finalists: int = 3  # number of best trials that are repeated with other seeds before the choice; 0: none
    seeds: int = 3  # number of seeds of each finalist, its first one included
    retries: int = 1  # number of further attempts of a trial that fails; each continues from its last checkpoint
    silent_s: float = 900.0
    """seconds without a sign of life after which a trial counts as hung, is ended and tried
    again"""
    seed: int = 0  # seed of the search
    beside: str | None = None
    """name of another sweep in --runs that the page compares this one with, e.g. one with
    --algorithm random"""
    regret: str | None = None
    """corpus of pairs of the target on which every trial is evaluated after the choice; None:
    no such evaluation"""
    storage: Annotated[StorageOptions, tyro.conf.Suppress] = field(default_factory=StorageOptions)

    def __post_init__(self) -> None:
        for name, minimum in MINIMUMS.items():
            if getattr(self, name) < minimum:
                raise ConfigError(f"{name}={getattr(self, name)} must be at least {minimum}")
        if self.concurrent is not None and self.concurrent < 1:
            raise ConfigError(f"concurrent={self.concurrent} must be at least 1")
        if self.grace is not None and not 0 < self.grace < 1:
            raise ConfigError(f"grace={self.grace} must lie in (0, 1): a share of each trial's budget")
        if not 1 < self.reduction < 100:
            raise ConfigError(f"reduction={self.reduction} must be above 1: at 3 the best third goes on")
        if self.intervals < 2:
            raise ConfigError(f"intervals={self.intervals} must be at least 2: with one, no trial is ever copied")
        check_run_name(self.sweep.name)
        if self.metric:
            objectives(self.metric, self.mode)
        if len(self.metric) > 1 and (self.scheduler != "fifo" or self.algorithm == "grid"):
            raise ConfigError(
                f"{len(self.metric)} metrics with --scheduler {self.scheduler}: trials with several metrics cannot be "
                "ranked while they run; add --scheduler fifo and --algorithm tpe"
            )
        parse_guards(self.guard)
