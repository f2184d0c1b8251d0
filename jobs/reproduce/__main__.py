"""Train the arms of an experiment on public data, each with several seeds, and write a page of the results.

    python -m jobs.reproduce cg-mnist --list-data
    python -m jobs.reproduce cg-mnist --data /data
    python -m jobs.reproduce grid-letter --arms uniform uniform-gamma mmpareto --seeds 0 1 2
    python -m jobs.reproduce cg-mnist --rows 55000 --epochs 10 --to s3://bucket/cg-mnist

Every finished trial is written to TO/results.json at once, and the same command continues an interrupted run.
TO/index.html shows tables, charts, and whether the predictions held. The data are read from --data FOLDER, else from
the folder that XMODAL_BENCH_DATA names, else from a folder `shared/data` beside the checkout. All files are compared
with their known SHA-256 before anything is trained.
"""

import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any

import tyro

from jobs import arguments, console
from jobs.bench.real_data import data_folder, describe_data, file_states, require_data
from jobs.reproduce import catalogue
from jobs.reproduce.catalogue import ExperimentName
from xmodal.errors import ConfigError

SETTINGS = ("rows", "epochs", "steps", "batch_size", "sgd_rate", "adamw_rate")


@dataclass(frozen=True, kw_only=True)
class ReproduceConfig:
    """Which experiment to run, how much of it, on which data, and where its results go."""

    name: tyro.conf.Positional[ExperimentName]  # the experiment to run
    arms: tuple[str, ...] = ()  # arms to train; empty: all of them
    seeds: tuple[int, ...] = ()  # seeds of weights and order; empty: those of the experiment, 0 to 2 or 0 to 4
    rows: int | None = None  # rows to train on; None: as many as the experiment is set up with, here and below
    epochs: int | None = None  # passes over the rows, for experiments that count epochs
    steps: int | None = None  # training steps, for the experiments on adaptation, which count steps
    batch_size: int | None = None  # rows of a step
    sgd_rate: float | None = None  # learning rate of the arms that train by SGD
    adamw_rate: float | None = None  # learning rate of the arms that train by AdamW
    processes: int = 2  # trials that run at once, one thread each; 1: in this process
    to: str | None = None  # directory of the results; None: runs/reproduce/NAME
    data: str | None = None
    """folder of the public data sets; None: XMODAL_BENCH_DATA, else a folder shared/data beside the checkout"""
    allow_other_data: bool = False  # train on files with other checksums too; give these results a --to of their own
    list_data: bool = False  # print the files that the experiment needs, with sources and licences, and train nothing

    def __post_init__(self) -> None:
        for field in (*SETTINGS, "processes"):
            value = getattr(self, field)
            if value is not None and not value > 0:
                raise ConfigError(f"{field}={value} must be above 0")
        if len(set(self.seeds)) < len(self.seeds) or min(self.seeds, default=0) < 0:
            raise ConfigError(f"seeds={list(self.seeds)}: give numbers from 0, each once")

    @property
    def directory(self) -> str:
        return self.to or f"runs/reproduce/{self.name}"

    @property
    def needs(self) -> tuple[str, ...]:
        return catalogue.ENTRIES[self.name].needs

    def settings(self) -> Any:
        """Return the experiment's settings with those of the command line; ConfigError for one that it lacks."""
        defaults = catalogue.load_experiment(self.name).settings
        overrides = {name: value for name in SETTINGS if (value := getattr(self, name)) is not None}
        available = [name for name in SETTINGS if getattr(defaults, name, None) is not None]
        for name in overrides:
            if not hasattr(defaults, name) or (name.endswith("_rate") and name not in available):
                raise ConfigError(f"{self.name} has no {name}; it has {', '.join(available)}")
        return replace(defaults, **overrides)

    def trials(self) -> list[tuple[str, int]]:
        """Return arms and seeds, all arms of a seed before the next."""
        from jobs.reproduce.arms import arms_by_name

        experiment = catalogue.load_experiment(self.name)
        arms = arms_by_name(self.arms, experiment.arms)
        return [(arm, seed) for seed in self.seeds or experiment.seeds for arm in arms]


def run(config: ReproduceConfig) -> None:
    """Train every trial that has no result yet, then write the page; with `list_data` only print the data needed."""
    if config.list_data:
        print(describe_data(config.name, config.needs, config.data))
        return
    from jobs.reproduce import results_file
    from xmodal import storage

    to, settings = config.directory, asdict(config.settings())
    storage.check(to, writable=True)
    results = results_file.read_results(to, settings)
    trials = config.trials()
    missing = results_file.missing_trials(trials, results)
    if len(missing) < len(trials):
        print(f"{to}: {len(results)} trials are there, {len(missing)} to go")
    for arm, seed, result in _train(config, missing):
        results[results_file.trial_key(arm, seed)] = result
        results_file.write_results(to, config.name, settings, results)
    _write_page(config, results.values())


def preview(config: ReproduceConfig) -> dict[str, object]:
    """Return what would be trained and how, how many trials are missing, and the state of the data files."""
    from jobs.reproduce import results_file

    settings, trials = asdict(config.settings()), config.trials()
    results = results_file.read_results(config.directory, settings)
    folder = data_folder(config.data)
    return {
        "experiment": config.name,
        "to": config.directory,
        "settings": settings,
        "arms": [*dict.fromkeys(arm for arm, _ in trials)],
        "seeds": [*dict.fromkeys(seed for _, seed in trials)],
        "trials": len(trials),
        "missing": len(results_file.missing_trials(trials, results)),
        "processes": config.processes,
        "data": {"folder": str(folder), "files": file_states(folder, config.needs)},
    }


def _train(config: ReproduceConfig, missing: list[tuple[str, int]]) -> Iterable[tuple[str, int, dict[str, Any]]]:
    """Yield arm, seed and result of the missing trials as they end, and announce each."""
    if not missing:
        return
    from jobs.reproduce.runner import runner_of
    from jobs.reproduce.trial_processes import run_trials

    folder = require_data(config.name, config.needs, config.data, allow_other=config.allow_other_data)
    runner = runner_of(config.name, folder)
    runner.prepare(config.settings(), config.directory)
    ended = run_trials(config.name, config.settings(), config.directory, folder, missing, config.processes)
    for number, (arm, seed, result) in enumerate(ended, 1):
        yield arm, seed, result
        outcome = f"{runner.headline(result)} in {result['seconds']:.0f} s"
        print(f"[{number}/{len(missing)}] {arm}, seed {seed}: {outcome}", flush=True)


def _write_page(config: ReproduceConfig, results: Iterable[Any]) -> None:
    from jobs.reproduce.runner import runner_of
    from xmodal import storage
    from xmodal.report.experiment_page import render_experiment

    trials: dict[str, list[Any]] = {}
    for result in results:
        trials.setdefault(result["arm"], []).append(result)
    page = runner_of(config.name, data_folder(config.data)).build_page(config.settings(), trials)
    uri = storage.join(config.directory, "index.html")
    storage.write(uri, render_experiment(page).encode())
    print(f"page  {uri}")


def parse(words: list[str]) -> arguments.JobRequest[ReproduceConfig]:
    text = f"{__doc__}\nExperiments:\n\n{catalogue.list_experiments()}\n"
    return arguments.parse_request(ReproduceConfig, words, program="python -m jobs.reproduce", text=text)


def main() -> None:
    console.main(lambda: arguments.run_or_preview(parse(sys.argv[1:]), run, preview))


if __name__ == "__main__":
    main()
