"""Train the arms of an experiment on public data, each with several seeds, and make a page of what came out.

    python -m jobs.reproduce cg-mnist
    python -m jobs.reproduce grid-letter --arms uniform uniform-gamma mmpareto --seeds 0 1 2
    python -m jobs.reproduce cg-mnist --rows 55000 --epochs 10 --to s3://bucket/cg-mnist

Results lie in TO/results.json as soon as a trial ends, and the same command goes on where it stopped; TO/index.html
shows table, pictures, and whether the predictions held. The data lie where XMODAL_BENCH_DATA says, else beside the
repository.
"""

import sys
from dataclasses import asdict, dataclass, replace
from typing import Any

import tyro

from jobs import arguments, console
from jobs.reproduce import catalogue
from jobs.reproduce.catalogue import Name
from xmodal.errors import ConfigError

SETTINGS = ("rows", "epochs", "steps", "batch_size", "sgd_rate", "adamw_rate")


@dataclass(frozen=True, kw_only=True)
class Config:
    """Which experiment, how much of it, and where its results go. None: what the experiment was set up with."""

    name: tyro.conf.Positional[Name]  # of the experiment
    arms: tuple[str, ...] = ()  # empty: all; a wrong name lists them
    seeds: tuple[int, ...] = ()  # of weights and order, the data stay the same; empty: 0 to 4 for cg-mnist, else 0 to 2
    rows: int | None = None  # trained on
    epochs: int | None = None  # passes over them, where an experiment counts epochs
    steps: int | None = None  # where it counts steps: the experiments on adaptation
    batch_size: int | None = None  # rows in a step
    sgd_rate: float | None = None  # learning rate of the arms that train by SGD
    adamw_rate: float | None = None  # and of those that train by AdamW
    processes: int = 2  # trials at once, one thread each; 1: in this process
    to: str | None = None  # None: runs/reproduce/NAME

    def __post_init__(self) -> None:
        for field in (*SETTINGS, "processes"):
            value = getattr(self, field)
            if value is not None and not value > 0:
                raise ConfigError(f"{field}={value} must be above 0")
        if len(set(self.seeds)) < len(self.seeds) or min(self.seeds, default=0) < 0:
            raise ConfigError(f"seeds={list(self.seeds)}: give numbers from 0, each once")

    @property
    def place(self) -> str:
        return self.to or f"runs/reproduce/{self.name}"

    def settings(self) -> Any:
        """The experiment's own with what was asked for set over them; ConfigError for what it does not have."""
        own = catalogue.experiment(self.name).settings
        asked = {name: value for name in SETTINGS if (value := getattr(self, name)) is not None}
        there = [name for name in SETTINGS if getattr(own, name, None) is not None]
        for name in asked:
            if not hasattr(own, name) or (name.endswith("_rate") and name not in there):
                raise ConfigError(f"{self.name} has no {name}; it has {', '.join(there)}")
        return replace(own, **asked)


def run(config: Config) -> None:
    """Every trial that is not there yet, then the page."""
    from jobs.reproduce import results_file
    from jobs.reproduce.trial_processes import ended
    from xmodal import storage

    experiment, to, settings = catalogue.experiment(config.name), config.place, asdict(config.settings())
    storage.check(to, writable=True)
    done = results_file.known(to, settings)
    asked = _asked(config)
    missing = results_file.missing(asked, done)
    if missing:
        experiment.prepare(config.name, config.settings(), to)
    if len(missing) < len(asked):
        print(f"{to}: {len(done)} trials are there, {len(missing)} to go")
    trials = ended(config.name, config.settings(), config.place, missing, config.processes)
    for number, (arm, seed, found) in enumerate(trials, 1):
        done[results_file.key(arm, seed)] = found
        results_file.store(to, config.name, settings, done)
        told = f"{experiment.headline(found)} in {found['seconds']:.0f} s"
        print(f"[{number}/{len(missing)}] {arm}, seed {seed}: {told}", flush=True)
    _page(config, done)


def preview(config: Config) -> dict[str, Any]:
    """What would be trained, how, and how much of it is there."""
    from jobs.reproduce import results_file

    settings = asdict(config.settings())
    done, asked = results_file.known(config.place, settings), _asked(config)
    return {
        "experiment": config.name,
        "to": config.place,
        "settings": settings,
        "arms": [*dict.fromkeys(arm for arm, _ in asked)],
        "seeds": [*dict.fromkeys(seed for _, seed in asked)],
        "trials": len(asked),
        "missing": len(results_file.missing(asked, done)),
        "processes": config.processes,
    }


def _asked(config: Config) -> list[tuple[str, int]]:
    """Arms and seeds, all arms of a seed before the next."""
    from jobs.reproduce.arms import chosen

    experiment = catalogue.experiment(config.name)
    arms = chosen(config.arms, experiment.arms)
    return [(arm, seed) for seed in config.seeds or experiment.seeds for arm in arms]


def _page(config: Config, done: dict[str, Any]) -> None:
    from xmodal import storage
    from xmodal.report.experiment_page import render

    trials: dict[str, list[Any]] = {}
    for found in done.values():
        trials.setdefault(found["arm"], []).append(found)
    made = catalogue.experiment(config.name).page(config.settings(), trials)
    where = storage.join(config.place, "index.html")
    storage.write(where, render(made).encode())
    print(f"page  {where}")


def parse(words: list[str]) -> arguments.Start[Config]:
    text = f"{__doc__}\nExperiments:\n\n{catalogue.listing()}\n"
    return arguments.parse_start(Config, words, program="python -m jobs.reproduce", text=text)


def main() -> None:
    console.main(lambda: arguments.begin(parse(sys.argv[1:]), run, preview))


if __name__ == "__main__":
    main()
