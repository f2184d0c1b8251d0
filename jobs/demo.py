"""The whole way in a few minutes: write a corpus, pretrain on two workers, measure on held-out pairs, make a report.

    python -m jobs.demo            what `make demo` runs
    python -m jobs.demo --fresh    remove what an earlier demo left, and start again

The corpus is procedural: captioned scenes of coloured shapes. A demo that finds an earlier one's run says so: a
finished run is measured again, one that was interrupted is continued only with --resume.
"""

import sys
from dataclasses import dataclass
from typing import Any

from jobs import arguments, console
from jobs.evaluate import table
from jobs.narrator import Narrator
from jobs.presets import PRESETS
from jobs.report import place
from pipelines.config import evaluate, pretrain, report
from pipelines.config.cadence import Cadence
from pipelines.config.data import Data
from pipelines.config.optim import Optim
from pipelines.config.resources import Resources
from pipelines.config.validation import Validation
from xmodal import storage
from xmodal.data import synthetic
from xmodal.errors import ConfigError
from xmodal.run.plain import to_plain
from xmodal.storage import NotFound

NAME, PRESET = "demo", "conv-tiny"
HELD_OUT_ROWS = 512
SEED = 0


@dataclass(frozen=True, kw_only=True)
class Demo:
    """The demo's sizes."""

    runs: str = "runs"  # where corpora and run are kept
    workers: int = 2
    rows: int = 4096  # pairs to train on
    steps: int = 300
    batch_size: int = 128
    fresh: bool = False  # remove an earlier demo first
    resume: bool = False  # continue an interrupted one

    @property
    def train(self) -> str:
        return storage.join(self.runs, "demo-corpus", "train")

    @property
    def held_out(self) -> str:
        return storage.join(self.runs, "demo-corpus", "held-out")

    @property
    def config(self) -> pretrain.Config:
        """The pretraining run of the demo: a preset, shortened."""
        preset = PRESETS[PRESET]
        return pretrain.Config(
            name=NAME,
            runs=self.runs,
            resume=self.resume,
            data=Data(corpus=(self.train,)),
            model=preset.model,
            augment=preset.augment,
            optim=Optim(batch_size=self.batch_size, steps=self.steps, learning_rate=1e-3, weight_decay=0.1),
            cadence=Cadence(log_every=5, checkpoint_every=50),
            validation=Validation(corpus=self.held_out, every=150, rows=HELD_OUT_ROWS),
            resources=Resources(workers=self.workers),
        )


def write(uri: str, rows: int, start: int, label: str) -> None:
    """A corpus of photo-like scenes, unless the same one is there."""
    done = storage.join(uri, "_SUCCESS")
    wanted = f"rows={rows} start={start} seed={SEED}"
    if storage.exists(done):
        found = storage.read(done).decode()
        if found != wanted:
            raise ConfigError(f"{uri} holds another corpus ({found}, not {wanted}): add --fresh to replace it")
        print(f"found the {label} in {uri}")
        return
    with console.progress(label, "scenes") as report:
        synthetic.write_corpus(uri, "photo", rows, SEED, start=start, size=72, rows_per_shard=512, progress=report)
    storage.write(done, wanted.encode())


def state_of(demo: Demo) -> str:
    """`new`, `finished` or `interrupted`: what an earlier demo left in the run's directory."""
    uri = storage.join(demo.runs, NAME)
    if not storage.exists(uri):
        return "new"
    try:
        lines = storage.read(storage.join(uri, "metrics.jsonl")).splitlines()
    except NotFound:
        return "interrupted"
    return "finished" if lines and f'"step": {demo.steps},'.encode() in lines[-1] else "interrupted"


def run(demo: Demo) -> None:
    from pipelines.evaluate import run as measure  # torch, Ray and seconds, for a command line that is sound
    from pipelines.pretrain import run as train
    from pipelines.report import run as show

    if demo.fresh:
        storage.delete_tree(storage.join(demo.runs, NAME))
        storage.delete_tree(storage.join(demo.runs, "demo-corpus"))
    found = state_of(demo)
    uri = storage.join(demo.runs, NAME)
    if found == "interrupted" and not demo.resume:
        raise ConfigError(
            f"{uri} holds a demo that was interrupted: continue it with `python -m jobs.demo --resume`, "
            "or start again with `python -m jobs.demo --fresh`"
        )
    write(demo.train, demo.rows, 0, "training pairs")
    write(demo.held_out, HELD_OUT_ROWS, 1_000_000, "held-out pairs")
    if found == "finished":
        print(f"found a finished run in {uri}: measuring it again (--fresh starts anew)")
    else:
        train(demo.config, Narrator("pretrain"))
    result = measure(evaluate.Config(checkpoint=uri, corpus=demo.held_out))
    print(f"\nRetrieval over {result.rows} held-out pairs after {result.step} steps\n\n{table(result)}\n")
    page = show(report.Config(runs=(uri,), corpus=demo.held_out, to=storage.join(uri, "report.html")))
    print(f"run    {place(uri)}")
    print(f"report {place(page.uri)}    one file: open it in a browser")
    print("next   python -m jobs.prepare pairs.csv corpus/    your own image-text pairs as shards")
    print("       python -m jobs.pretrain vit-tiny --corpus corpus/")


def preview(demo: Demo) -> dict[str, Any]:
    from pipelines.preview.training import resources

    config = demo.config
    shown = resources(config.resources, config.optim.batch_size)
    return {"config": to_plain(config), "found": state_of(demo), "resources": shown}


def parse(words: list[str]) -> arguments.Start[Demo]:
    return arguments.parse_start(Demo, words, program="python -m jobs.demo", text=__doc__)


def main() -> None:
    console.main(lambda: arguments.begin(parse(sys.argv[1:]), run, preview))


if __name__ == "__main__":
    main()
