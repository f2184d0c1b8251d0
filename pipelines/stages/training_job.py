"""What the stages of training share around their models: configuration and streams in, a run carried to its end out."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pipelines.config.data import Data, check_fields
from pipelines.config.optimizer import Optim
from pipelines.loop.train import Job, launch
from pipelines.runtime.cluster import Cluster
from pipelines.stream import corpora
from pipelines.stream.source import Stream
from xmodal import checkpoint, storage
from xmodal.data.decode.fields import Field, FieldMap
from xmodal.data.index.corpus import Corpus
from xmodal.data.index.listing import folder_before_pattern
from xmodal.errors import CheckpointError
from xmodal.gradients import ParameterSpace
from xmodal.run import Run, check_name, check_new, check_same_config, check_sinks, create_run, open_run
from xmodal.training.engine.auditing import Audit
from xmodal.training.engine.state import TrainState
from xmodal.training.objective import Objective

MAY_CHANGE = ("name", "runs", "resume", "resources", "cadence", "validation", "target_validation", "data.index",
              "balance.audit_every", "data.tasks_per_segment", "data.max_bad_fraction", "data.endpoint", "data.region",
              "data.profile", "data.anonymous", "data.cache", "data.cache_gb")  # fmt: skip
News = Callable[[dict], None]


@dataclass(frozen=True, kw_only=True)
class Result:
    """Where a run ended."""

    run: Run
    step: int
    checkpoint: str  # URI of its last checkpoint
    found_finished: bool  # nothing was left to do


def anchored(data: Data) -> Data:
    """The same corpora by absolute paths: the ranks work in a directory of Ray's."""
    index = data.index and storage.absolute(data.index)
    return replace(data, corpus=tuple(map(storage.absolute, data.corpus)), index=index)


def check(config: Any, fields: Sequence[str], *, also: Iterable[str] = ()) -> None:
    """What needs no cluster: names, shares of the batch, storage, and whether the run may start or continue.

    `also` are further corpora that must be readable.
    """
    check_sinks(config.cadence.sinks)
    check_fields(config.data.fields, fields)
    number = len(config.data.corpus)
    if config.data.weights or number == 1:
        corpora.global_shares([1] * number, config.data.weights, config.optim.batch_size, config.resources.sizes)
    run_uri = storage.join(config.runs, check_name(config.name))
    storage.check(run_uri, writable=True, options=config.data.storage)
    for uri in (*config.data.corpus, *also):
        storage.check(folder_before_pattern(uri), writable=False, options=config.data.storage)
    if config.resume:
        known = open_run(config.runs, config.name, options=config.data.storage)
        check_same_config(known, config, may_change=MAY_CHANGE)
    else:
        check_new(config.runs, config.name, options=config.data.storage)


def open_all(data: Data, on_news: News) -> list[Corpus]:
    """Every corpus with its index, made where it is missing."""

    def progress(done: int, total: int) -> None:
        on_news({"kind": "indexing", "done": done, "total": total})

    return corpora.open_all(data, notify=note(on_news), progress=progress)


def note(on_news: News) -> Callable[[str], None]:
    """Tells a sentence."""
    return lambda text: on_news({"kind": "note", "text": text})


def streams(config: Any, opened: Sequence[Corpus], maps: Sequence[FieldMap], fields: tuple[Field, ...]) -> list[Stream]:
    """One stream for each corpus, at its share of the batch."""
    batch_size, workers = config.optim.batch_size, config.resources.sizes
    return corpora.streams(config.data, opened, maps, fields, batch_size=batch_size, workers=workers, seed=config.seed)


def fitting(held: Cluster, streams: Sequence[Stream], config: Any, on_news: News) -> Cluster:
    """The cluster with those numbers of workers that divide every stream's share of the batch."""
    found = held.fitting([stream.plan.global_batch for stream in streams])
    if found.elastic or len(config.resources.sizes) > 1:
        note(on_news)(f"the workers may number {', '.join(map(str, found.sizes))}: these divide the batch")
    return found


def total_steps(optim: Optim, streams: Sequence[Stream]) -> int:
    """Steps of a run; an epoch of a mixture is as long as that of its longest corpus at its share.

    ConfigError for a warm-up longer than that.
    """
    steps = optim.steps
    if steps is None:
        steps = max(1, round(optim.epochs * max(stream.plan.steps_per_epoch for stream in streams)))
    optim.schedule(steps)
    return steps


def state_of(
    config: Any, objective: Objective, steps: int, *, space: ParameterSpace | None = None, audit: Audit | None = None
) -> TrainState:
    """The training state of step 0 on one rank."""
    optim = config.optim
    return TrainState.create(
        objective,
        schedule=optim.schedule(steps),
        seed=config.seed,
        space=space,
        audit=audit,
        optimizer=optim.optimizer,
        weight_decay=optim.weight_decay,
        betas=optim.betas,
        eps=optim.eps,
        momentum=optim.momentum,
        precision=optim.precision,
        rows_per_forward=optim.rows_per_forward,
        max_grad_norm=optim.max_grad_norm,
    )


def open_record(config: Any, opened: Sequence[Corpus], further: Mapping[str, Corpus] | None = None) -> Run:
    """The run's directory: new, or on a resume the one that is there. `further` are corpora that are no source."""
    known = {**dict(zip(config.data.corpus, opened, strict=True)), **(further or {})}
    fingerprints = {uri: corpus.fingerprint for uri, corpus in known.items()}
    common: dict[str, Any] = {"config": config, "corpora": fingerprints, "options": config.data.storage}
    if not config.resume:
        return create_run(config.runs, config.name, **common)
    return open_run(config.runs, config.name, may_change=MAY_CHANGE, **common)


def carry_out(
    record: Run,
    streams: Sequence[Stream],
    held: Cluster,
    *,
    steps: int,
    parameters: int,
    make_job: Callable[[Any], Job],
    on_news: News,
) -> Result:
    """Tell what begins, train what is left, and say where it ended; `make_job` gets the driver's `News`."""
    newest = _newest(record)
    finished = newest is not None and newest.step >= steps
    on_news(
        {
            "kind": "opening",
            "run": record.uri,
            "rows": sum(stream.corpus.rows for stream in streams),
            "steps_per_epoch": streams[0].plan.steps_per_epoch,
            "steps": steps,
            "parameters": parameters,
            "found": newest.step if newest else None,
        }
    )
    if not finished:
        launch(make_job, held, on_news)
        newest = checkpoint.resolve(record.uri, options=record.options)
    assert newest is not None
    return Result(run=record, step=newest.step, checkpoint=newest.uri, found_finished=finished)


def _newest(record: Run) -> checkpoint.Found | None:
    try:
        return checkpoint.resolve(record.uri, options=record.options)
    except CheckpointError:  # the run has none yet; the ranks verify what there is when they restore
        return None
