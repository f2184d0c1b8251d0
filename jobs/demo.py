"""Pretrain a dual encoder on captioned photos, adapt it to sketches without captions, evaluate both: in minutes.

    python -m jobs.demo            what `make demo` runs
    python -m jobs.demo --fresh    remove what an earlier demo left, and start again

The corpus is procedural: scenes of coloured shapes, as photos and as pencil sketches of other scenes. The first act
trains a dual encoder on the photos. The second act trains it further twice, for equally many steps: as a control on
the photos alone, and with sketches as the target, of which it reads the images and no caption. Two losses use them:
MMD makes the embeddings of photos and sketches alike, and consistency makes two augmented views of a sketch find each
other. The captions of held-out sketches show at the end how much that helped. A demo that finds the runs of an earlier
one says so: a finished run is evaluated again, an interrupted one is continued only with --resume.
"""

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from jobs import arguments, console
from jobs.compare import bars, improvements
from jobs.evaluate import table
from jobs.presets import PRESETS
from jobs.progress_reporter import ProgressReporter
from jobs.report import absolute_path
from pipelines.config import compare, evaluate, report
from pipelines.config.adapt import AdaptConfig
from pipelines.config.data import DataConfig
from pipelines.config.domain import DomainConfig
from pipelines.config.logging import CheckpointConfig, LoggingConfig
from pipelines.config.optimizer import OptimizerConfig
from pipelines.config.pretrain import PretrainConfig
from pipelines.config.resources import ResourceConfig
from pipelines.config.run import RunOptions
from pipelines.config.target import TargetConfig
from pipelines.config.validation import ValidationConfig
from pipelines.runtime.processes import map_in_processes
from xmodal import storage
from xmodal.data import synthetic
from xmodal.errors import ConfigError
from xmodal.run.plain_config import to_plain
from xmodal.storage import NotFound

NAME, CONTROL, ADAPTED, PRESET = "demo", "demo-control", "demo-adapted", "conv-tiny"
HELD_OUT_ROWS = 512
SEED = 0
CONTROL_SKETCHES = 16  # sketches in a step of the control: it encodes them, though it learns nothing from them
C = TypeVar("C", AdaptConfig, PretrainConfig)


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """The demo's sizes."""

    runs: str = "runs"  # folder in which corpora, runs and the page are stored
    workers: int = 2  # number of workers that train
    rows: int = 4096  # number of photo-caption pairs to pretrain on
    steps: int = 300  # number of pretraining steps
    batch_size: int = 128  # number of pairs in every step, over all workers
    sketches: int = 2048  # number of sketches without captions to adapt to
    adapt_steps: int = 40  # number of further steps, of the control as well as of the adaptation
    fresh: bool = False  # delete the corpora and runs of an earlier demo first
    resume: bool = False  # continue a demo that was interrupted

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
    def corpora(self) -> tuple["SceneCorpus", ...]:
        """The photos and sketches to train on, and those held out; no scene is in two of them."""
        return (
            SceneCorpus(label="training pairs", uri=self.train, domain="photo", rows=self.rows, start=0),
            SceneCorpus(
                label="sketches", uri=self.sketches_train, domain="sketch", rows=self.sketches, start=2_000_000
            ),
            SceneCorpus(label="held-out pairs", uri=self.held_out, domain="photo", rows=HELD_OUT_ROWS, start=1_000_000),
            SceneCorpus(
                label="held-out sketches",
                uri=self.sketches_held_out,
                domain="sketch",
                rows=HELD_OUT_ROWS,
                start=3_000_000,
            ),
        )

    @property
    def adaptation(self) -> AdaptConfig:
        """The adaptation: half as many sketches as photos in every step, without their captions."""
        sketches = max(1, self.batch_size // 2 // self.workers) * self.workers
        target = TargetConfig(corpus=(self.sketches_train,), batch_size=sketches, consistency=0.3)
        return self._further(ADAPTED, DomainConfig(loss="mmd", strength=5.0), target)

    @property
    def control(self) -> AdaptConfig:
        """The same further steps on the photos alone."""
        sketches = min(self.batch_size, max(CONTROL_SKETCHES, self.workers))
        target = TargetConfig(corpus=(self.sketches_train,), batch_size=sketches)
        return self._further(CONTROL, DomainConfig(loss="none"), target)

    def _further(self, name: str, domain: DomainConfig, target: TargetConfig) -> AdaptConfig:
        return AdaptConfig(
            run=RunOptions(name=name, runs=self.runs, resume=self.resume),
            start_from=storage.join(self.runs, NAME),
            data=DataConfig(corpus=(self.train,)),
            target=target,
            domain=domain,
            augment=PRESETS[PRESET].augment,
            optim=OptimizerConfig(
                batch_size=self.batch_size, steps=self.adapt_steps, learning_rate=1e-3, weight_decay=0.1
            ),
            logging=LoggingConfig(log_every=5),
            checkpoints=CheckpointConfig(checkpoint_every=30),
            resources=ResourceConfig(workers=self.workers),
        )

    @property
    def config(self) -> PretrainConfig:
        """The pretraining run of the demo: a preset, shortened."""
        preset = PRESETS[PRESET]
        return PretrainConfig(
            run=RunOptions(name=NAME, runs=self.runs, resume=self.resume),
            data=DataConfig(corpus=(self.train,)),
            model=preset.model,
            augment=preset.augment,
            optim=OptimizerConfig(batch_size=self.batch_size, steps=self.steps, learning_rate=1e-3, weight_decay=0.1),
            logging=LoggingConfig(log_every=5),
            checkpoints=CheckpointConfig(checkpoint_every=50),
            validation=ValidationConfig(corpus=self.held_out, every=150, rows=HELD_OUT_ROWS),
            resources=ResourceConfig(workers=self.workers),
        )


@dataclass(frozen=True, kw_only=True)
class SceneCorpus:
    """A corpus to draw: its folder, and which scenes in which style it holds."""

    label: str
    uri: str
    domain: str
    rows: int
    start: int  # number of its first scene; corpora that share none begin far apart

    @property
    def content(self) -> str:
        return f"rows={self.rows} start={self.start} seed={SEED}"

    @property
    def done(self) -> str:
        return storage.join(self.uri, "_SUCCESS")

    def is_drawn(self) -> bool:
        """Return whether the folder holds this corpus; ConfigError where it holds another one."""
        if not storage.exists(self.done):
            return False
        drawn = storage.read(self.done).decode()
        if drawn != self.content:
            raise ConfigError(
                f"{self.uri} holds another corpus ({drawn}, not {self.content}): add --fresh to replace it"
            )
        return True

    def draw(self) -> int:
        """Draw the corpus; return the number of its scenes."""
        synthetic.write_corpus(self.uri, self.domain, self.rows, SEED, start=self.start, size=72, rows_per_shard=512)
        storage.write(self.done, self.content.encode())
        return self.rows


def draw_corpora(demo: DemoConfig) -> None:
    """Draw the corpora that an earlier demo has not left, two at a time."""
    missing = []
    for corpus in demo.corpora:
        if corpus.is_drawn():
            print(f"found the {corpus.label} in {corpus.uri}")
        else:
            missing.append(corpus)
    drawn, rows = 0, sum(corpus.rows for corpus in missing)
    with console.progress("drawing", "scenes") as report:
        report(0, rows)
        for count in map_in_processes(SceneCorpus.draw, missing, min(2, len(missing), os.cpu_count() or 1)):
            drawn += count
            report(drawn, rows)


def state_of(runs: str, name: str, steps: int) -> str:
    """Return the state of a run's directory: `new`, `finished` or `interrupted`."""
    uri = storage.join(runs, name)
    if not storage.exists(uri):
        return "new"
    try:
        lines = storage.read(storage.join(uri, "metrics.jsonl")).splitlines()
    except NotFound:
        return "interrupted"
    return "finished" if lines and f'"step": {steps},'.encode() in lines[-1] else "interrupted"


def states(demo: DemoConfig) -> dict[str, str]:
    """Return the state of each run of the demo by its name."""
    steps = {NAME: demo.steps, CONTROL: demo.adapt_steps, ADAPTED: demo.adapt_steps}
    return {name: state_of(demo.runs, name, count) for name, count in steps.items()}


def check_states(demo: DemoConfig, states: Mapping[str, str]) -> None:
    """Raise ConfigError for a run that was interrupted, unless it is to be resumed."""
    for name, state in states.items():
        if state == "interrupted" and not demo.resume:
            raise ConfigError(
                f"{storage.join(demo.runs, name)} holds a demo that was interrupted: continue it with "
                "`python -m jobs.demo --resume`, or start again with `python -m jobs.demo --fresh`"
            )


def run(demo: DemoConfig) -> None:
    if demo.fresh:
        for name in (NAME, CONTROL, ADAPTED, "demo-corpus"):
            storage.delete_tree(storage.join(demo.runs, name))
    state_by_run = states(demo)
    check_states(demo, state_by_run)
    draw_corpora(demo)
    pretrain_on_photos(demo, state_by_run[NAME])
    adapt_to_sketches(demo, state_by_run)
    compare_on_sketches(demo)
    print("next   python -m jobs.prepare pairs.csv corpus/    your own image-text pairs as shards")
    print("       python -m jobs.pretrain vit-tiny --corpus corpus/")


def pretrain_on_photos(demo: DemoConfig, state: str) -> None:
    """Train a dual encoder on photos and captions, and print its retrieval."""
    from pipelines.inference.evaluate import run as measure  # takes seconds to import: only for a valid command line
    from pipelines.stages.pretrain import run as train

    uri = storage.join(demo.runs, NAME)
    if state == "finished":
        print(f"found a finished run in {uri}: measuring it again (--fresh starts anew)")
    else:
        train(_with_resume(demo.config, state), ProgressReporter("pretrain"))
    result = measure(evaluate.EvaluateConfig(checkpoint=uri, corpus=demo.held_out))
    print(f"\nRetrieval over {result.rows} held-out pairs after {result.step} steps\n\n{table(result)}\n")


def adapt_to_sketches(demo: DemoConfig, states: Mapping[str, str]) -> None:
    """Train the encoder further, once on photos alone and once with sketches that have no captions."""
    from pipelines.stages.adapt import run as train

    for config, label in ((demo.control, "control"), (demo.adaptation, "adapt")):
        state = states[config.run.name]
        if state == "finished":
            print(f"found a finished run in {storage.join(demo.runs, config.run.name)}")
        else:
            train(_with_resume(config, state), ProgressReporter(label))


def compare_on_sketches(demo: DemoConfig) -> None:
    """Evaluate every model on held-out photos and sketches, print what the adaptation changed, and write the report."""
    from pipelines.results.compare import run as compare_runs
    from pipelines.results.report import run as write_report

    before, control, adapted = (storage.join(demo.runs, name) for name in (NAME, CONTROL, ADAPTED))
    source, target = demo.held_out, demo.sketches_held_out
    result = compare_runs(
        compare.CompareConfig(
            adapted=(adapted,), before=(before,), control=(control,), centre=True, source=source, target=target
        )
    )
    print(f"\nFrom photos (source) to sketches without captions (target): {result.adaptation}")
    print(f"Retrieval over {result.rows('target')} held-out sketches\n\n{bars(result)}\n\n{improvements(result)}\n")
    page = write_report(
        report.ReportConfig(runs=(before, adapted), corpus=target, to=storage.join(before, "report.html"))
    )
    print("\n       ".join([f"runs   {absolute_path(before)}", absolute_path(control), absolute_path(adapted)]))
    print(f"report {absolute_path(page.uri)}    one file: open it in a browser")


def _with_resume(config: C, state: str) -> C:
    """Return the configuration of a run, to be continued where an earlier demo was interrupted."""
    return replace(config, run=replace(config.run, resume=state == "interrupted"))


def preview(demo: DemoConfig) -> dict[str, Any]:
    from pipelines.preview.training import preview_resources

    config = demo.config
    shown = preview_resources(config.resources, config.optim.batch_size)
    return {
        "config": to_plain(config),
        "control": to_plain(demo.control),
        "adaptation": to_plain(demo.adaptation),
        "found": states(demo),
        "resources": shown,
    }


def parse(words: list[str]) -> arguments.JobRequest[DemoConfig]:
    return arguments.parse_request(DemoConfig, words, program="python -m jobs.demo", text=__doc__)


def main() -> None:
    console.main(lambda: arguments.run_or_preview(parse(sys.argv[1:]), run, preview))


if __name__ == "__main__":
    main()
