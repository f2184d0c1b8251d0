"""Stage 2: labelled audio-video clips -> a classifier in which no modality starves, as resumable checkpoints."""

from dataclasses import replace
from functools import partial
from typing import Any

import ray
import torch
from torch import Tensor

from pipelines import cluster, corpora, stage
from pipelines.classifier import (
    FIELDS,
    build_classifier,
    fields_of,
    load_files,
    save_files,
    weights_to_start_from,
)
from pipelines.config.adapt import Config
from pipelines.lasting import check_output
from pipelines.saver import ModelFiles
from pipelines.source import Stream
from pipelines.stage import News, Result
from pipelines.train import Job
from xmodal import storage
from xmodal.errors import ConfigError
from xmodal.run import Run
from xmodal.training.balance import audited, balanced
from xmodal.training.state import TrainState


def run(config: Config, on_news: News = lambda message: None) -> Result:
    """Train to the end, from the start or (with `resume`) from the newest checkpoint that verifies.

    Everything that can be wrong with the configuration, the storage or the corpora is raised before a worker starts.
    """
    config, parameters, start = _prepared(config)
    held = cluster.connect(config.resources)
    opened = stage.open_all(config.data, on_news)
    maps = [corpora.field_map(corpus, config.data.fields, FIELDS) for corpus in opened]
    streams = stage.streams(config, opened, maps, fields_of(config.model, config.augment))
    held = stage.fitting(held, streams, config, on_news)
    steps = stage.total_steps(config.optim, streams)
    record = stage.open_record(config, opened)
    make_job = partial(_job, config, record, steps, streams, start, held)
    return stage.carry_out(
        record, streams, held, steps=steps, parameters=parameters, make_job=make_job, on_news=on_news
    )


def check(config: Config) -> tuple[Config, int]:
    """All that can be known without a cluster: places by absolute paths, and how many parameters the model has.

    Raises what is wrong with the configuration, the storage, the run's directory, or the checkpoint to start from.
    """
    config, parameters, _ = _prepared(config)
    return config, parameters


def _prepared(config: Config) -> tuple[Config, int, dict[str, Tensor] | None]:
    """The same, and the weights that the encoders begin with."""
    if not config.model.classes:
        raise ConfigError("name the classes of the corpus, in the order of their numbers: --classes dog cat bird")
    check_output(config.runs, "--runs")
    begin = config.model.start_from
    model_config = replace(config.model, start_from=begin and storage.absolute(begin))
    config = replace(
        config, runs=storage.absolute(config.runs), data=stage.anchored(config.data), model=model_config
    )  # fmt: skip
    stage.check(config, FIELDS)
    model = build_classifier(config.model, config.seed)
    balanced(config.balance, model)
    start = weights_to_start_from(config.model, config.data.storage)
    return config, sum(p.numel() for p in model.parameters()), start


def make_state(config: Config, start: ray.ObjectRef, steps: int, device: torch.device) -> TrainState:
    """The training state of step 0 on one rank; `start` is what its encoders begin with, or None."""
    model = build_classifier(config.model, config.seed, ray.get(start)).to(device)
    objective, space = balanced(config.balance, model)
    return stage.state_of(config, objective, steps, space=space, audit=audited(config.balance, objective))


def _job(
    config: Config,
    record: Run,
    steps: int,
    streams: list[Stream],
    start: dict[str, Tensor] | None,
    held: cluster.Cluster,
    news: Any,
) -> Job:
    return Job(
        run=record,
        steps=steps,
        streams=[ray.put(streams)],
        make_state=partial(make_state, config, ray.put(start), steps),
        files=ModelFiles(save=partial(save_files, config.model.classes), load=load_files),
        cadence=config.cadence,
        max_bad_fraction=config.data.max_bad_fraction,
        tasks_per_segment=config.data.tasks_per_segment,
        per_worker=held.per_worker,
        news=news,
    )
