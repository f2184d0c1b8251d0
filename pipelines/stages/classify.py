"""Train a multimodal classifier on labelled clips, or images with texts, so that no modality is neglected.

With a target, rows of another domain without labels, domain losses make the encoders' outputs alike on both.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from pipelines.config.classify import ClassifyConfig
from pipelines.loop.stage_model import StageModel
from pipelines.models import classifier
from pipelines.models.classifier import build_classifier, decoded_fields, initial_encoder_weights
from pipelines.models.domain_heads import build_alignment_points, load_critics, save_critics
from pipelines.runtime import cluster
from pipelines.runtime.events import OnEvent, ignore, notifier
from pipelines.runtime.output_path import check_output
from pipelines.stages import training_job
from pipelines.stages.absolute_paths import (
    absolute_uri,
    absolute_uris,
    data_with_absolute_paths,
    run_with_absolute_path,
)
from pipelines.stages.caption_tokenizer import store_tokenizer, tokenizer_of_run, train_on_captions
from pipelines.stages.training_job import TrainingResult
from pipelines.stream.domain_corpora import (
    DomainCorpora,
    TargetRole,
    check_target_shares,
    domain_streams,
    open_domains,
    target_by_uri,
    target_uris,
)
from pipelines.stream.source import Stream
from xmodal.data.decode.fields import FieldMap
from xmodal.data.decode.tokenizer import train_tokenizer
from xmodal.data.index import field_maps
from xmodal.encoders.hub_tokenizer import load_tokenizer
from xmodal.encoders.multimodal_classifier import MultimodalClassifier
from xmodal.errors import ConfigError
from xmodal.training.balanced_learning import build_audit, build_objective
from xmodal.training.domain_methods import JOINT, TARGET
from xmodal.training.engine.state import TrainState
from xmodal.training.objectives.alignment_points import AlignmentPoints
from xmodal.training.objectives.classification import ClassificationObjective


@dataclass(frozen=True, eq=False)
class InitialClassifier:
    """What a classifier begins with."""

    weights: dict[str, Tensor] | None  # of the encoders; None: drawn from the seed
    tokenizer: str | None  # of a text encoder, as JSON; None: it reads no text, or has yet to be trained


def run(config: ClassifyConfig, on_event: OnEvent = ignore) -> TrainingResult:
    """Train to the end, from the start or (with `resume`) from the newest valid checkpoint.

    Everything that can be wrong with the configuration, the storage or the corpora is raised before a worker starts.
    """
    config, start = _check(config)
    connected = cluster.connect(config.resources)
    opened = open_domains(config, on_event)
    maps = [field_maps.field_map(corpus, config.data.fields, config.model.fields) for corpus in opened.source]
    trains_tokenizer = config.model.reads_text and start.tokenizer is None
    if trains_tokenizer:
        notifier(on_event)("training a tokenizer on the texts")
        start = replace(start, tokenizer=train_on_captions(opened.source, maps, config.model.vocab_size))
    streams = build_streams(config, opened, maps, start.tokenizer)
    usable = training_job.usable_cluster(connected, streams, config, on_event)
    steps = training_job.total_steps(config.optim, streams)
    directory = training_job.open_run_directory(config, opened.source, target_by_uri(config, opened))
    if trains_tokenizer and start.tokenizer is not None:
        store_tokenizer(start.tokenizer, directory)
    parameters = _number_of_parameters(config, start.tokenizer)
    model = StageModel(
        start=start,
        make_state=partial(make_state, config, steps),
        save=partial(save_files, config.model.classes),
        load=load_files,
    )
    return training_job.run_job(
        config, directory, streams, model, usable, steps=steps, parameters=parameters, on_event=on_event
    )


def check(config: ClassifyConfig) -> tuple[ClassifyConfig, int]:
    """Check all that needs no cluster; return the configuration with absolute paths, and the model's parameters.

    Raises what is wrong with the configuration, the storage, the run's directory, or the checkpoint to start from.
    """
    config, start = _check(config)
    return config, _number_of_parameters(config, start.tokenizer or _stand_in(config))


def _check(config: ClassifyConfig) -> tuple[ClassifyConfig, InitialClassifier]:
    if not config.model.classes:
        raise ConfigError("name the classes of the corpus, in the order of their numbers: --classes dog cat bird")
    check_output(config.run.runs, "--runs")
    config = _with_absolute_paths(config)
    training_job.check(config, config.model.fields, also=target_uris(config))
    check_target_shares(config)
    tokenizer = _known_tokenizer(config)
    model = build_classifier(config.model, config.seed, tokenizer=tokenizer or _stand_in(config))
    build_objective(config.balance, model, build_points(config, model, 1))
    return config, InitialClassifier(initial_encoder_weights(config.model, config.data.storage), tokenizer)


def _known_tokenizer(config: ClassifyConfig) -> str | None:
    """Return the chosen tokenizer as JSON, or on a resume that of the run; None where it has yet to be trained."""
    if not config.model.reads_text:
        return None
    if config.model.tokenizer is not None:
        return load_tokenizer(config.model.tokenizer)
    return tokenizer_of_run(config.run, config.data)


def _stand_in(config: ClassifyConfig) -> str | None:
    """Return a tokenizer of the configured size, for a model that is only checked."""
    return train_tokenizer((), config.model.vocab_size) if config.model.reads_text else None


def _number_of_parameters(config: ClassifyConfig, tokenizer: str | None) -> int:
    with torch.device("meta"):
        model = build_classifier(config.model, config.seed, tokenizer=tokenizer)
    return sum(parameter.numel() for parameter in model.parameters())


def _with_absolute_paths(config: ClassifyConfig) -> ClassifyConfig:
    return replace(
        config,
        run=run_with_absolute_path(config.run),
        data=data_with_absolute_paths(config.data),
        model=replace(
            config.model,
            start_from=absolute_uri(config.model.start_from),
            tokenizer=_absolute_directory(config.model.tokenizer),
        ),
        target=replace(config.target, corpus=absolute_uris(config.target.corpus)),
    )


def _absolute_directory(name: str | None) -> str | None:
    """Return a local directory by its absolute path, a name on the Hub as it is."""
    return os.path.abspath(name) if name is not None and os.path.isdir(name) else name


def build_streams(
    config: ClassifyConfig, opened: DomainCorpora, maps: Sequence[FieldMap], tokenizer: str | None
) -> list[Stream]:
    """Return the streams of the source, then those of the target's rows, of which no label is read."""
    fields = decoded_fields(config.model, config.augment, tokenizer)
    roles = [TargetRole(role=TARGET, corpora=opened.target, fields=fields[:2])] if opened.target else []
    return domain_streams(config, opened, maps, fields, roles)


def build_points(config: ClassifyConfig, model: MultimodalClassifier, steps: int) -> AlignmentPoints | None:
    """Return the domain losses, with critics drawn from the seed; None without a target."""
    if not config.target.corpus:
        return None
    widths = {name: model.encoder(name).width for name in model.modalities} | {JOINT: model.fusion.dim}
    dims = {point: widths[point] for point in config.domain.classifier_alignment_points(model.modalities)}
    return build_alignment_points(config.domain, dims, steps, classes=model.classes, seed=config.seed)


def make_state(config: ClassifyConfig, steps: int, start: InitialClassifier, device: torch.device) -> TrainState:
    """Return the training state of step 0 on one rank."""
    model = build_classifier(config.model, config.seed, start.weights, tokenizer=start.tokenizer).to(device)
    points = build_points(config, model, steps)
    objective, space = build_objective(config.balance, model, points and points.to(device))
    audit = build_audit(config.balance, objective)
    return training_job.initial_state(config, objective, steps, space=space, audit=audit)


def save_files(classes: tuple[str, ...], start: InitialClassifier, state: TrainState, directory: Path) -> None:
    """Write the model as a described directory, and beside it the critics where there is a target."""
    classifier.save_files(classes, start.tokenizer, state, directory)
    if (points := _points_in(state)) is not None:
        save_critics(points, directory)


def load_files(state: TrainState, directory: Path) -> None:
    """Read the model and the critics; CheckpointError where the critics are of other sizes."""
    classifier.load_files(state, directory)
    if (points := _points_in(state)) is not None:
        load_critics(points, directory)


def _points_in(state: TrainState) -> AlignmentPoints | None:
    return cast(ClassificationObjective, state.objective).places
