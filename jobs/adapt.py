"""Train a classifier of audio-video clips in which no modality starves the other (MMPareto and its relatives).

    python -m jobs.adapt grid-letter --corpus grid/train --workers 2
    python -m jobs.adapt clips --corpus s3://bucket/clips --classes dog cat bird --fields video=mp4 audio=mp4 label=cls
    python -m jobs.adapt grid-letter --corpus grid/train --method uniform --name baseline --resume
    python -m jobs.adapt grid-letter --corpus grid/train --start-from runs/av-tiny --name from-pairs

Each modality has a head and a loss of its own beside the joint one; METHOD says what happens where the gradients of
the two meet in an encoder: their sum (uniform), MMPareto, min-norm, PCGrad, UPGrad, or the unimodal one alone. The
metrics of a run tell for each encoder how far the two point apart, and the accuracy of every head; with --audit-every K
also, every K steps, what would be decided in the other space (features or parameters).

A run lives in RUNS/NAME, may be killed at any moment, and goes on with --resume, as those of jobs.pretrain; measure it
with python -m jobs.evaluate RUN HELD_OUT_CORPUS, and look into it with python -m jobs.diagnose RUN CORPUS.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import tyro

from jobs import arguments, console
from jobs.narrator import Narrator
from pipelines.config.adapt import Config
from pipelines.config.classifier import DIGITS, LETTERS, Classifier
from pipelines.config.data import Data
from pipelines.config.optim import Optim
from xmodal.data.augment import Augment

PROGRAM = "python -m jobs.adapt"
SMALL = Optim(batch_size=64, epochs=30, learning_rate=1e-3, weight_decay=0.05)
STILL = Augment(scale=(0.8, 1.0), ratio=(0.9, 1.1), jitter=0.8, brightness=0.2, contrast=0.2)


@dataclass(frozen=True, kw_only=True)
class Preset:
    """One line for the help, and what a corpus of this kind needs."""

    summary: str
    model: Classifier
    fields: tuple[str, ...] = ()


PRESETS: Mapping[str, Preset] = {
    "clips": Preset(
        summary="clips of your own: name their --classes and --fields, and how many --seconds count",
        model=Classifier(),
    ),
    "grid-letter": Preset(
        summary="the letter of a GRID sentence, from the moment that it is spoken",
        model=Classifier(classes=LETTERS, seconds=0.48, margin=0.12, size=64),
        fields=("video=mp4@json:words.4", "audio=mp4@json:words.4", "label=json:labels.letter"),
    ),
    "grid-digit": Preset(
        summary="the digit of a GRID sentence, from the whole clip",
        model=Classifier(classes=DIGITS, seconds=2.9, frames=12, size=64),
        fields=("video=mp4", "audio=mp4", "label=json:labels.digit"),
    ),
}


def parse(words: list[str]) -> Config:
    """The preset named first, with the flags behind it set over its values. ConfigError names the nearest preset."""
    return parse_start(words).config


def parse_start(words: list[str]) -> arguments.Start[Config]:
    """The same, and whether to start."""
    name, preset = arguments.preset(words, PRESETS, program=PROGRAM, text=__doc__)
    data = Data(corpus=tyro.MISSING, fields=preset.fields)
    default = Config(name=name, data=data, model=preset.model, optim=SMALL, augment=STILL)
    text = f"{__doc__}\n{name}: {preset.summary}\n"
    return arguments.parse_start(Config, words[1:], program=f"{PROGRAM} {name}", text=text, default=default)


def run(words: list[str]) -> None:
    arguments.begin(parse_start(words), train, preview)


def preview(config: Config) -> dict[str, Any]:
    from pipelines.preview.adapt import of

    return of(config)


def train(config: Config) -> None:
    from pipelines import adapt  # torch, Ray and seconds, for a command line that is sound

    result = adapt.run(config, Narrator("adapt"))
    if result.found_finished:
        print(f"the run {config.name!r} was finished already, at step {result.step:,}")
    print(f"run         {result.run.uri}")
    print(f"checkpoint  {result.checkpoint}")
    print(f"next        python -m jobs.evaluate {result.run.uri} HELD_OUT_CORPUS")


def main() -> None:
    console.main(lambda: run(sys.argv[1:]))


if __name__ == "__main__":
    main()
