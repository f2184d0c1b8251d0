"""Stage 2 for dual encoders: a checkpoint, pairs of a source, a target without pairs -> the encoder at home in both."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import ray
import torch

from pipelines.config.adapt import Config
from pipelines.config.data import check_fields
from pipelines.loop.saver import ModelFiles
from pipelines.loop.target_validation import TargetRows, check_names
from pipelines.loop.train import Job
from pipelines.loop.validation import HeldOut, open_held_out, open_rows
from pipelines.models import label_head
from pipelines.models.domain_heads import build_places, load_critics, save_critics
from pipelines.models.dual_encoder import load_model, save_model
from pipelines.models.initial_weights import Start, start_from
from pipelines.models.initial_weights import anchored as anchored_start
from pipelines.runtime import cluster
from pipelines.runtime.output_path import check_output
from pipelines.stages import target_protocol, training_job
from pipelines.stages.training_job import News, Result
from pipelines.stream import domain_corpora
from pipelines.stream.corpora import Notify
from pipelines.stream.domain_corpora import (
    Opened,
    by_uri,
    check_shares,
    of_source,
    open_corpora,
    specs_of_target,
    target_uris,
)
from pipelines.stream.prompt_bank import as_batch, captions_of_source, named_captions
from pipelines.stream.source import Stream
from xmodal import storage
from xmodal.batch import Batch
from xmodal.data.decode.fields import Field
from xmodal.encoders.dual_encoder import DualEncoder
from xmodal.encoders.input_fields import fields_of
from xmodal.errors import CheckpointError, ConfigError, StorageError
from xmodal.run import Run
from xmodal.training.balanced_learning import balanced_encoder
from xmodal.training.domain_methods import WITH_BANK
from xmodal.training.engine.state import TrainState
from xmodal.training.objective import ContrastiveObjective
from xmodal.training.objectives.adaptation import AdaptationObjective
from xmodal.training.objectives.unlabelled import Unlabelled


def run(config: Config, on_news: News = lambda message: None) -> Result:
    """Train to the end, from the start or (with `resume`) from the newest checkpoint that verifies.

    Everything that can be wrong with the configuration, the storage or the corpora is raised before a worker starts.
    """
    config, start, model = check(config)
    held = cluster.connect(config.resources)
    opened = open_corpora(config, on_news)
    target_protocol.tell(config, opened, training_job.note(on_news))
    streams = streams_of(config, opened, model, start.tokenizer)
    bank = bank_of(config, streams)
    measured = _measured(config, opened, streams, fields_of(model, start.tokenizer), training_job.note(on_news))
    held = training_job.fitting(held, streams, config, on_news)
    steps = training_job.total_steps(config.optim, streams)
    record = training_job.open_record(config, opened.source, by_uri(config, opened))
    make_job = partial(_job, config, record, steps, streams, measured, start, bank, held)
    parameters = sum(p.numel() for p in make_objective(config, model, steps, bank).parameters())
    return training_job.carry_out(
        record, streams, held, steps=steps, parameters=parameters, make_job=make_job, on_news=on_news
    )


def check(config: Config) -> tuple[Config, Start, DualEncoder]:
    """All that can be known without a cluster: places by absolute paths, the checkpoint to start from, its model.

    Raises what is wrong with the configuration, the storage, the run's directory, or that checkpoint.
    """
    check_output(config.runs, "--runs")
    start = _start(config)
    config = _anchored(config, start)
    model = start.model()
    for specs in (config.target.fields, config.validation.fields):
        check_fields(specs, model.modalities)
    training_job.check(config, model.modalities, also=filter(None, [*target_uris(config), *_validated(config)]))
    check_shares(config)
    fields = fields_of(model, start.tokenizer)
    captions = named_captions(config, fields) or ["a stand-in"] * config.domain.bank_size
    _check_target_validation(config, start)
    make_objective(config, model, 1, as_batch(captions, fields[1]) if config.domain.loss in WITH_BANK else None)
    return config, start, model


def _start(config: Config) -> Start:
    """What the run begins with; where that has gone since, a resumed run has all it needs in its own checkpoints."""
    place, options = anchored_start(config.start_from), config.data.storage
    try:
        return start_from(place, options)
    except (CheckpointError, StorageError):
        if not config.resume:
            raise
        own = start_from(storage.join(storage.absolute(config.runs), config.name), options)
        return replace(own, uri=place)


def _check_target_validation(config: Config, start: Start) -> None:
    check_names(config.target_validation.scores)
    if config.target_validation.corpus is not None and start.tokenizer is None:
        raise ConfigError(
            "--target-validation scores pictures over captions, and this model reads no text: leave it out, and "
            "measure with jobs.compare"
        )


def make_objective(config: Config, model: DualEncoder, steps: int, bank: Batch | None) -> AdaptationObjective:
    """What is minimised; the critics are drawn from the seed. ConfigError where model and configuration do not fit."""
    chosen, texts = config.domain, config.target.protocol == "unpaired"
    loss = config.objective or ("info_nce" if model.logit_bias is None else "sigmoid")
    contrast = ContrastiveObjective(model, loss, mask_duplicates=config.mask_duplicates)
    dims = dict.fromkeys(chosen.places(model.modalities, texts=texts), model.dim)
    places = build_places(chosen, dims, steps, classes=0 if bank is None else len(bank), seed=config.seed)
    own = config.target
    unlabelled = Unlabelled(consistency=own.consistency, pseudo_pairs=own.pseudo_pairs, threshold=own.threshold)
    return AdaptationObjective(
        contrast,
        places,
        unlabelled=unlabelled,
        bank=bank,
        label=label_head.build(config.label, model, config.seed),
        splitter=balanced_encoder(config.balance) if config.weighed else None,
    )


def make_state(
    config: Config, start: ray.ObjectRef, bank: Batch | None, steps: int, device: torch.device
) -> TrainState:
    """The training state of step 0 on one rank."""
    begin: Start = ray.get(start)
    objective = make_objective(config, begin.model(), steps, bank).to(device)
    return training_job.state_of(config, objective, steps)


def save_files(tokenizer: ray.ObjectRef, classes: tuple[str, ...], state: TrainState, directory: Path) -> None:
    """The model as a Hugging Face directory; critics and label predictor beside it."""
    save_model(tokenizer, state, directory)
    objective = _objective_of(state)
    save_critics(objective.places, directory)
    if objective.label is not None:
        label_head.save(objective.label, classes, directory)


def load_files(state: TrainState, directory: Path) -> None:
    """All of it again; CheckpointError where something is of other sizes."""
    load_model(state, directory)
    objective = _objective_of(state)
    load_critics(objective.places, directory)
    if objective.label is not None:
        label_head.restore(objective.label, directory)


def _objective_of(state: TrainState) -> AdaptationObjective:
    assert isinstance(state.objective, AdaptationObjective)
    return state.objective


def _anchored(config: Config, start: Start) -> Config:
    """The same places by absolute paths, and the very checkpoint to start from: a run may have a newer one tomorrow."""
    target = config.target
    held_out, looked_at = _validated(config)
    return replace(
        config,
        runs=storage.absolute(config.runs),
        data=training_job.anchored(config.data),
        start_from=start.uri,
        target=replace(
            target,
            corpus=domain_corpora.anchored(target.corpus),
            texts=domain_corpora.anchored(target.texts),
        ),
        label=replace(config.label, classes=label_head.named(config.label, config.data.storage)),
        domain=replace(config.domain, bank=config.domain.bank and storage.absolute(config.domain.bank)),
        validation=replace(config.validation, corpus=held_out and storage.absolute(held_out)),
        target_validation=replace(config.target_validation, corpus=looked_at and storage.absolute(looked_at)),
    )


def _validated(config: Config) -> tuple[str | None, str | None]:
    return config.validation.corpus, config.target_validation.corpus


def streams_of(config: Config, opened: Opened, model: DualEncoder, tokenizer: str | None) -> list[Stream]:
    """The source's, then those of the target's pictures, then those of its texts."""
    fields = fields_of(model, tokenizer, config.augment)
    of_source = fields if config.label.field is None else (*fields, label_head.field_of(config.label))
    maps = [label_head.with_label(config.label, corpus, config.data, model.modalities) for corpus in opened.source]
    return domain_corpora.streams_of(config, opened, maps, of_source, target_protocol.parts_of(config, opened, fields))


def bank_of(config: Config, streams: Sequence[Stream]) -> Batch | None:
    """The captions that the domain loss reads probabilities of; None for one that reads none."""
    if config.domain.loss not in WITH_BANK:
        return None
    pairs = of_source(streams)
    fields = pairs[0].recipe.fields
    return as_batch(named_captions(config, fields) or captions_of_source(config, pairs), fields[1])


def _measured(
    config: Config, opened: Opened, streams: Sequence[Stream], fields: tuple[Field, ...], notify: Notify
) -> list[HeldOut | TargetRows]:
    """What is measured between steps: retrieval on pairs of the source, label-free scores on rows of the target."""
    found: list[HeldOut | TargetRows] = []
    held_out = open_held_out(config.validation, config.data, fields, notify)
    if held_out is not None:
        target_protocol.refuse_pairs_of_target(held_out.corpus, opened.target)
        found.append(held_out)
    asked = config.target_validation
    if asked.corpus is not None:
        specs = specs_of_target(config, (fields[0].name,))
        rows = open_rows(
            asked.corpus, specs, fields[:1], every=asked.every, rows=asked.rows, data=config.data, notify=notify
        )
        captions = named_captions(config, fields) or captions_of_source(config, of_source(streams))
        found.append(TargetRows(rows, as_batch(captions, fields[1]), asked.scores))
    return found


def _job(
    config: Config,
    record: Run,
    steps: int,
    streams: list[Stream],
    measured: list[HeldOut | TargetRows],
    start: Start,
    bank: Batch | None,
    held: cluster.Cluster,
    news: Any,
) -> Job:
    tokenizer = ray.put(start.tokenizer)
    return Job(
        run=record,
        steps=steps,
        streams=[ray.put(streams)],
        make_state=partial(make_state, config, ray.put(start), bank, steps),
        files=ModelFiles(save=partial(save_files, tokenizer, config.label.classes), load=load_files),
        cadence=config.cadence,
        max_bad_fraction=config.data.max_bad_fraction,
        tasks_per_segment=config.data.tasks_per_segment,
        per_worker=held.per_worker,
        news=news,
        held_out=tuple(map(ray.put, measured)),
    )
