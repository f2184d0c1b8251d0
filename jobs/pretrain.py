"""Pretrain a dual encoder on image-text pairs, or on the pictures and the sound of clips.

    python -m jobs.pretrain vit-tiny --corpus shards/
    python -m jobs.pretrain vit-b-32 --corpus s3://bucket/a s3://bucket/b --weights 3 1 --runs s3://bucket/runs
    python -m jobs.pretrain av-tiny --corpus clips/ --arguments seconds=2 frames=12 --workers 2
    python -m jobs.pretrain vit-b-32 --corpus s3://bucket/a --name first --runs s3://bucket/runs --resume

A run lives in RUNS/NAME: run.json, metrics.jsonl, tensorboard/, quarantine.parquet and checkpoints/, each of which is
a Hugging Face directory. It may be killed at any moment: the same command with --resume goes on from the last
checkpoint with the same rows in the same order, on any number of workers. `--workers 2:8` starts with two and grows
with the cluster.

--dry-run checks everything that needs no cluster, prints the resolved configuration and the resources that the run
will ask for as JSON, and starts nothing. On a cluster: python -m jobs.submit -- jobs.pretrain PRESET ...
"""

import sys
from typing import Any

import tyro

from jobs import arguments, console
from jobs.presets import PRESETS
from jobs.progress_reporter import Narrator
from pipelines.config.data import Data
from pipelines.config.pretrain import Config

PROGRAM = "python -m jobs.pretrain"


def parse(words: list[str]) -> Config:
    """The preset named first, with the flags behind it set over its values. ConfigError names the nearest preset."""
    return parse_start(words).config


def parse_start(words: list[str]) -> arguments.Start[Config]:
    """The same, and whether to start."""
    name, preset = arguments.preset(words, PRESETS, program=PROGRAM, text=__doc__)
    default = Config(
        name=name,
        data=Data(corpus=tyro.MISSING),
        model=preset.model,
        optim=preset.optim,
        augment=preset.augment,
    )
    text = f"{__doc__}\n{name}: {preset.summary}\n"
    return arguments.parse_start(Config, words[1:], program=f"{PROGRAM} {name}", text=text, default=default)


def run(words: list[str]) -> None:
    arguments.begin(parse_start(words), train, preview)


def preview(config: Config) -> dict[str, Any]:
    from pipelines.preview.pretrain import of

    return of(config)


def train(config: Config) -> None:
    from pipelines.stages import pretrain  # torch, Ray and seconds, for a command line that is sound

    result = pretrain.run(config, Narrator("pretrain"))
    if result.found_finished:
        print(f"the run {config.name!r} was finished already, at step {result.step:,}")
    print(f"run         {result.run.uri}")
    print(f"checkpoint  {result.checkpoint}")
    print(f"next        python -m jobs.evaluate {result.run.uri} HELD_OUT_CORPUS")


def main() -> None:
    console.main(lambda: run(sys.argv[1:]))


if __name__ == "__main__":
    main()
