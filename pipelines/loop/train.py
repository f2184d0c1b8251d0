"""The loop of one rank: restore, stream, step, report. Both stages share it; they differ in objective and streams."""

import os
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray
import ray.train
import torch
from ray.train.torch import TorchConfig
from ray.train.v2.api.config import FailureConfig, RunConfig  # what ray.train has, for a type checker too

from pipelines.config.logging import Cadence
from pipelines.loop.row_ledger import Books
from pipelines.loop.saver import ModelFiles, Saver, restore
from pipelines.runtime import elastic
from pipelines.runtime.cluster import Cluster, news_actor, plain
from pipelines.runtime.rank import Rank
from pipelines.stream import ingest
from pipelines.stream.ingest import Delivery
from xmodal import errors
from xmodal.batch import Batch
from xmodal.errors import ConfigError, NeverSynchronised, NonFiniteLoss, TooManyBadRows, XmodalError
from xmodal.run import Run
from xmodal.training.engine.memory import ALLOCATOR, peak_memory
from xmodal.training.engine.metric_averager import Window
from xmodal.training.engine.prefetch import to_device
from xmodal.training.engine.state import TrainState
from xmodal.training.engine.step import train_step

COLLECTIVE_TIMEOUT_S = 600
STOPS = (ConfigError, NeverSynchronised, NonFiniteLoss, TooManyBadRows)  # on all ranks, and again after a restart


@dataclass(frozen=True, kw_only=True)
class Job:
    """What every rank of a run needs: small, picklable, and free of secrets."""

    run: Run
    steps: int
    streams: list[ray.ObjectRef]  # one reference to the list of streams
    make_state: Callable[[torch.device], TrainState]
    files: ModelFiles
    cadence: Cadence
    max_bad_fraction: float
    tasks_per_segment: int
    per_worker: dict[str, float]  # resources of one rank; Ray Data plans with what all of them leave
    news: Any  # the driver's `News`
    held_out: tuple[ray.ObjectRef, ...] = ()  # a reference to everything that is measured between two steps


def train_rank(config: dict[str, ray.ObjectRef]) -> None:
    """What each Ray Train worker runs. A stop that a restart would only repeat goes to the driver as news."""
    job: Job = ray.get(config["job"])
    rank = Rank.here()
    try:
        _train(job, rank)
    except STOPS as error:
        if rank.first:
            ray.get(job.news.put.remote({"kind": "stop", "error": type(error).__name__, "message": str(error)}))


def _train(job: Job, rank: Rank) -> None:
    """One rank, top to bottom: restore, stream, step, report."""
    notify = _teller(job) if rank.first else _silent
    streams = ray.get(job.streams[0])
    state = job.make_state(rank.device)
    books = Books(streams, rank, job.max_bad_fraction)
    found = restore(job.run, rank, state, books, job.files, notify)
    if rank.first:
        node = ray.get_runtime_context().get_node_id()
        start = {"step": state.step, "steps": job.steps, "workers": rank.world_size, "node": node}
        _tell(job, "start", found=found and found.name, **start)
    deliveries = ingest.deliver(
        streams,
        state.step,
        job.steps,
        rank=rank.index,
        world_size=rank.world_size,
        share=rank.share,
        reserved={name: amount * rank.world_size for name, amount in job.per_worker.items()},
        most_tasks=job.tasks_per_segment,
    )
    watch = Stopwatch(rows_per_step=sum(stream.plan.global_batch for stream in streams))
    preemption, window = Preemption(), Window()
    measurers = [ray.get(wanted).measurer(rank) for wanted in job.held_out]
    with Saver(
        job.run, rank, books, job.files, found=found, keep=job.cadence.keep, sinks=job.cadence.sinks, notify=notify
    ) as saver:
        for delivery, batch in watch.waits(on_device(deliveries, rank.device)):
            metrics = train_step(state, batch)
            window.add(metrics)
            books.enter(state.step, delivery, metrics)
            if books.too_bad:
                saver.save(state)
                books.judge()
            last = state.step == job.steps
            measured = _measured(measurers, state, last=last)
            if measured and rank.first:
                _tell(job, "validation", step=state.step, steps=job.steps, metrics=plain(measured))
            watch.leave_out(measured.get("validation/seconds", 0.0))
            if last or measured or state.step % job.cadence.log_every == 0:
                metrics |= window.take() | watch.figures() | books.as_metrics() | measured
                metrics["peak_memory_GiB"] = peak_memory(rank.device)
                metrics["epoch"] = state.step / streams[0].plan.steps_per_epoch
                _report(job, rank, saver, state.step, metrics)
            if last or state.step % job.cadence.checkpoint_every == 0 or preemption.announced(state.step):
                saver.save(state)


def on_device(deliveries: Iterable[Delivery], device: torch.device) -> Iterator[tuple[Delivery, Batch]]:
    """Each delivery with its batch on the device, copied ahead where that is a GPU."""
    pending: deque[Delivery] = deque()

    def batches() -> Iterator[Batch]:
        for delivery in deliveries:
            pending.append(delivery)
            yield delivery.batch

    for batch in to_device(batches(), device):
        yield pending.popleft(), batch


def _measured(measurers: Sequence[Any], state: TrainState, *, last: bool) -> dict[str, float]:
    """The figures of all that are due, and the seconds that they took together; nothing where none is."""
    found: dict[str, float] = {}
    for one in measurers:
        if one.due(state.step, last=last):
            seconds = found.get("validation/seconds", 0.0)
            found |= one.measure(state)
            found["validation/seconds"] += seconds
    return found


class Stopwatch:
    """Where the time of the loop goes."""

    def __init__(self, rows_per_step: int) -> None:
        self._rows_per_step = rows_per_step
        self._began = self._since = time.perf_counter()
        self._steps = 0
        self._waited_s = 0.0
        self._first_s: float | None = None

    def waits(self, items: Iterable[Any]) -> Iterator[Any]:
        """The same items; the time until each one comes is waiting for data."""
        iterator = iter(items)
        while True:
            started = time.perf_counter()
            item = next(iterator, None)
            waited_s = time.perf_counter() - started
            if item is None:
                return
            if self._first_s is None:  # starting a stream is told apart from waiting for it
                self._first_s, self._since = waited_s, time.perf_counter()
            else:
                self._waited_s += waited_s
            self._steps += 1
            yield item

    def leave_out(self, seconds: float) -> None:
        """Time that was spent on something else than steps."""
        self._since += seconds

    def figures(self) -> dict[str, float]:
        """Since the last call: samples/s over all ranks, share of time waiting; time to the first batch once."""
        now = time.perf_counter()
        elapsed = max(now - self._since, 1e-9)
        figures = {
            "samples_per_s": self._steps * self._rows_per_step / elapsed,
            "seconds_per_step": elapsed / max(self._steps, 1),
            "data_wait_share": self._waited_s / elapsed,
        }
        if self._first_s:
            figures["first_batch_s"] = self._first_s
        self._since, self._steps, self._waited_s, self._first_s = now, 0, 0.0, 0.0
        return figures


class Preemption:
    """Asks now and then whether a node of this run is about to go; all ranks ask at the same steps."""

    def __init__(self) -> None:
        self._saved = False

    def announced(self, step: int) -> bool:
        """True once, at the first step after a notice: then a checkpoint is worth its time."""
        if self._saved or step % 10:
            return False
        self._saved = ray.train.get_preemption_info() is not None
        return self._saved


def _report(job: Job, rank: Rank, saver: Saver, step: int, metrics: dict[str, float]) -> None:
    values = plain(metrics)
    saver.log(step, values)
    if rank.first:
        _tell(job, "progress", step=step, steps=job.steps, metrics=values)
    ray.train.report({"step": step, **values})  # for Ray's own bookkeeping and for Tune


def _tell(job: Job, kind: str, **message: Any) -> None:
    job.news.put.remote({"kind": kind, **message})


def _teller(job: Job) -> Callable[[str], None]:
    return lambda text: _tell(job, "note", text=text)


def _silent(text: str) -> None:
    """Notes are the same on all ranks; rank 0 tells them."""


class RunFailed(XmodalError):
    """A run that its restarts could not carry to the end."""

    exit_code = 1


def launch(make_job: Callable[[Any], Job], cluster: Cluster, on_news: Callable[[dict], None]) -> None:
    """Run a job's ranks to the end; `on_news` hears what they tell, in order, from a thread of the driver.

    Raises what stopped the run: one of STOPS, or RunFailed when restarts did not help.
    """
    news = news_actor()
    job = make_job(news)
    with tempfile.TemporaryDirectory(prefix="xmodal-ray-") as scratch, listening(news, on_news) as stops:
        trainer = elastic.trainer(
            cluster,
            train_rank,
            train_loop_config={"job": ray.put(job)},  # so that Ray's controller need not import the model
            torch_config=TorchConfig(timeout_s=COLLECTIVE_TIMEOUT_S),
            run_config=RunConfig(
                name="ray",
                storage_path=scratch,
                failure_config=FailureConfig(max_failures=job.cadence.restarts),  # preemptions are not counted
                worker_runtime_env={"env_vars": {name: os.environ.get(name, x) for name, x in ALLOCATOR.items()}},
            ),
        )
        try:
            trainer.fit()
        except ray.train.TrainingFailedError as error:
            raise RunFailed(
                f"the run {job.run.name!r} failed after {job.cadence.restarts} restart(s); what it has is in "
                f"{job.run.uri}, and --resume continues it. The last failure: {_root(error)}"
            ) from error
    if stops:
        raise getattr(errors, stops[0]["error"])(stops[0]["message"])


def _root(error: BaseException) -> str:
    """What a person can act on: the first error of ours behind any rank's failure, else the last line of all."""
    behind = list(_behind(error))
    ours = [e for e in behind if isinstance(e, XmodalError) and not isinstance(e, ray.exceptions.RayError)]
    if ours:  # a rank may have failed only because another one did
        return str(ours[0]).partition("\n")[0]  # Ray Data adds lines about its own settings
    lines = [line.strip() for e in behind[1:] or behind for line in str(e).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def _behind(error: BaseException) -> Iterator[BaseException]:
    """The error, then its causes; Ray keeps those of the ranks, of its tasks and of its controller in attributes."""
    yield error
    by_rank = getattr(error, "worker_failures", None) or {}
    causes = [by_rank[rank] for rank in sorted(by_rank)]
    causes += [getattr(error, name, None) for name in ("controller_failure", "cause", "__cause__")]
    for cause in dict.fromkeys(causes):
        if isinstance(cause, BaseException):
            yield from _behind(cause)


@contextmanager
def listening(news: Any, on_news: Callable[[dict], None], every_s: float = 0.3) -> Iterator[list[dict]]:
    """Pass the ranks' messages on until the block ends; yields the list of those that stopped the run."""
    stops: list[dict] = []
    ended = threading.Event()

    def drain() -> None:
        for message in ray.get(news.take.remote()):
            if message["kind"] == "stop":
                stops.append(message)
            else:
                on_news(message)

    def listen() -> None:
        while not ended.wait(every_s):
            drain()

    thread = threading.Thread(target=listen, daemon=True)
    thread.start()
    try:
        yield stops
    finally:
        ended.set()
        thread.join()
        drain()
