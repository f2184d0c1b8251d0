"""Train a classifier of several modalities so that no modality is neglected (unimodal losses, MMPareto).

    python -m jobs.classify clips --corpus clips/ --classes dog cat bird --fields video=mp4 audio=mp4 label=cls
    python -m jobs.classify image-text --corpus posts/ --classes cat dog --fields image=jpg text=txt label=cls
    python -m jobs.classify grid-letter --corpus grid/train --workers 2
    python -m jobs.classify grid-letter --corpus grid/train --method uniform --name baseline
    python -m jobs.classify grid-letter --corpus grid/train --target room/train --domain.loss dann --name room

Each modality has an encoder, and beside the multimodal loss a head and a loss of its own. --method says what happens
where the gradients of both losses meet in an encoder: they are added (uniform), combined by MMPareto, min-norm, PCGrad
or UPGrad, or only the unimodal one is used (stop_gradient); joint trains without unimodal losses. --audit-every K
measures every K steps how often the other space of --space would decide otherwise.

--target names clips of another domain, whose labels are not read: --domain.loss then makes the features of both domains
alike, and its gradient is added after --method has combined the others.

A run lives in RUNS/NAME, may be killed at any moment, and continues with --resume. Measure it with
python -m jobs.evaluate RUN HELD_OUT_CORPUS, and look into its gradients with python -m jobs.diagnose RUN CORPUS.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass

import tyro

from jobs import arguments, console
from jobs.presets import CLIP_AUGMENT
from jobs.progress_reporter import ProgressReporter, print_result
from pipelines.config.classifier import DIGITS, LETTERS, ClassifierConfig
from pipelines.config.classify import ClassifyConfig
from pipelines.config.data import DataConfig
from pipelines.config.optimizer import OptimizerConfig
from pipelines.config.run import RunOptions

PROGRAM = "python -m jobs.classify"
OPTIMIZER = OptimizerConfig(batch_size=64, epochs=30, learning_rate=1e-3, weight_decay=0.05)


@dataclass(frozen=True, kw_only=True)
class ClassifyPreset:
    """A named starting point: one line for the help, the model, and where a row of the corpus has its fields."""

    summary: str
    model: ClassifierConfig
    fields: tuple[str, ...] = ()

    def config(self, name: str) -> ClassifyConfig:
        """Return the configuration of a run of this name; only its corpus is missing."""
        return ClassifyConfig(
            run=RunOptions(name=name),
            data=DataConfig(corpus=tyro.MISSING, fields=self.fields),
            model=self.model,
            optim=OPTIMIZER,
            augment=CLIP_AUGMENT,
        )


PRESETS: Mapping[str, ClassifyPreset] = {
    "clips": ClassifyPreset(
        summary="your own clips: give their --classes and --fields, and how many --seconds to look at",
        model=ClassifierConfig(),
    ),
    "image-text": ClassifyPreset(
        summary="your own images with texts: give their --classes and --fields",
        model=ClassifierConfig(modalities=("image", "text")),
    ),
    "grid-letter": ClassifyPreset(
        summary="the letter of a GRID sentence, from the moment at which it is spoken",
        model=ClassifierConfig(classes=LETTERS, seconds=0.48, margin=0.12, size=64),
        fields=("video=mp4@json:words.4", "audio=mp4@json:words.4", "label=json:labels.letter"),
    ),
    "grid-digit": ClassifyPreset(
        summary="the digit of a GRID sentence, from the whole clip",
        model=ClassifierConfig(classes=DIGITS, seconds=2.9, frames=12, size=64),
        fields=("video=mp4", "audio=mp4", "label=json:labels.digit"),
    ),
}


def parse(words: list[str]) -> ClassifyConfig:
    """Return the configuration of the preset that is named first, with the values of the flags behind it."""
    return parse_request(words).config


def parse_request(words: list[str]) -> arguments.ModelJobRequest[ClassifyConfig]:
    """Return the same configuration, and whether it is only to be shown."""
    name, preset = arguments.choose_preset(words, PRESETS, program=PROGRAM, text=__doc__)
    text = f"{__doc__}\n{name}: {preset.summary}\n"
    return arguments.parse_model_request(
        ClassifyConfig, words[1:], program=f"{PROGRAM} {name}", text=text, default=preset.config(name)
    )


def run(words: list[str]) -> None:
    arguments.run_or_preview(parse_request(words), train, preview)


def preview(config: ClassifyConfig) -> dict[str, object]:
    from pipelines.preview.classify import preview_run

    return preview_run(config)


def train(config: ClassifyConfig) -> None:
    from pipelines.stages import classify  # torch and Ray take seconds to import: only for a valid command line

    print_result(classify.run(config, ProgressReporter("classify")))


def main() -> None:
    console.main(lambda: run(sys.argv[1:]))


if __name__ == "__main__":
    main()
