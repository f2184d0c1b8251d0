"""Adapt a dual encoder to a target domain without pairs, while it trains on pairs of a source domain."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from pipelines.config.adapt import AdaptConfig
from pipelines.config.data import check_fields
from pipelines.loop.stage_model import StageModel
from pipelines.loop.target_validation import UnlabelledRows, check_score_names
from pipelines.loop.train import HeldOut
from pipelines.loop.validation import open_held_out, open_rows
from pipelines.models import label_head
from pipelines.models.domain_heads import build_alignment_points, load_critics, save_critics
from pipelines.models.dual_encoder import load_model, save_model
from pipelines.models.initial_weights import InitialWeights, absolute_start, load_initial_weights
from pipelines.runtime import cluster
from pipelines.runtime.events import OnEvent, ignore, notifier
from pipelines.runtime.output_path import check_output
from pipelines.stages import target_protocol, training_job
from pipelines.stages.absolute_paths import (
    absolute_uri,
    absolute_uris,
    data_with_absolute_paths,
    run_with_absolute_path,
)
from pipelines.stages.training_job import TrainingResult
from pipelines.stream.domain_corpora import (
    DomainCorpora,
    check_target_shares,
    domain_streams,
    open_domains,
    source_streams,
    target_by_uri,
    target_field_specs,
    target_uris,
)
from pipelines.stream.prompt_bank import read_captions, sample_source_captions, tokenize_captions
from pipelines.stream.source import Stream
from xmodal import storage
from xmodal.batch import Batch
from xmodal.callbacks import Notify
from xmodal.data.decode.fields import Field
from xmodal.encoders.dual_encoder import DualEncoder
from xmodal.encoders.input_fields import fields_for_model
from xmodal.errors import CheckpointError, ConfigError, StorageError
from xmodal.training.balanced_learning import build_embedding_splitter
from xmodal.training.domain_methods import PROBABILITY_METHODS
from xmodal.training.engine.state import TrainState
from xmodal.training.objectives.adaptation import AdaptationObjective
from xmodal.training.objectives.contrastive import ContrastiveObjective
from xmodal.training.objectives.unlabelled import UnlabelledLosses


def run(config: AdaptConfig, on_event: OnEvent = ignore) -> TrainingResult:
    """Train to the end, from the start or (with `resume`) from the newest valid checkpoint.

    Everything that can be wrong with the configuration, the storage or the corpora is raised before a worker starts.
    """
    config, start, encoder = check(config)
    connected = cluster.connect(config.resources)
    opened = open_domains(config, on_event)
    notify = notifier(on_event)
    target_protocol.note_unused_pairs(config, opened, notify)
    streams = build_streams(config, opened, encoder, start.tokenizer)
    bank = build_bank(config, streams)
    held_out = _open_held_out(config, opened, streams, fields_for_model(encoder, start.tokenizer), notify)
    usable = training_job.usable_cluster(connected, streams, config, on_event)
    steps = training_job.total_steps(config.optim, streams)
    directory = training_job.open_run_directory(config, opened.source, target_by_uri(config, opened))
    model = StageModel(
        start=start,
        make_state=partial(make_state, config, bank, steps),
        save=partial(save_files, config.label.classes),
        load=load_files,
    )
    return training_job.run_job(
        config, directory, streams, model, usable, steps=steps,
        parameters=sum(p.numel() for p in make_objective(config, encoder, steps, bank).parameters()),
        held_out=held_out, on_event=on_event,
    )  # fmt: skip


def check(config: AdaptConfig) -> tuple[AdaptConfig, InitialWeights, DualEncoder]:
    """Check all that needs no cluster; return the configuration with absolute paths, the initial weights, the model.

    Raises what is wrong with the configuration, the storage, the run's directory, or the checkpoint to start from.
    """
    check_output(config.run.runs, "--runs")
    start = _initial_weights(config)
    config = _with_absolute_paths(config, start)
    encoder = start.model()
    for specs in (config.target.fields, config.validation.fields):
        check_fields(specs, encoder.modalities)
    held_out = (config.validation.corpus, config.target_validation.corpus)
    training_job.check(config, encoder.modalities, also=filter(None, [*target_uris(config), *held_out]))
    check_target_shares(config)
    fields = fields_for_model(encoder, start.tokenizer)
    captions = read_captions(config, fields) or ["a stand-in"] * config.domain.bank_size
    _check_target_validation(config, start)
    needs_bank = config.domain.loss in PROBABILITY_METHODS
    make_objective(config, encoder, 1, tokenize_captions(captions, fields[1]) if needs_bank else None)
    return config, start, encoder


def _initial_weights(config: AdaptConfig) -> InitialWeights:
    """Load what the run begins with; where that is gone, a resumed run has all it needs in its own checkpoints."""
    uri, options = absolute_start(config.start_from), config.data.storage
    try:
        return load_initial_weights(uri, options)
    except (CheckpointError, StorageError):
        if not config.run.resume:
            raise
        run = storage.join(storage.absolute(config.run.runs), config.run.name)
        return replace(load_initial_weights(run, options), uri=uri)


def _with_absolute_paths(config: AdaptConfig, start: InitialWeights) -> AdaptConfig:
    """Make paths absolute and name the very checkpoint to start from: its run may have a newer one tomorrow."""
    target, data = config.target, config.data
    return replace(
        config,
        run=run_with_absolute_path(config.run),
        data=data_with_absolute_paths(data),
        start_from=start.uri,
        target=replace(target, corpus=absolute_uris(target.corpus), texts=absolute_uris(target.texts)),
        label=replace(config.label, classes=label_head.read_class_names(config.label, data.storage)),
        domain=replace(config.domain, bank=absolute_uri(config.domain.bank)),
        validation=replace(config.validation, corpus=absolute_uri(config.validation.corpus)),
        target_validation=replace(config.target_validation, corpus=absolute_uri(config.target_validation.corpus)),
    )


def _check_target_validation(config: AdaptConfig, start: InitialWeights) -> None:
    check_score_names(config.target_validation.scores)
    if config.target_validation.corpus is not None and start.tokenizer is None:
        raise ConfigError(
            "--target-validation scores images over captions, and this model reads no text: leave it out, and "
            "measure with jobs.compare"
        )


def make_objective(config: AdaptConfig, encoder: DualEncoder, steps: int, bank: Batch | None) -> AdaptationObjective:
    """Build what is minimised, with critics drawn from the seed; ConfigError where model and settings do not fit."""
    domain, target = config.domain, config.target
    loss = config.objective or ("info_nce" if encoder.logit_bias is None else "sigmoid")
    points = domain.alignment_points(encoder.modalities, texts=target.protocol == "unpaired")
    return AdaptationObjective(
        ContrastiveObjective(encoder, loss, mask_duplicates=config.mask_duplicates),
        build_alignment_points(
            domain, dict.fromkeys(points, encoder.dim), steps,
            classes=0 if bank is None else len(bank), seed=config.seed,
        ),
        unlabelled=UnlabelledLosses(
            consistency=target.consistency, pseudo_pairs=target.pseudo_pairs, threshold=target.threshold
        ),
        bank=bank,
        label=label_head.build_label_predictor(config.label, encoder, config.seed),
        splitter=build_embedding_splitter(config.balance) if config.combines_gradients else None,
    )  # fmt: skip


def make_state(
    config: AdaptConfig, bank: Batch | None, steps: int, start: InitialWeights, device: torch.device
) -> TrainState:
    """Return the training state of step 0 on one rank."""
    objective = make_objective(config, start.model(), steps, bank).to(device)
    return training_job.initial_state(config, objective, steps)


def save_files(classes: tuple[str, ...], start: InitialWeights, state: TrainState, directory: Path) -> None:
    """Write the model as a Hugging Face directory; critics and label predictor beside it."""
    save_model(start.tokenizer, state, directory)
    objective = _objective_of(state)
    save_critics(objective.places, directory)
    if objective.label is not None:
        label_head.save_label_predictor(objective.label, classes, directory)


def load_files(state: TrainState, directory: Path) -> None:
    """Read model, critics and label predictor; CheckpointError where something is of other sizes."""
    load_model(state, directory)
    objective = _objective_of(state)
    load_critics(objective.places, directory)
    if objective.label is not None:
        label_head.load_label_predictor(objective.label, directory)


def _objective_of(state: TrainState) -> AdaptationObjective:
    assert isinstance(state.objective, AdaptationObjective)
    return state.objective


def build_streams(
    config: AdaptConfig, opened: DomainCorpora, encoder: DualEncoder, tokenizer: str | None
) -> list[Stream]:
    """Return the streams of the source, then those of the target's images, then those of its texts."""
    label, fields = config.label, fields_for_model(encoder, tokenizer, config.augment)
    source_fields = fields if label.field is None else (*fields, label_head.label_field(label))
    maps = [label_head.field_map_with_label(label, corpus, config.data, encoder.modalities) for corpus in opened.source]
    return domain_streams(config, opened, maps, source_fields, target_protocol.target_roles(config, opened, fields))


def build_bank(config: AdaptConfig, streams: Sequence[Stream]) -> Batch | None:
    """Return the captions whose probabilities the domain loss reads; None for a loss that reads none."""
    if config.domain.loss not in PROBABILITY_METHODS:
        return None
    pairs = source_streams(streams)
    fields = pairs[0].decoder.fields
    return tokenize_captions(read_captions(config, fields) or sample_source_captions(config, pairs), fields[1])


def _open_held_out(
    config: AdaptConfig, opened: DomainCorpora, streams: Sequence[Stream], fields: tuple[Field, ...], notify: Notify
) -> list[HeldOut]:
    """Open what is evaluated between steps: pairs of the source, and rows of the target without labels."""
    held_out: list[HeldOut] = []
    pairs = open_held_out(config.validation, config.data, fields, notify)
    if pairs is not None:
        target_protocol.check_no_target_pairs(pairs.corpus, opened.target)
        held_out.append(pairs)
    validation = config.target_validation
    if validation.corpus is not None:
        rows = open_rows(
            validation.corpus, target_field_specs(config, (fields[0].name,)), fields[:1],
            every=validation.every, rows=validation.rows, data=config.data, notify=notify,
        )  # fmt: skip
        captions = read_captions(config, fields) or sample_source_captions(config, source_streams(streams))
        held_out.append(UnlabelledRows(rows, tokenize_captions(captions, fields[1]), validation.scores))
    return held_out
