"""Stage 2: labelled audio-video clips -> a classifier in which no modality starves, as resumable checkpoints.

With a target, clips of another domain without labels, the same classifier becomes at home in both.
"""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import ray
import torch
from torch import Tensor

from pipelines.config.classify import Config
from pipelines.loop.saver import ModelFiles
from pipelines.loop.train import Job
from pipelines.models import classifier
from pipelines.models.classifier import FIELDS, build_classifier, fields_of, weights_to_start_from
from pipelines.models.domain_heads import build_places, load_critics, save_critics
from pipelines.runtime import cluster
from pipelines.runtime.output_path import check_output
from pipelines.stages import training_job
from pipelines.stages.training_job import News, Result
from pipelines.stream import corpora, domain_corpora
from pipelines.stream.domain_corpora import Opened, Part, by_uri, check_shares, open_corpora, target_uris
from pipelines.stream.source import Stream
from xmodal import storage
from xmodal.encoders.multimodal_classifier import MultimodalClassifier
from xmodal.errors import ConfigError
from xmodal.run import Run
from xmodal.training.balanced_learning import audited, balanced
from xmodal.training.domain_methods import JOINT, TARGET
from xmodal.training.engine.state import TrainState
from xmodal.training.objectives.alignment_points import Places
from xmodal.training.objectives.classification import ClassificationObjective


def run(config: Config, on_news: News = lambda message: None) -> Result:
    """Train to the end, from the start or (with `resume`) from the newest checkpoint that verifies.

    Everything that can be wrong with the configuration, the storage or the corpora is raised before a worker starts.
    """
    config, parameters, start = _prepared(config)
    held = cluster.connect(config.resources)
    opened = open_corpora(config, on_news)
    streams = streams_of(config, opened)
    held = training_job.fitting(held, streams, config, on_news)
    steps = training_job.total_steps(config.optim, streams)
    record = training_job.open_record(config, opened.source, by_uri(config, opened))
    make_job = partial(_job, config, record, steps, streams, start, held)
    return training_job.carry_out(
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
    target = replace(config.target, corpus=domain_corpora.anchored(config.target.corpus))
    config = replace(
        config,
        runs=storage.absolute(config.runs),
        data=training_job.anchored(config.data),
        model=model_config,
        target=target,
    )
    training_job.check(config, FIELDS, also=target_uris(config))
    check_shares(config)
    model = build_classifier(config.model, config.seed)
    balanced(config.balance, model, places_of(config, model, 1))
    start = weights_to_start_from(config.model, config.data.storage)
    return config, sum(p.numel() for p in model.parameters()), start


def streams_of(config: Config, opened: Opened) -> list[Stream]:
    """The source's, then those of the target's clips, of which no label is read."""
    fields = fields_of(config.model, config.augment)
    parts = [Part(role=TARGET, corpora=opened.target, fields=fields[:2])] if opened.target else []
    maps = [corpora.field_map(corpus, config.data.fields, FIELDS) for corpus in opened.source]
    return domain_corpora.streams_of(config, opened, maps, fields, parts)


def places_of(config: Config, model: MultimodalClassifier, steps: int) -> Places | None:
    """Where the domain losses work and what they are, drawn from the seed; None without a target."""
    if not config.target.corpus:
        return None
    widths = {name: model.encoder(name).width for name in model.modalities} | {JOINT: model.fusion.dim}
    dims = {place: widths[place] for place in config.domain.places_of_classifier(model.modalities)}
    return build_places(config.domain, dims, steps, classes=model.classes, seed=config.seed)


def make_state(config: Config, start: ray.ObjectRef, steps: int, device: torch.device) -> TrainState:
    """The training state of step 0 on one rank; `start` is what its encoders begin with, or None."""
    model = build_classifier(config.model, config.seed, ray.get(start)).to(device)
    places = places_of(config, model, steps)
    objective, space = balanced(config.balance, model, places and places.to(device))
    return training_job.state_of(config, objective, steps, space=space, audit=audited(config.balance, objective))


def save_files(classes: tuple[str, ...], state: TrainState, directory: Path) -> None:
    """The model as a described directory, and the critics beside it where there is a target."""
    classifier.save_files(classes, state, directory)
    if (places := _places_in(state)) is not None:
        save_critics(places, directory)


def load_files(state: TrainState, directory: Path) -> None:
    """Both again; CheckpointError where the critics are of other sizes."""
    classifier.load_files(state, directory)
    if (places := _places_in(state)) is not None:
        load_critics(places, directory)


def _places_in(state: TrainState) -> Places | None:
    return cast(ClassificationObjective, state.objective).places


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
