"""Train a dual encoder from scratch on image-text pairs, or on the frames and the audio of clips.

    python -m jobs.pretrain vit-tiny --corpus shards/
    python -m jobs.pretrain vit-b-32 --corpus s3://bucket/a s3://bucket/b --weights 3 1 --runs s3://bucket/runs
    python -m jobs.pretrain hub --corpus shards/ --model.image NAME --model.text NAME --model.dim 256
    python -m jobs.pretrain av-tiny --corpus clips/ --model.seconds 2 --model.frames 12 --workers 2
    python -m jobs.pretrain vit-b-32 --corpus s3://bucket/a --name first --runs s3://bucket/runs --resume

A run lives in RUNS/NAME: run.json, metrics.jsonl, tensorboard/, quarantine.parquet and checkpoints/, each of which is
a Hugging Face directory. It may be killed at any moment: the same command with --resume continues from the last
checkpoint with the same rows in the same order, on any number of workers. `--workers 2:8` starts with two workers and
grows with the cluster up to eight.

--dry-run checks everything that needs no cluster, prints the resolved configuration and the resources that the run
will ask for as JSON, and starts nothing. On a cluster: python -m jobs.submit -- jobs.pretrain PRESET ...
"""

import sys

import tyro

from jobs import arguments, console
from jobs.model_flags import model_of_flags
from jobs.presets import PRESETS
from jobs.progress_reporter import ProgressReporter, print_result
from pipelines.config.data import DataConfig
from pipelines.config.pretrain import PretrainConfig
from pipelines.config.run import RunOptions

PROGRAM = "python -m jobs.pretrain"


def parse(words: list[str]) -> PretrainConfig:
    """Return the configuration of the preset that is named first, with the values of the flags behind it."""
    return parse_request(words).config


def parse_request(words: list[str]) -> arguments.ModelJobRequest[PretrainConfig]:
    """Return the same configuration, and whether it is only to be shown."""
    arguments.load_plugins_of(words)  # before the options of an architecture are looked up
    name, preset = arguments.choose_preset(words, PRESETS, program=PROGRAM, text=__doc__)
    default = PretrainConfig(
        run=RunOptions(name=name),
        data=DataConfig(corpus=tyro.MISSING),
        model=model_of_flags(preset.model, words[1:]),
        optim=preset.optim,
        augment=preset.augment,
    )
    text = f"{__doc__}\n{name}: {preset.summary}\n"
    return arguments.parse_model_request(
        PretrainConfig, words[1:], program=f"{PROGRAM} {name}", text=text, default=default
    )


def run(words: list[str]) -> None:
    arguments.run_or_preview(parse_request(words), train, preview)


def preview(config: PretrainConfig) -> dict[str, object]:
    from pipelines.preview.pretrain import preview_run

    return preview_run(config)


def train(config: PretrainConfig) -> None:
    from pipelines.stages import pretrain  # torch and Ray take seconds to import: only for a valid command line

    print_result(pretrain.run(config, ProgressReporter("pretrain")))


def main() -> None:
    console.main(lambda: run(sys.argv[1:]))


if __name__ == "__main__":
    main()
