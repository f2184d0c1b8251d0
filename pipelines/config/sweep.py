"""What jobs.sweep is asked: a run, which of its fields are searched, by what, and how far."""

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import tyro

from xmodal.errors import ConfigError
from xmodal.run.directory import check_name
from xmodal.search.objective import objectives, parse_guards
from xmodal.storage import StorageOptions

LEAST = {"trials": 1, "points": 1, "finalists": 0, "seeds": 1, "retries": 0, "silent_s": 1, "population": 2}
PBT = "pbt"


@dataclass(frozen=True, kw_only=True)
class Config:
    """A search over the fields of a run's configuration."""

    run: Annotated[Any, tyro.conf.Suppress] = None  # the configuration that is swept
    command: Annotated[tuple[str, ...], tyro.conf.Suppress] = ()  # what a person typed for it
    preset: str | None = None  # ranges, metric and guards by name: pretrain-default, adapt-default, mmpareto-default
    search: tuple[str, ...] = ()  # FIELD=RANGE, e.g. domain.strength=loguniform(0.01,3) balance.rescale=interval(1,4)
    metric: tuple[str, ...] = ()  # what the run logs under this name; several with --algorithm tpe
    mode: tuple[Literal["max", "min"], ...] = ("max",)  # one for all metrics, or one for each
    guard: tuple[str, ...] = ()  # rejects a trial: 'METRIC >= NUMBER' or 'METRIC >= NUMBER * baseline'
    name: str = "sweep"  # the sweep's directory in `runs`, and what --resume finds it by
    runs: str = "runs"  # URI of the directory of runs
    resume: bool = False  # go on with the sweep of this name; without it an existing one is refused
    trials: int = 24  # drawn from the space; the baseline and the finalists' repeats come on top
    algorithm: str = (
        "random"  # or grid, or a searcher of Ray Tune: tpe (pip install 'xmodal[sweep]'), hyperopt, bayesopt
    )
    points: int = 3  # of a grid, in each field; all their combinations are tried, whatever --trials says
    scheduler: Literal["fifo", "asha", "median", "pbt"] = "asha"  # fifo: every trial runs to its end
    grace: float | None = None  # share of its budget that each trial gets; None: 0.25, or until a ramp is over
    reduction: float = 3.0  # the best 1/reduction go on at each rung (asha), or are copied (pbt)
    population: int = 6  # trials of pbt, each of which lives on in copies
    intervals: int = 4  # of pbt: how often the worst take over the weights of the best
    concurrent: int | None = None  # trials at a time; None: as many as the cluster has room for
    finalists: int = 3  # best trials that are repeated with other seeds before the choice; 0: none
    seeds: int = 3  # of each finalist, its own among them
    retries: int = 1  # further attempts of a trial that fails; each goes on from its last checkpoint
    silent_s: float = 900.0  # a trial that says nothing for so long has hung: it is ended and tried again
    seed: int = 0  # of the search
    beside: str | None = None  # another sweep in `runs`, e.g. one by --algorithm random, that the page compares with
    regret: str | None = None  # sealed pairs of the target: every trial is judged there once the choice is made
    storage: Annotated[StorageOptions, tyro.conf.Suppress] = field(default_factory=StorageOptions)

    def __post_init__(self) -> None:
        for name, least in LEAST.items():
            if getattr(self, name) < least:
                raise ConfigError(f"{name}={getattr(self, name)} must be at least {least}")
        if self.concurrent is not None and self.concurrent < 1:
            raise ConfigError(f"concurrent={self.concurrent} must be at least 1")
        if self.grace is not None and not 0 < self.grace < 1:
            raise ConfigError(f"grace={self.grace} must lie in (0, 1): a share of each trial's budget")
        if not 1 < self.reduction < 100:
            raise ConfigError(f"reduction={self.reduction} must be above 1: at 3 the best third goes on")
        if self.intervals < 2:
            raise ConfigError(f"intervals={self.intervals} must be at least 2: with one nobody is ever copied")
        check_name(self.name)
        if self.metric:
            objectives(self.metric, self.mode)
        if len(self.metric) > 1 and (self.scheduler != "fifo" or self.algorithm == "grid"):
            raise ConfigError(
                f"{len(self.metric)} metrics with --scheduler {self.scheduler}: which of two is ahead has no answer "
                "while they run; add --scheduler fifo and --algorithm tpe"
            )
        parse_guards(self.guard)
