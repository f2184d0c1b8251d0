"""Train the arms of an experiment on public data, each with several seeds, and make a page of what came out.

    python -m jobs.reproduce cg-mnist
    python -m jobs.reproduce cg-mnist --arms uniform uniform-gamma mmpareto --seeds 0 1 2
    python -m jobs.reproduce cg-mnist --rows 55000 --epochs 10 --to s3://bucket/cg-mnist

Results lie in TO/results.json as soon as a trial ends, and the same command goes on where it stopped; TO/index.html
shows table, pictures, and whether the predictions held. The data (`digits/`) lie where XMODAL_BENCH_DATA says.
"""

import functools
import json
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any, Literal

import tyro

from jobs import arguments, console
from xmodal.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Config:
    """Which experiment, how much of it, and where its results go."""

    name: tyro.conf.Positional[Literal["cg-mnist"]]  # of the experiment
    arms: tuple[str, ...] = ()  # empty: all; a wrong name lists them
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)  # of weights and order; the data stay the same
    rows: int = 20_000  # digits trained on
    epochs: int = 5  # passes over them
    batch_size: int = 64  # digits in a step
    processes: int = 2  # trials at once, one thread each; 1: in this process
    to: str | None = None  # None: runs/reproduce/NAME

    def __post_init__(self) -> None:
        for field in ("epochs", "batch_size", "processes"):
            if getattr(self, field) < 1:
                raise ConfigError(f"{field}={getattr(self, field)} must be at least 1")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0:
            raise ConfigError(f"seeds={list(self.seeds)}: give numbers from 0, each once")

    @property
    def settings(self) -> dict[str, Any]:
        """What the results of two runs must share to stand in one table."""
        return {"rows": self.rows, "epochs": self.epochs, "batch_size": self.batch_size}


def run(config: Config) -> None:
    """Every trial that is not there yet, then the page."""
    from jobs.reproduce.arms import chosen
    from xmodal import storage

    to = config.to or f"runs/reproduce/{config.name}"
    arms = chosen(config.arms)
    storage.check(to, writable=True)
    done = _known(to, config)
    missing = [(arm, seed) for seed in config.seeds for arm in arms if f"{arm}/{seed}" not in done]
    if missing:
        _data(config.rows)  # refuses what is not there before a process starts
    if len(missing) < len(arms) * len(config.seeds):
        print(f"{to}: {len(done)} trials are there, {len(missing)} to go")
    for number, (arm, seed, found) in enumerate(_trials(config, missing), 1):
        done[f"{arm}/{seed}"] = found
        _store(to, config, done)
        both = found["test"]["multimodal"]
        print(f"[{number}/{len(missing)}] {arm}, seed {seed}: test {both:.1%} in {found['seconds']:.0f} s", flush=True)
    _page(to, config, done)


def _trials(config: Config, missing: list[tuple[str, int]]) -> Iterator[tuple[str, int, dict[str, Any]]]:
    """As they end; the next ones wait for a free process."""
    if config.processes == 1 or not missing:
        yield from ((arm, seed, one(config, arm, seed)) for arm, seed in missing)
        return
    with ProcessPoolExecutor(config.processes, mp_context=get_context("spawn")) as pool:
        pending = {pool.submit(one, config, arm, seed): (arm, seed) for arm, seed in missing}
        try:
            for ended in as_completed(pending):
                yield *pending[ended], ended.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def one(config: Config, arm: str, seed: int) -> dict[str, Any]:
    """One trial, in a process of its own."""
    from jobs.reproduce import cg_mnist
    from jobs.reproduce.arms import ARMS
    from jobs.reproduce.trial import trial

    model = cg_mnist.model(seed)
    found = trial(ARMS[arm], seed, _data(config.rows), model, epochs=config.epochs, batch_size=config.batch_size)
    return {"arm": arm, "seed": seed, **found}


@functools.cache
def _data(rows: int) -> Any:
    """Read once in each process."""
    from jobs.bench.material import material
    from jobs.reproduce import cg_mnist

    return cg_mnist.load(material({"digits/mnist_*.parquet": "columns image and label"}), rows)


def _known(to: str, config: Config) -> dict[str, Any]:
    from xmodal import storage

    try:
        stored = json.loads(storage.read(storage.join(to, "results.json")))
    except storage.NotFound:
        return {}
    if stored["settings"] != config.settings:
        raise ConfigError(f"{to} holds results of {stored['settings']}: repeat these, or give another folder with --to")
    return stored["trials"]


def _store(to: str, config: Config, done: dict[str, Any]) -> None:
    from jobs.bench.provenance import commit, hardware, versions
    from xmodal import storage

    made = {"commit": commit(), "hardware": hardware(), "versions": versions()}
    record = {"experiment": config.name, "settings": config.settings, **made, "trials": done}
    storage.write(storage.join(to, "results.json"), (json.dumps(record, indent=1) + "\n").encode())


def _page(to: str, config: Config, done: dict[str, Any]) -> None:
    from jobs.reproduce import cg_mnist
    from jobs.reproduce.summary import experiment
    from jobs.reproduce.trial import RATE, WEIGHT_DECAY
    from xmodal import storage
    from xmodal.report.experiment import render

    trials: dict[str, list[Any]] = {}
    for found in done.values():
        trials.setdefault(found["arm"], []).append(found)
    lead = (
        "A grey digit beside the same digit in a colour that betrays its class in training and is drawn at random in "
        "the test. What a model still learns of the shape tells whether the easy modality starves the other."
    )
    facts = {
        "Training": f"{config.rows:,} digits, {config.epochs} epochs, batches of {config.batch_size}",
        "Optimizers": ", ".join(f"{name}: rate {RATE[name]}, decay {WEIGHT_DECAY[name]}" for name in RATE),
        "Validation": f"{cg_mnist.VALIDATION:,} digits of the training file; rates and epochs were chosen there",
        "Test": "10,000 digits, judged once for each trial, after its last step",
    }
    names, chance = cg_mnist.MODALITIES, 1 / cg_mnist.CLASSES
    page = experiment("CG-MNIST", [lead], trials, modalities=names, facts=facts, chance=chance)
    storage.write(storage.join(to, "index.html"), render(page).encode())
    print(f"page  {storage.join(to, 'index.html')}")


def parse(words: list[str]) -> Config:
    return arguments.parse(Config, words, program="python -m jobs.reproduce", text=__doc__)


def main() -> None:
    console.main(lambda: run(parse(sys.argv[1:])))


if __name__ == "__main__":
    main()
