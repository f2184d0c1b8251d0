"""The whole way in minutes: pretrain on photos with captions, measure, adapt to sketches without any, measure again.

    python -m jobs.demo            what `make demo` runs
    python -m jobs.demo --fresh    remove what an earlier demo left, and start again

The corpus is procedural: scenes of coloured shapes, as photos and as pencil sketches of other scenes. The first act
trains a dual encoder on the photos; the second goes on from it with sketches beside them, of which it sees pictures
alone, and a critic that the encoder learns to confuse. Captions of held-out sketches tell at the end whether that
helped, beside the encoder of the first act. A demo that finds an earlier one's runs says so: a finished run is measured
again, one that was interrupted is continued only with --resume.
"""

import sys
from dataclasses import dataclass, replace
from typing import Any

from jobs import arguments, console
from jobs.compare import gains
from jobs.compare import table as comparison
from jobs.evaluate import table
from jobs.presets import PRESETS
from jobs.progress_reporter import Narrator
from jobs.report import place
from pipelines.config import adapt, compare, evaluate, pretrain, report
from pipelines.config.data import Data
from pipelines.config.domain import Domain
from pipelines.config.logging import Cadence
from pipelines.config.optimizer import Optim
from pipelines.config.resources import Resources
from pipelines.config.target import Target
from pipelines.config.validation import Validation
from xmodal import storage
from xmodal.data import synthetic
from xmodal.errors import ConfigError
from xmodal.run.plain_config import to_plain
from xmodal.storage import NotFound

NAME, ADAPTED, PRESET = "demo", "demo-adapted", "conv-tiny"
HELD_OUT_ROWS = 512
SEED = 0


@dataclass(frozen=True, kw_only=True)
class Demo:
    """The demo's sizes."""

    runs: str = "runs"  # where corpora and runs are kept
    workers: int = 2
    rows: int = 4096  # pairs to train on
    steps: int = 300
    batch_size: int = 128
    sketches: int = 2048  # pictures of the other domain
    adapt_steps: int = 60
    fresh: bool = False  # remove an earlier demo first
    resume: bool = False  # continue an interrupted one

    @property
    def train(self) -> str:
        return storage.join(self.runs, "demo-corpus", "train")

    @property
    def held_out(self) -> str:
        return storage.join(self.runs, "demo-corpus", "held-out")

    @property
    def sketches_train(self) -> str:
        return storage.join(self.runs, "demo-corpus", "sketches")

    @property
    def sketches_held_out(self) -> str:
        return storage.join(self.runs, "demo-corpus", "sketches-held-out")

    @property
    def adaptation(self) -> adapt.Config:
        """The second act: as many sketches as photos in every step, without their captions."""
        return adapt.Config(
            name=ADAPTED,
            runs=self.runs,
            resume=self.resume,
            start_from=storage.join(self.runs, NAME),
            data=Data(corpus=(self.train,)),
            target=Target(corpus=(self.sketches_train,)),
            domain=Domain(),
            augment=PRESETS[PRESET].augment,
            optim=Optim(batch_size=self.batch_size, steps=self.adapt_steps, learning_rate=5e-4, weight_decay=0.1),
            cadence=Cadence(log_every=5, checkpoint_every=30),
            resources=Resources(workers=self.workers),
        )

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


def write(uri: str, domain: str, rows: int, start: int, label: str) -> None:
    """A corpus of scenes, unless the same one is there."""
    done = storage.join(uri, "_SUCCESS")
    wanted = f"rows={rows} start={start} seed={SEED}"
    if storage.exists(done):
        found = storage.read(done).decode()
        if found != wanted:
            raise ConfigError(f"{uri} holds another corpus ({found}, not {wanted}): add --fresh to replace it")
        print(f"found the {label} in {uri}")
        return
    with console.progress(label, "scenes") as report:
        synthetic.write_corpus(uri, domain, rows, SEED, start=start, size=72, rows_per_shard=512, progress=report)
    storage.write(done, wanted.encode())


def state_of(runs: str, name: str, steps: int) -> str:
    """`new`, `finished` or `interrupted`: what an earlier demo left in a run's directory."""
    uri = storage.join(runs, name)
    if not storage.exists(uri):
        return "new"
    try:
        lines = storage.read(storage.join(uri, "metrics.jsonl")).splitlines()
    except NotFound:
        return "interrupted"
    return "finished" if lines and f'"step": {steps},'.encode() in lines[-1] else "interrupted"


def states(demo: Demo) -> tuple[str, str]:
    """Of both acts' runs; ConfigError for one that was interrupted, unless it is to be resumed."""
    found = tuple(state_of(demo.runs, *act) for act in ((NAME, demo.steps), (ADAPTED, demo.adapt_steps)))
    for name, state in zip((NAME, ADAPTED), found, strict=True):
        if state == "interrupted" and not demo.resume:
            raise ConfigError(
                f"{storage.join(demo.runs, name)} holds a demo that was interrupted: continue it with "
                "`python -m jobs.demo --resume`, or start again with `python -m jobs.demo --fresh`"
            )
    return found[0], found[1]


def run(demo: Demo) -> None:
    if demo.fresh:
        for name in (NAME, ADAPTED, "demo-corpus"):
            storage.delete_tree(storage.join(demo.runs, name))
    first, second = states(demo)
    pretrained(demo, first)
    adapted(demo, second)
    print("next   python -m jobs.prepare pairs.csv corpus/    your own image-text pairs as shards")
    print("       python -m jobs.pretrain vit-tiny --corpus corpus/")


def pretrained(demo: Demo, found: str) -> None:
    """The first act: a dual encoder of photos and captions, and its retrieval."""
    from pipelines.inference.evaluate import run as measure  # torch, Ray and seconds, for a command line that is sound
    from pipelines.stages.pretrain import run as train

    uri = storage.join(demo.runs, NAME)
    write(demo.train, "photo", demo.rows, 0, "training pairs")
    write(demo.held_out, "photo", HELD_OUT_ROWS, 1_000_000, "held-out pairs")
    if found == "finished":
        print(f"found a finished run in {uri}: measuring it again (--fresh starts anew)")
    else:
        train(replace(demo.config, resume=found == "interrupted"), Narrator("pretrain"))
    result = measure(evaluate.Config(checkpoint=uri, corpus=demo.held_out))
    print(f"\nRetrieval over {result.rows} held-out pairs after {result.step} steps\n\n{table(result)}\n")


def adapted(demo: Demo, found: str) -> None:
    """The second act: the same encoder among sketches without captions, before and after, on photos and on sketches."""
    from pipelines.results.compare import run as judge
    from pipelines.results.report import run as show
    from pipelines.stages.adapt import run as train

    uri, before = storage.join(demo.runs, ADAPTED), storage.join(demo.runs, NAME)
    write(demo.sketches_train, "sketch", demo.sketches, 2_000_000, "sketches")
    write(demo.sketches_held_out, "sketch", HELD_OUT_ROWS, 3_000_000, "held-out sketches")
    if found == "finished":
        print(f"found a finished run in {uri}")
    else:
        train(replace(demo.adaptation, resume=found == "interrupted"), Narrator("adapt"))
    asked = compare.Config(adapted=(uri,), before=(before,), source=demo.held_out, target=demo.sketches_held_out)
    result = judge(asked)
    print(
        f"\nFrom photos (source) to sketches (target): {result.adaptation}\n\n{comparison(result)}\n\n{gains(result)}\n"
    )
    page = show(
        report.Config(runs=(before, uri), corpus=demo.sketches_held_out, to=storage.join(before, "report.html"))
    )
    print(f"runs   {place(before)}\n       {place(uri)}")
    print(f"report {place(page.uri)}    one file: open it in a browser")


def preview(demo: Demo) -> dict[str, Any]:
    from pipelines.preview.training import resources

    config = demo.config
    shown = resources(config.resources, config.optim.batch_size)
    found = {act: state_of(demo.runs, act, steps) for act, steps in ((NAME, demo.steps), (ADAPTED, demo.adapt_steps))}
    return {"config": to_plain(config), "adaptation": to_plain(demo.adaptation), "found": found, "resources": shown}


def parse(words: list[str]) -> arguments.Start[Demo]:
    return arguments.parse_start(Demo, words, program="python -m jobs.demo", text=__doc__)


def main() -> None:
    console.main(lambda: arguments.begin(parse(sys.argv[1:]), run, preview))


if __name__ == "__main__":
    main()
