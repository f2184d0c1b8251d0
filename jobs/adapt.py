"""Adapt a dual encoder to a new domain for which there are no image-text pairs.

    python -m jobs.adapt --start-from runs/vit-tiny --corpus photos/train --target sketches/train --workers 2
    python -m jobs.adapt --start-from runs/vit-tiny --corpus photos/train --target sketches/train \\
        --target.protocol unpaired --domain.loss mmd --domain.strength 1 --name mmd
    python -m jobs.adapt --start-from runs/vit-tiny --corpus photos/train --target sketches/train --name mmd --resume

Training starts from a checkpoint of jobs.pretrain (or from a CLIP of the Hugging Face Hub) and continues with the
contrastive loss on the pairs of the source domain (--corpus), while --domain.loss makes the embeddings of both domains
alike: a domain critic behind gradient reversal (dann), a discrepancy (mmd, coral), or a loss on the model's own
predictions (cdan, mcc, bnm). Of the target domain only images are read; with --target.protocol unpaired its texts are
read as well, in an order of their own, so that no pair is ever seen together. --domain.loss none is the control:
equally many steps on the source alone.

--label.field CLS --label.classes NAMES adds a classifier on the labels of the source; --method then decides how its
gradient and that of the contrastive loss are combined.

A run lives in RUNS/NAME, may be killed at any moment, and continues with --resume. jobs.compare shows whether the
adaptation helped, on pairs of the target that no training has seen. Classifiers of clips are trained with
jobs.classify.
"""

import sys

import tyro

from jobs import arguments, console
from jobs.progress_reporter import ProgressReporter, print_result
from pipelines.config.adapt import AdaptConfig
from pipelines.config.data import DataConfig
from pipelines.config.optimizer import OptimizerConfig
from pipelines.config.run import RunOptions
from pipelines.config.target import TargetConfig
from xmodal.errors import ConfigError

PROGRAM = "python -m jobs.adapt"
CLASSIFIER_PRESETS = ("clips", "grid-letter", "grid-digit")  # of jobs.classify, which was part of this command
DEFAULT = AdaptConfig(
    run=RunOptions(name="adapt"),
    data=DataConfig(corpus=tyro.MISSING),
    target=TargetConfig(corpus=tyro.MISSING),
    start_from=tyro.MISSING,
    # A smaller rate and fewer epochs than from random weights: a trained model should move little.
    optim=OptimizerConfig(batch_size=128, epochs=10, learning_rate=2e-4, weight_decay=0.1),
)


def parse(words: list[str]) -> AdaptConfig:
    """Return the configuration that the flags describe."""
    return parse_request(words).config


def parse_request(words: list[str]) -> arguments.ModelJobRequest[AdaptConfig]:
    """Return the same configuration, and whether it is only to be shown."""
    _refuse_presets(words)
    return arguments.parse_model_request(AdaptConfig, words, program=PROGRAM, text=__doc__, default=DEFAULT)


def _refuse_presets(words: list[str]) -> None:
    """Raise ConfigError with today's command for `jobs.adapt clip`, `clips`, `grid-letter` and `grid-digit`."""
    first = words[0] if words else ""
    if first == "clip":
        raise ConfigError(
            f"{PROGRAM} takes no preset any more: leave the word clip out (and add --name clip to --resume a run that "
            "was started without a name)"
        )
    if first in CLASSIFIER_PRESETS:
        raise ConfigError(f"classifiers have a command of their own: write python -m jobs.classify {first} ...")


def run(words: list[str]) -> None:
    arguments.run_or_preview(parse_request(words), train, preview)


def preview(config: AdaptConfig) -> dict[str, object]:
    from pipelines.preview.adapt import preview_run

    return preview_run(config)


def train(config: AdaptConfig) -> None:
    from pipelines.stages import adapt  # torch and Ray take seconds to import: only for a valid command line

    print_result(adapt.run(config, ProgressReporter("adapt")))


def main() -> None:
    console.main(lambda: run(sys.argv[1:]))


if __name__ == "__main__":
    main()
