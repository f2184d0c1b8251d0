"""What all training stages share around their models: check, open the run, launch the ranks, report the result."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray

from pipelines.config.data import check_fields
from pipelines.config.old_records import upgrade_run
from pipelines.config.optimizer import OptimizerConfig
from pipelines.config.training import TrainingConfig
from pipelines.loop.launch import launch
from pipelines.loop.stage_model import StageModel
from pipelines.loop.train import HeldOut, RankJob
from pipelines.runtime.cluster import Cluster
from pipelines.runtime.events import OnEvent, RunStart, notifier
from pipelines.stream import corpora
from pipelines.stream.source import Stream
from xmodal import checkpoint, storage
from xmodal.data.index.corpus import Corpus
from xmodal.data.index.listing import folder_before_pattern
from xmodal.errors import CheckpointError
from xmodal.gradients import ParameterSpace
from xmodal.run import Run, check_run_name, check_same_config, check_sinks, create_run, new_run_uri, open_run
from xmodal.training.engine.auditing import Audit
from xmodal.training.engine.state import TrainState
from xmodal.training.objective import Objective

MAY_CHANGE = ("run", "resources", "logging", "checkpoints", "validation", "target_validation", "balance.audit_every",
              "data.index", "data.tasks_per_segment", "data.max_bad_fraction", "data.storage", "data.cache",
              "data.cache_gb", "data.shuffle_gb", "data.shuffle_folder")  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class TrainingResult:
    """Where a run ended."""

    run: Run
    step: int
    checkpoint: str  # URI of its last checkpoint
    already_finished: bool  # nothing was left to do


def check(config: TrainingConfig, fields: Sequence[str], *, also: Iterable[str] = ()) -> None:
    """Check what needs no cluster: names, shares of the batch, storage, and whether the run may start or continue.

    `fields` are those that the model reads, `also` further corpora that must be readable.
    """
    check_sinks(config.logging.sinks)
    check_fields(config.data.fields, fields)
    number = len(config.data.corpus)
    if config.data.weights or number == 1:
        corpora.global_shares([1] * number, config.data.weights, config.optim.batch_size, config.resources.sizes)
    run_uri = storage.join(config.run.runs, check_run_name(config.run.name))
    storage.check(run_uri, writable=True, options=config.data.storage)
    for uri in (*config.data.corpus, *also):
        storage.check(folder_before_pattern(uri), writable=False, options=config.data.storage)
    if config.run.resume:
        run = open_run(config.run.runs, config.run.name, upgrade=upgrade_run, options=config.data.storage)
        check_same_config(run, config, may_change=MAY_CHANGE)
    else:
        new_run_uri(config.run.runs, config.run.name, options=config.data.storage)


def usable_cluster(cluster: Cluster, streams: Sequence[Stream], config: TrainingConfig, on_event: OnEvent) -> Cluster:
    """Return the cluster with those numbers of workers that divide every stream's share of the batch."""
    usable = cluster.with_valid_world_sizes([stream.plan.global_batch for stream in streams])
    if usable.elastic or len(config.resources.sizes) > 1:
        notifier(on_event)(f"the workers may number {', '.join(map(str, usable.sizes))}: these divide the batch")
    return usable


def total_steps(optim: OptimizerConfig, streams: Sequence[Stream]) -> int:
    """Return the steps of a run; an epoch of a mixture is as long as that of its longest corpus at its share.

    ConfigError for a warm-up longer than the run.
    """
    steps = optim.steps
    if steps is None:
        steps = max(1, round(optim.epochs * max(stream.plan.steps_per_epoch for stream in streams)))
    optim.schedule(steps)
    return steps


def initial_state(
    config: TrainingConfig,
    objective: Objective,
    steps: int,
    *,
    space: ParameterSpace | None = None,
    audit: Audit | None = None,
) -> TrainState:
    """Return the training state of step 0 on one rank."""
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


def open_run_directory(
    config: TrainingConfig, source: Sequence[Corpus], others: Mapping[str, Corpus] | None = None
) -> Run:
    """Create the run's directory, or on a resume open it. `others` are its corpora beside those of the source."""
    by_uri = {**dict(zip(config.data.corpus, source, strict=True)), **(others or {})}
    fingerprints = {uri: corpus.fingerprint for uri, corpus in by_uri.items()}
    common: dict[str, Any] = {"config": config, "corpora": fingerprints, "options": config.data.storage}
    if not config.run.resume:
        return create_run(config.run.runs, config.run.name, **common)
    return open_run(config.run.runs, config.run.name, may_change=MAY_CHANGE, upgrade=upgrade_run, **common)


def run_job(
    config: TrainingConfig,
    run: Run,
    streams: Sequence[Stream],
    model: StageModel,
    cluster: Cluster,
    *,
    steps: int,
    parameters: int,
    held_out: Sequence[HeldOut] = (),
    on_event: OnEvent,
) -> TrainingResult:
    """Train what is left of a run, from its newest checkpoint, and return where it ended.

    `parameters` is the number of those that are trained, `held_out` is evaluated between steps.
    """

    def make_job(events: Any) -> RankJob:
        return RankJob(
            run=run,
            config=config,
            steps=steps,
            streams=ray.put(list(streams)),
            model=model.shared(),
            per_worker=cluster.per_worker,
            events=events,
            held_out=tuple(map(ray.put, held_out)),
        )

    newest = _newest_checkpoint(run)
    finished = newest is not None and newest.step >= steps
    on_event(
        RunStart(
            run=run.uri,
            rows=sum(stream.corpus.rows for stream in streams),
            steps=steps,
            steps_per_epoch=streams[0].plan.steps_per_epoch,
            parameters=parameters,
            checkpoint_step=newest.step if newest else None,
        )
    )
    if not finished:
        launch(make_job, cluster, on_event)
        newest = checkpoint.resolve(run.uri, options=run.options)
    assert newest is not None
    return TrainingResult(run=run, step=newest.step, checkpoint=newest.uri, already_finished=finished)


def _newest_checkpoint(run: Run) -> checkpoint.CheckpointRef | None:
    try:
        return checkpoint.resolve(run.uri, options=run.options)
    except CheckpointError:  # the run has none yet; the ranks verify what there is when they restore
        return None
