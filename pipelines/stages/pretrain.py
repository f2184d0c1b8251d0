"""Pretrain a dual encoder on pairs with a contrastive loss."""

from dataclasses import replace
from functools import partial

import torch

from pipelines.config.data import check_fields
from pipelines.config.pretrain import PretrainConfig
from pipelines.loop.stage_model import StageModel
from pipelines.loop.validation import open_held_out
from pipelines.models import dual_encoder
from pipelines.models.dual_encoder import build_model, load_given_tokenizer, load_model, reads_text, save_model
from pipelines.runtime import cluster
from pipelines.runtime.events import OnEvent, ignore, notifier
from pipelines.runtime.output_path import check_output
from pipelines.stages import training_job
from pipelines.stages.absolute_paths import absolute_uri, data_with_absolute_paths, run_with_absolute_path
from pipelines.stages.caption_tokenizer import store_tokenizer, tokenizer_of_run, train_on_captions
from pipelines.stages.training_job import TrainingResult
from pipelines.stream import corpora
from xmodal.data.decode.tokenizer import train_tokenizer
from xmodal.data.index import field_maps
from xmodal.encoders import architectures
from xmodal.encoders.dual_encoder import DualEncoder
from xmodal.encoders.input_fields import fields_for_model
from xmodal.training.engine.compilation import compile_towers
from xmodal.training.engine.state import TrainState
from xmodal.training.objectives.contrastive import ContrastiveObjective


def run(config: PretrainConfig, on_event: OnEvent = ignore) -> TrainingResult:
    """Train to the end, from the start or (with `resume`) from the newest valid checkpoint.

    Everything that can be wrong with the configuration, the storage or the corpora is raised before a worker starts.
    """
    config, tokenizer, model = check(config)
    connected = cluster.connect(config.resources)
    opened = corpora.open_corpora(config.data, on_event)
    maps = [field_maps.field_map(corpus, config.data.fields, model.modalities) for corpus in opened]
    trains_tokenizer = tokenizer is None and reads_text(config.model)
    if trains_tokenizer:
        notifier(on_event)("training a tokenizer on the captions")
        tokenizer = train_on_captions(opened, maps, config.model.vocab_size)
        model = _model_without_weights(config, tokenizer)
    streams = corpora.build_streams(
        config.data, opened, maps, fields_for_model(model, tokenizer, config.augment),
        batch_size=config.optim.batch_size, workers=config.resources.sizes, seed=config.seed,
    )  # fmt: skip
    fields = fields_for_model(model, tokenizer)
    held_out = open_held_out(config.validation, config.data, fields, notifier(on_event))
    usable = training_job.usable_cluster(connected, streams, config, on_event)
    steps = training_job.total_steps(config.optim, streams)
    directory = training_job.open_run_directory(config, opened)
    if trains_tokenizer and tokenizer is not None:
        store_tokenizer(tokenizer, directory)
    stage_model = StageModel(
        start=tokenizer, make_state=partial(make_state, config, steps), save=save_model, load=load_model
    )
    return training_job.run_job(
        config, directory, streams, stage_model, usable, steps=steps,
        parameters=sum(p.numel() for p in model.parameters()),
        held_out=() if held_out is None else (held_out,), on_event=on_event,
    )  # fmt: skip


def check(config: PretrainConfig) -> tuple[PretrainConfig, str | None, DualEncoder]:
    """Check all that needs no cluster; return the configuration with absolute paths, its tokenizer, and the model.

    The tokenizer is None where it has yet to be trained, the model may have no weights. Raises what is wrong with the
    configuration, the storage, or the run's directory.
    """
    check_output(config.run.runs, "--runs")
    config = _with_absolute_paths(config)
    fields = architectures.modalities_of(config.model.architecture)
    check_fields(config.validation.fields, fields)
    training_job.check(config, fields, also=filter(None, [config.validation.corpus]))
    tokenizer = _given_tokenizer(config)
    stand_in = train_tokenizer((), config.model.vocab_size) if reads_text(config.model) else None
    return config, tokenizer, _model_without_weights(config, tokenizer or stand_in)


def _with_absolute_paths(config: PretrainConfig) -> PretrainConfig:
    return replace(
        config,
        run=run_with_absolute_path(config.run),
        data=data_with_absolute_paths(config.data),
        validation=replace(config.validation, corpus=absolute_uri(config.validation.corpus)),
        model=dual_encoder.with_absolute_paths(config.model),
    )


def _given_tokenizer(config: PretrainConfig) -> str | None:
    """Return the chosen tokenizer as JSON, or on a resume that of the run; None where it has yet to be trained."""
    given = load_given_tokenizer(config.model)
    return tokenizer_of_run(config.run, config.data) if given is None else given


def _model_without_weights(config: PretrainConfig, tokenizer: str | None) -> DualEncoder:
    """Build the model's shapes, fast; with weights where these are loaded. Raises what cannot be built."""
    return build_model(config.model, config.loss, tokenizer, config.seed, meta=True)


def make_state(config: PretrainConfig, steps: int, tokenizer: str | None, device: torch.device) -> TrainState:
    """Return the training state of step 0 on one rank."""
    model = build_model(config.model, config.loss, tokenizer, config.seed).to(device)
    if config.model.compile:
        compile_towers(model.towers)
    objective = ContrastiveObjective(model, config.loss.objective, mask_duplicates=config.loss.mask_duplicates)
    return training_job.initial_state(config, objective, steps)
