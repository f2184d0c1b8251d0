"""The training loop of one rank: restore, stream, step, validate, report, save. All stages share it.

No step calls a collective of Ray Train. They go through one actor, which takes 0.7 ms of its time for each rank and
never releases more than 1,000 of them, and `ray.train.report` blocks until the controller's next poll, which is every
2 s. Metrics leave rank 0 as events without an answer; a preemption notice of any rank reaches all of them in the
all-reduce of the step.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import ray
import torch

from pipelines.config.training import TrainingConfig
from pipelines.loop.row_ledger import RowLedger
from pipelines.loop.saver import Saver, restore
from pipelines.loop.stage_model import StageModel
from pipelines.loop.stopwatch import Stopwatch
from pipelines.runtime import ray_compat
from pipelines.runtime.event_queue import to_json
from pipelines.runtime.events import (
    Event,
    StepMetrics,
    UnrecoverableError,
    ValidationMetrics,
    WorkerGroupStart,
    ignore,
    notifier,
)
from pipelines.runtime.rank import Rank
from pipelines.stream import ingest
from pipelines.stream.ingest import StepBatch
from pipelines.stream.source import Stream
from xmodal.batch import Batch
from xmodal.errors import ConfigError, NeverSynchronised, NonFiniteLoss, TooManyBadRows
from xmodal.plugins import load_plugins, plugin_modules
from xmodal.run import Run
from xmodal.training.engine.memory import peak_memory_gib
from xmodal.training.engine.metric_averager import MetricAverager
from xmodal.training.engine.prefetch import to_device
from xmodal.training.engine.state import TrainState
from xmodal.training.engine.step import train_step

STOPS = (ConfigError, NeverSynchronised, NonFiniteLoss, TooManyBadRows)  # on all ranks, and again after a restart


@dataclass(frozen=True, kw_only=True)
class RankJob:
    """What every rank of a run needs: small, picklable, and free of secrets."""

    run: Run
    config: TrainingConfig
    steps: int
    streams: ray.ObjectRef  # to the list of streams
    model: StageModel
    per_worker: dict[str, float]  # resources of one rank; Ray Data plans with what all of them leave
    events: Any  # the driver's `EventQueue`
    held_out: tuple[ray.ObjectRef, ...] = ()  # to the `HeldOut` of everything that is evaluated between two steps
    plugins: tuple[str, ...] = field(default_factory=plugin_modules)  # modules that register a user's own parts


class Evaluator(Protocol):
    """One rank's part in an evaluation between two steps."""

    def due(self, step: int, *, last: bool) -> bool:
        """Return whether to evaluate after this step; alike on all ranks."""
        ...

    def evaluate(self, state: TrainState) -> dict[str, float]:
        """Return metrics on rank 0, and on every rank `validation/seconds`; all ranks call it at the same step."""
        ...


class HeldOut(Protocol):
    """Rows that the model is evaluated on while it trains."""

    def evaluator(self, rank: Rank) -> Evaluator: ...


def train_rank(config: dict[str, ray.ObjectRef]) -> None:
    """Run one rank, as a Ray Train worker does. An error that a restart would only repeat goes to the driver."""
    job: RankJob = ray.get(config["job"])
    load_plugins(job.plugins)
    rank = Rank.here()
    try:
        _train(job, rank)
    except STOPS as error:
        if rank.first:
            ray.get(job.events.put.remote(UnrecoverableError(error=type(error).__name__, message=str(error))))


def _train(job: RankJob, rank: Rank) -> None:
    """Train one rank: restore, stream, step, report."""
    report = partial(_report, job) if rank.first else ignore  # what is reported is the same on all ranks
    notify = notifier(report)
    streams = ray.get(job.streams)
    state = job.model.new_state(rank.device)
    ledger = RowLedger(streams, rank, job.config.data.max_bad_fraction)
    start = restore(job.run, rank, state, ledger, job.model, notify)
    node = ray.get_runtime_context().get_node_id()
    checkpoint = start.name if start else None
    report(
        WorkerGroupStart(step=state.step, steps=job.steps, workers=rank.world_size, node=node, checkpoint=checkpoint)
    )
    stopwatch = Stopwatch(rows_per_step=sum(stream.plan.global_batch for stream in streams))
    averager, saved_before_preemption = MetricAverager(), False
    evaluators = [ray.get(held_out).evaluator(rank) for held_out in job.held_out]
    logging, checkpoints = job.config.logging, job.config.checkpoints
    with Saver(
        job.run, rank, ledger, job.model, after_step=start.step if start else None, keep=checkpoints.keep,
        sinks=logging.sinks, notify=notify,
    ) as saver:  # fmt: skip
        step_batches = on_device(_step_batches(job, rank, streams, state.step), rank.device)
        for step_batch, batch in stopwatch.time_waits(step_batches):
            state.notice = ray_compat.preemption_is_announced()
            metrics = train_step(state, batch)
            averager.add(metrics)
            ledger.record(state.step, step_batch, metrics)
            if ledger.too_bad:
                saver.save(state)
                ledger.raise_if_too_bad()
            last = state.step == job.steps
            validation = evaluate(evaluators, state, last=last)
            if validation:
                report(ValidationMetrics(step=state.step, steps=job.steps, metrics=to_json(validation)))
            stopwatch.exclude(validation.get("validation/seconds", 0.0))
            if last or validation or state.step % logging.log_every == 0:
                metrics |= averager.pop_means() | stopwatch.pop_metrics() | ledger.as_metrics() | validation
                metrics["peak_memory_GiB"] = peak_memory_gib(rank.device)
                metrics["epoch"] = state.step / streams[0].plan.steps_per_epoch
                values = to_json(metrics)
                saver.log(state.step, values)
                report(StepMetrics(step=state.step, steps=job.steps, metrics=values))
            announced = state.notices > 0 and not saved_before_preemption  # one checkpoint for a notice is enough
            if last or state.step % checkpoints.checkpoint_every == 0 or announced:
                saver.save(state)
                saved_before_preemption = saved_before_preemption or announced


def _report(job: RankJob, event: Event) -> None:
    job.events.put.remote(event)


def _step_batches(job: RankJob, rank: Rank, streams: Sequence[Stream], start: int) -> Iterator[StepBatch]:
    """Yield this rank's share of every step from `start` on."""
    return ingest.step_batches(
        streams,
        start,
        job.steps,
        rank=rank.index,
        world_size=rank.world_size,
        share=rank.share,
        reserved={name: amount * rank.world_size for name, amount in job.per_worker.items()},
        most_tasks=job.config.data.tasks_per_segment,
    )


def on_device(step_batches: Iterable[StepBatch], device: torch.device) -> Iterator[tuple[StepBatch, Batch]]:
    """Yield each step's share with its batch on the device, copied ahead where that is a GPU."""
    pending: deque[StepBatch] = deque()

    def batches() -> Iterator[Batch]:
        for step_batch in step_batches:
            pending.append(step_batch)
            yield step_batch.batch

    for batch in to_device(batches(), device):
        yield pending.popleft(), batch


def evaluate(evaluators: Sequence[Evaluator], state: TrainState, *, last: bool) -> dict[str, float]:
    """Return the metrics of all evaluations that are due, and the seconds that they took together; empty: none is."""
    metrics: dict[str, float] = {}
    for evaluator in evaluators:
        if evaluator.due(state.step, last=last):
            seconds = metrics.get("validation/seconds", 0.0)
            metrics |= evaluator.evaluate(state)
            metrics["validation/seconds"] += seconds
    return metrics
