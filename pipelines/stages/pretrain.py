"""Stage 1: corpora of pairs -> a dual encoder trained with a contrastive loss, as resumable checkpoints."""

from dataclasses import replace
from functools import partial
from typing import Any

import ray
import torch

from pipelines.config.data import check_fields
from pipelines.config.pretrain import Config
from pipelines.loop.saver import ModelFiles
from pipelines.loop.train import Job
from pipelines.loop.validation import HeldOut, open_held_out
from pipelines.models.dual_encoder import anchored, build_model, given_tokenizer, load_model, reads_text, save_model
from pipelines.runtime import cluster
from pipelines.runtime.output_path import check_output
from pipelines.stages import training_job
from pipelines.stages.training_job import News, Result
from pipelines.stream import corpora
from pipelines.stream.source import Stream
from xmodal import storage
from xmodal.data.decode.fields import FieldMap
from xmodal.data.decode.tokenizer import train_tokenizer
from xmodal.data.index.corpus import Corpus
from xmodal.encoders import architectures
from xmodal.encoders.dual_encoder import DualEncoder
from xmodal.encoders.input_fields import fields_of
from xmodal.run import Run
from xmodal.storage import NotFound
from xmodal.training.engine.compilation import compile_towers
from xmodal.training.engine.state import TrainState
from xmodal.training.objective import ContrastiveObjective

TOKENIZER = "tokenizer.json"
CAPTIONS_FOR_TOKENIZER = 200_000


def run(config: Config, on_news: News = lambda message: None) -> Result:
    """Train to the end, from the start or (with `resume`) from the newest checkpoint that verifies.

    Everything that can be wrong with the configuration, the storage or the corpora is raised before a worker starts.
    """
    config, tokenizer, model = check(config)
    held = cluster.connect(config.resources)
    opened = training_job.open_all(config.data, on_news)
    maps = [corpora.field_map(corpus, config.data.fields, model.modalities) for corpus in opened]
    own = tokenizer is None and reads_text(config.model)
    if own:
        tokenizer = _tokenizer_of_corpora(config, opened, maps, on_news)
        model = _shapes(config, tokenizer)
    streams = training_job.streams(config, opened, maps, fields_of(model, tokenizer, config.augment))
    held_out = open_held_out(config.validation, config.data, fields_of(model, tokenizer), training_job.note(on_news))
    held = training_job.fitting(held, streams, config, on_news)
    steps = training_job.total_steps(config.optim, streams)
    record = training_job.open_record(config, opened)
    if own and tokenizer is not None:
        storage.write(storage.join(record.uri, TOKENIZER), tokenizer.encode(), options=record.options)
    make_job = partial(_job, config, record, steps, streams, held_out, tokenizer, held)
    parameters = sum(p.numel() for p in model.parameters())
    return training_job.carry_out(
        record, streams, held, steps=steps, parameters=parameters, make_job=make_job, on_news=on_news
    )


def check(config: Config) -> tuple[Config, str | None, DualEncoder]:
    """All that can be known without a cluster: places by absolute paths, the given tokenizer, the model's shapes.

    Raises what is wrong with the configuration, the storage, or the run's directory.
    """
    check_output(config.runs, "--runs")
    config = _anchored(config)
    fields = architectures.modalities(config.model.architecture)
    check_fields(config.validation.fields, fields)
    training_job.check(config, fields, also=filter(None, [config.validation.corpus]))
    tokenizer = _tokenizer(config)
    stand_in = train_tokenizer((), config.model.vocab_size) if reads_text(config.model) else None
    return config, tokenizer, _shapes(config, tokenizer or stand_in)


def _anchored(config: Config) -> Config:
    """The same places by absolute paths: the ranks work in a directory of Ray's."""
    held_out = config.validation.corpus
    validation = replace(config.validation, corpus=held_out and storage.absolute(held_out))
    runs, data = storage.absolute(config.runs), training_job.anchored(config.data)
    return replace(config, runs=runs, data=data, validation=validation, model=anchored(config.model))


def _tokenizer(config: Config) -> str | None:
    """The chosen tokenizer's JSON, or on a resume the run's own; None where it has yet to be trained."""
    given = given_tokenizer(config.model)
    if given is not None:
        return given
    try:
        uri = storage.join(config.runs, config.name, TOKENIZER)
        return storage.read(uri, options=config.data.storage).decode() if config.resume else None
    except NotFound:  # the run ended before it was stored; the same captions give the same one
        return None


def _tokenizer_of_corpora(config: Config, opened: list[Corpus], maps: list[FieldMap], on_news: News) -> str:
    training_job.note(on_news)("training a tokenizer on the captions")
    most = CAPTIONS_FOR_TOKENIZER // len(opened)
    texts = [t for c, m in zip(opened, maps, strict=True) for t in corpora.sample_texts(c, m, most=most)]
    return train_tokenizer(texts, config.model.vocab_size)


def _shapes(config: Config, tokenizer: str | None) -> DualEncoder:
    """The model without its weights, where none are loaded: refuses what cannot be built, in no time."""
    return build_model(config.model, config.loss, tokenizer, config.seed, meta=True)


def make_state(config: Config, tokenizer: ray.ObjectRef, steps: int, device: torch.device) -> TrainState:
    """The training state of step 0 on one rank."""
    model = build_model(config.model, config.loss, ray.get(tokenizer), config.seed).to(device)
    if config.model.compile:
        compile_towers(model.towers)
    objective = ContrastiveObjective(model, config.loss.objective, mask_duplicates=config.loss.mask_duplicates)
    return training_job.state_of(config, objective, steps)


def _job(
    config: Config,
    record: Run,
    steps: int,
    streams: list[Stream],
    held_out: HeldOut | None,
    tokenizer: str | None,
    held: cluster.Cluster,
    news: Any,
) -> Job:
    text = ray.put(tokenizer)
    return Job(
        run=record,
        steps=steps,
        streams=[ray.put(streams)],
        make_state=partial(make_state, config, text, steps),
        files=ModelFiles(save=partial(save_model, text), load=load_model),
        cadence=config.cadence,
        max_bad_fraction=config.data.max_bad_fraction,
        tasks_per_segment=config.data.tasks_per_segment,
        per_worker=held.per_worker,
        news=news,
        held_out=() if held_out is None else (ray.put(held_out),),
    )
