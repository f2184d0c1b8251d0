"""Stage 1: image-text corpora -> a dual encoder trained with a contrastive loss, as resumable checkpoints."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import ray
import torch

from pipelines import cluster, corpora
from pipelines.config.data import check_fields
from pipelines.config.optim import Optim
from pipelines.config.pretrain import Config
from pipelines.lasting import check_output
from pipelines.model import anchored, build_model, given_tokenizer, load_model, save_model
from pipelines.saver import ModelFiles
from pipelines.source import Stream
from pipelines.train import Job, launch
from pipelines.validate import HeldOut, open_held_out
from xmodal import checkpoint, storage
from xmodal.data.corpus import Corpus
from xmodal.data.fields import FieldMap
from xmodal.data.image import ImageField
from xmodal.data.listing import folder_before_pattern
from xmodal.data.text import TextField
from xmodal.data.tokenizer import train_tokenizer
from xmodal.encoders.dual_encoder import DualEncoder
from xmodal.errors import CheckpointError
from xmodal.run import Run, check_name, check_new, check_same_config, check_sinks, create_run, open_run
from xmodal.storage import NotFound
from xmodal.training.compiling import compile_towers
from xmodal.training.objective import ContrastiveObjective
from xmodal.training.state import TrainState

TOKENIZER = "tokenizer.json"
CAPTIONS_FOR_TOKENIZER = 200_000
MAY_CHANGE = ("name", "runs", "resume", "resources", "cadence", "validation", "data.index", "data.tasks_per_segment",
              "data.max_bad_fraction", "data.endpoint", "data.region", "data.profile", "data.anonymous")  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Result:
    """Where a run ended."""

    run: Run
    step: int
    checkpoint: str  # URI of its last checkpoint, a Hugging Face directory
    found_finished: bool  # nothing was left to do


News = Callable[[dict], None]


def run(config: Config, on_news: News = lambda message: None) -> Result:
    """Train to the end, from the start or (with `resume`) from the newest checkpoint that verifies.

    Everything that can be wrong with the configuration, the storage or the corpora is raised before a worker starts.
    """
    config, tokenizer, model = check(config)
    held = cluster.connect(config.resources)
    opened = corpora.open_all(
        config.data, notify=_note(on_news), progress=lambda done, total: on_news(_indexing(done, total))
    )
    maps = [corpora.field_map(corpus, config.data.fields, ("image", "text")) for corpus in opened]
    own = tokenizer is None
    if tokenizer is None:
        tokenizer = _tokenizer_of_corpora(config, opened, maps, on_news)
        model = _shapes(config, tokenizer)
    fields = (
        ImageField(size=model.tower("image").intake.size, augment=config.augment),
        TextField(tokenizer_json=tokenizer, length=model.tower("text").intake.size),
    )
    streams = corpora.streams(
        config.data,
        opened,
        maps,
        fields,
        batch_size=config.optim.batch_size,
        workers=config.resources.sizes,
        seed=config.seed,
    )
    held_out = open_held_out(
        config.validation, config.data, replace(fields[0], augment=None), fields[1], _note(on_news)
    )
    held = held.fitting([stream.plan.global_batch for stream in streams])
    if held.elastic or len(config.resources.sizes) > 1:
        _note(on_news)(f"the workers may number {', '.join(map(str, held.sizes))}: these divide the batch")
    steps = total_steps(config.optim, streams)
    config.optim.schedule(steps)  # refuses a warm-up longer than the run
    record = _open(config, opened)
    if own:
        storage.write(storage.join(record.uri, TOKENIZER), tokenizer.encode(), options=record.options)
    newest = _newest(record)
    finished = newest is not None and newest.step >= steps
    on_news(_opening(record, streams, model, steps, newest))
    if not finished:
        launch(partial(_job, config, record, steps, streams, held_out, tokenizer, held), held, on_news)
        newest = checkpoint.resolve(record.uri, options=record.options)
    assert newest is not None
    return Result(run=record, step=newest.step, checkpoint=newest.uri, found_finished=finished)


def check(config: Config) -> tuple[Config, str | None, DualEncoder]:
    """All that can be known without a cluster: places by absolute paths, the given tokenizer, the model's shapes.

    Raises what is wrong with the configuration, the storage, or the run's directory.
    """
    check_output(config.runs, "--runs")
    config = _anchored(config)
    _check(config)
    tokenizer = _tokenizer(config)
    return config, tokenizer, _shapes(config, tokenizer or train_tokenizer((), config.model.vocab_size))


def _anchored(config: Config) -> Config:
    """The same places by absolute paths: the ranks work in a directory of Ray's."""
    data = config.data
    index = data.index and storage.absolute(data.index)
    data = replace(data, corpus=tuple(map(storage.absolute, data.corpus)), index=index)
    validation = replace(
        config.validation, corpus=config.validation.corpus and storage.absolute(config.validation.corpus)
    )
    runs = storage.absolute(config.runs)
    return replace(config, runs=runs, data=data, validation=validation, model=anchored(config.model))


def _check(config: Config) -> None:
    """What needs no cluster: names, shares of the batch, storage, and whether the run may start or continue."""
    check_sinks(config.cadence.sinks)
    check_fields(config.data.fields, ("image", "text"))
    number = len(config.data.corpus)
    if config.data.weights or number == 1:
        corpora.global_shares([1] * number, config.data.weights, config.optim.batch_size, config.resources.sizes)
    run_uri = storage.join(config.runs, check_name(config.name))
    storage.check(run_uri, writable=True, options=config.data.storage)
    for uri in (*config.data.corpus, *filter(None, [config.validation.corpus])):
        storage.check(folder_before_pattern(uri), writable=False, options=config.data.storage)
    if config.resume:
        known = open_run(config.runs, config.name, options=config.data.storage)
        check_same_config(known, config, may_change=MAY_CHANGE)
    else:
        check_new(config.runs, config.name, options=config.data.storage)


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
    _note(on_news)("training a tokenizer on the captions")
    most = CAPTIONS_FOR_TOKENIZER // len(opened)
    texts = [t for c, m in zip(opened, maps, strict=True) for t in corpora.sample_texts(c, m, most=most)]
    return train_tokenizer(texts, config.model.vocab_size)


def _shapes(config: Config, tokenizer: str) -> DualEncoder:
    """The model without its weights, where none are loaded: refuses what cannot be built, in no time."""
    return build_model(config.model, config.loss, tokenizer, config.seed, meta=True)


def total_steps(optim: Optim, streams: Sequence[Stream]) -> int:
    """Steps of a run; an epoch of a mixture is as long as that of its longest corpus at its share."""
    if optim.steps is not None:
        return optim.steps
    return max(1, round(optim.epochs * max(stream.plan.steps_per_epoch for stream in streams)))


def make_state(config: Config, tokenizer: ray.ObjectRef, steps: int, device: torch.device) -> TrainState:
    """The training state of step 0 on one rank."""
    model = build_model(config.model, config.loss, ray.get(tokenizer), config.seed).to(device)
    if config.model.compile:
        compile_towers(model.towers)
    objective = ContrastiveObjective(model, config.loss.objective, mask_duplicates=config.loss.mask_duplicates)
    optim = config.optim
    return TrainState.create(
        objective,
        schedule=optim.schedule(steps),
        seed=config.seed,
        weight_decay=optim.weight_decay,
        betas=optim.betas,
        eps=optim.eps,
        precision=optim.precision,
        rows_per_forward=optim.rows_per_forward,
        max_grad_norm=optim.max_grad_norm,
    )


def _job(
    config: Config,
    record: Run,
    steps: int,
    streams: list[Stream],
    held_out: HeldOut | None,
    tokenizer: str,
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


def _open(config: Config, opened: list[Corpus]) -> Run:
    fingerprints = {uri: corpus.fingerprint for uri, corpus in zip(config.data.corpus, opened, strict=True)}
    common: dict[str, Any] = {"config": config, "corpora": fingerprints, "options": config.data.storage}
    if not config.resume:
        return create_run(config.runs, config.name, **common)
    return open_run(config.runs, config.name, may_change=MAY_CHANGE, **common)


def _newest(record: Run) -> checkpoint.Found | None:
    try:
        return checkpoint.resolve(record.uri, options=record.options)
    except CheckpointError:  # the run has none yet; the ranks verify what there is when they restore
        return None


def _note(on_news: News) -> Callable[[str], None]:
    return lambda text: on_news({"kind": "note", "text": text})


def _indexing(done: int, total: int) -> dict:
    return {"kind": "indexing", "done": done, "total": total}


def _opening(
    record: Run, streams: list[Stream], model: DualEncoder, steps: int, newest: checkpoint.Found | None
) -> dict:
    return {
        "kind": "opening",
        "run": record.uri,
        "rows": sum(stream.corpus.rows for stream in streams),
        "steps_per_epoch": streams[0].plan.steps_per_epoch,
        "steps": steps,
        "parameters": sum(p.numel() for p in model.parameters()),
        "found": newest.step if newest else None,
    }
