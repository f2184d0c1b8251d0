"""Stage 2: bring a dual encoder to a domain without pairs, or train clips so that no modality starves.

    python -m jobs.adapt clip --start-from runs/vit-tiny --corpus photos/train --target sketches/train --workers 2
    python -m jobs.adapt clip --start-from runs/vit-tiny --corpus photos/train --target sketches/train \\
        --target.protocol unpaired --domain.loss mmd --domain.strength 1 --name mmd
    python -m jobs.adapt grid-letter --corpus grid/train --workers 2
    python -m jobs.adapt clips --corpus s3://bucket/clips --classes dog cat bird --fields video=mp4 audio=mp4 label=cls
    python -m jobs.adapt grid-letter --corpus grid/train --target room/train --domain.loss dann --name room

`clip` starts from a checkpoint of jobs.pretrain (or a CLIP of the Hub) and goes on with the contrastive loss on the
pairs of the source, while --domain.loss makes the embeddings of source and target alike: a critic behind gradient
reversal (dann), a discrepancy (mmd, coral), or sure answers (cdan, mcc, bnm). Of the target it reads pictures, or
with --target.protocol unpaired also texts, in an order of their own. --domain.loss none is the control: the same steps
on the source alone. --label.field CLS --label.classes NAMES adds a label predictor on the source's labels, and --method
weighs its gradient against the contrastive one. Whether it helped tells jobs.compare, on pairs of the target that no
training has seen.

The other presets train classifiers of clips. Each modality has a head and a loss of its own beside the joint one;
METHOD says what happens where the gradients of the two meet in an encoder: their sum (uniform), MMPareto, min-norm,
PCGrad, UPGrad, or the unimodal one alone; --audit-every K compares that with the other space every K steps. --target
names clips of another domain, without labels: --domain.loss makes the encoders' outputs alike, and its gradient is
added after what METHOD decides.

A run lives in RUNS/NAME, may be killed at any moment, and goes on with --resume, as those of jobs.pretrain; measure it
with python -m jobs.evaluate RUN HELD_OUT_CORPUS.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import tyro

from jobs import arguments, console
from jobs.progress_reporter import Narrator
from pipelines.config import adapt, classify
from pipelines.config.classifier import DIGITS, LETTERS, Classifier
from pipelines.config.data import Data
from pipelines.config.optimizer import Optim
from pipelines.config.target import Target
from xmodal.data.decode.augment import Augment

if TYPE_CHECKING:
    from pipelines.stages.training_job import Result

PROGRAM = "python -m jobs.adapt"
Config = classify.Config | adapt.Config
FURTHER = Optim(batch_size=128, epochs=10, learning_rate=2e-4, weight_decay=0.1)  # a trained model moves gently
SMALL = Optim(batch_size=64, epochs=30, learning_rate=1e-3, weight_decay=0.05)
STILL = Augment(scale=(0.8, 1.0), ratio=(0.9, 1.1), jitter=0.8, brightness=0.2, contrast=0.2)


@dataclass(frozen=True, kw_only=True)
class Classifying:
    """One line for the help, and what a corpus of this kind needs."""

    summary: str
    model: Classifier
    fields: tuple[str, ...] = ()

    def config(self, name: str) -> classify.Config:
        data = Data(corpus=tyro.MISSING, fields=self.fields)
        return classify.Config(name=name, data=data, model=self.model, optim=SMALL, augment=STILL)


@dataclass(frozen=True, kw_only=True)
class Adapting:
    """One line for the help, and how a dual encoder moves on."""

    summary: str
    optim: Optim = FURTHER
    augment: Augment = field(default_factory=Augment)

    def config(self, name: str) -> adapt.Config:
        return adapt.Config(
            name=name,
            data=Data(corpus=tyro.MISSING),
            target=Target(corpus=tyro.MISSING),
            start_from=tyro.MISSING,
            optim=self.optim,
            augment=self.augment,
        )


PRESETS: Mapping[str, Classifying | Adapting] = {
    "clip": Adapting(summary="a dual encoder of jobs.pretrain, or a CLIP, on a domain without pairs"),
    "clips": Classifying(
        summary="clips of your own: name their --classes and --fields, and how many --seconds count",
        model=Classifier(),
    ),
    "grid-letter": Classifying(
        summary="the letter of a GRID sentence, from the moment that it is spoken",
        model=Classifier(classes=LETTERS, seconds=0.48, margin=0.12, size=64),
        fields=("video=mp4@json:words.4", "audio=mp4@json:words.4", "label=json:labels.letter"),
    ),
    "grid-digit": Classifying(
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
    default = preset.config(name)
    text = f"{__doc__}\n{name}: {preset.summary}\n"
    return arguments.parse_start(type(default), words[1:], program=f"{PROGRAM} {name}", text=text, default=default)


def run(words: list[str]) -> None:
    arguments.begin(parse_start(words), train, preview)


def preview(config: Config) -> dict[str, Any]:
    if isinstance(config, adapt.Config):
        from pipelines.preview.adapt import of as of_domain

        return of_domain(config)
    from pipelines.preview.classify import of

    return of(config)


def _train(config: Config, narrator: Narrator) -> "Result":
    if isinstance(config, adapt.Config):
        from pipelines.stages.adapt import run as adapt_encoder  # torch, Ray and seconds, for a sound command line

        return adapt_encoder(config, narrator)
    from pipelines.stages.classify import run as adapt_classifier

    return adapt_classifier(config, narrator)


def train(config: Config) -> None:
    result = _train(config, Narrator("adapt"))
    if result.found_finished:
        print(f"the run {config.name!r} was finished already, at step {result.step:,}")
    print(f"run         {result.run.uri}")
    print(f"checkpoint  {result.checkpoint}")
    print(f"next        python -m jobs.evaluate {result.run.uri} HELD_OUT_CORPUS")


def main() -> None:
    console.main(lambda: run(sys.argv[1:]))


if __name__ == "__main__":
    main()
