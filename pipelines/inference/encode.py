"""Embed every valid row of a corpus, in this process or by encoders on the cluster.

The corpus is cut into parts of whole extents. An *encoder* is an actor that holds the model; tasks on whatever CPUs are
free, on any node, read and decode the rows of its parts some chunks ahead, also into its next part. A part is all or
nothing: that of an encoder that dies is done again by another. (An actor pool of Ray Data would do the same work, but
its rows reach their sink in blocks that do not follow the parts, so that it would not be known which parts are
finished.) Embeddings pass through the driver only if the sink returns them.
"""

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import ray
import torch
from ray.exceptions import RayActorError, RayTaskError
from torch import Tensor

from pipelines.models.loaded_encoder import LoadedEncoder
from pipelines.runtime.cluster import CPUS_PER_READ, Cluster
from xmodal.batch import Batch
from xmodal.data.decode.text import TextField
from xmodal.data.index.corpus import Corpus
from xmodal.data.stream.evaluation_rows import (
    EvaluationDecoder,
    EvaluationRows,
    ExtentChunk,
    chunk_extents,
    read_evaluation_rows,
)
from xmodal.encoders.dual_encoder import DualEncoder
from xmodal.errors import XmodalError
from xmodal.plugins import load_plugins, plugin_modules

CHUNKS_AHEAD = 3  # decoded chunks that wait for an encoder
MAX_DEATHS = 3  # of encoders in a row, without a part finished in between


@dataclass(frozen=True, eq=False)
class Embeddings:
    """Embeddings of the valid rows of a part of a corpus; fields as in `EvaluationRows`.

    `vectors` are float32 by modality: those of captions [M, D], all others [R, D].
    """

    row: np.ndarray
    key: list[str]
    label: list[str]
    vectors: dict[str, np.ndarray]
    owner: np.ndarray
    item: np.ndarray
    text: list[str]
    text_id: np.ndarray
    faults: list[dict[str, Any]]

    @classmethod
    def join(cls, parts: Sequence["Embeddings"]) -> "Embeddings":
        """Join the embeddings of several parts, in this order."""
        starts = np.cumsum([0, *(len(part.row) for part in parts)])
        columns: dict[str, Any] = {
            name: np.concatenate([getattr(part, name) for part in parts]) for name in ("row", "item", "text_id")
        }
        vectors = {name: np.concatenate([part.vectors[name] for part in parts]) for name in parts[0].vectors}
        lists: dict[str, Any] = {
            name: [value for part in parts for value in getattr(part, name)]
            for name in ("key", "label", "text", "faults")
        }
        owner = np.concatenate([part.owner + start for part, start in zip(parts, starts, strict=False)])
        return cls(**columns, **lists, vectors=vectors, owner=owner)


@torch.no_grad()
def encode_items(model: DualEncoder, items: EvaluationRows, batch_size: int, dim: int) -> Embeddings:
    """Embed what a chunk of rows has of the model's modalities."""
    device = next(model.parameters()).device
    text = {"text": items.tokens, "text_length": items.length, "text_id": items.text_id}
    columns = {
        modality: text
        if modality == "text"
        else {name: column for name, column in items.columns.items() if name.partition("_")[0] == modality}
        for modality in model.modalities
    }
    vectors = {name: _embed(model, name, columns[name], batch_size, dim, device) for name in model.modalities}
    return Embeddings(
        items.row, items.key, items.label, vectors, items.owner, items.item, items.text, items.text_id, items.faults
    )


def _embed(
    model: DualEncoder, modality: str, fields: dict[str, np.ndarray], batch_size: int, dim: int, device: torch.device
) -> np.ndarray:
    rows = len(fields.get(modality, ()))  # none where the modality was not asked for
    columns = {name: torch.from_numpy(_writable(array)) for name, array in fields.items()}
    batch = Batch(torch.arange(rows), torch.ones(rows, dtype=torch.bool), columns)
    parts: list[Tensor] = [model.encode(modality, part.to(device)).cpu() for part in batch.chunks(batch_size)]
    return torch.cat(parts).numpy() if parts else np.empty((0, dim), np.float32)


def _writable(array: np.ndarray) -> np.ndarray:
    """Return an array that torch accepts: arrays from the object store are read-only."""
    return array if array.flags.writeable else array.copy()


@torch.no_grad()
def encode_texts(encoder: LoadedEncoder, model: DualEncoder, texts: Sequence[str], batch_size: int) -> Tensor:
    """Embed clean texts: unit vectors, float32 [T, D]."""
    field = encoder.fields["text"]
    assert isinstance(field, TextField)
    tokens, length = field.tokenize(list(texts))
    fields = {"text": tokens, "text_length": length, "text_id": np.zeros(len(texts), np.int64)}
    device = next(model.parameters()).device
    return torch.from_numpy(_embed(model, "text", fields, batch_size, model.dim, device))


@dataclass(frozen=True, eq=False)
class EncodingTask:
    """What is encoded, and how."""

    corpus: Corpus
    decoder: EvaluationDecoder
    batch_size: int
    plugins: tuple[str, ...] = field(default_factory=plugin_modules)  # modules that register a user's own parts


@dataclass(frozen=True, order=True)
class ExtentRange:
    """A part of a corpus: extents `start` to `stop` - 1, which are encoded and stored together."""

    number: int
    start: int
    stop: int


def cut_into_parts(corpus: Corpus, rows: int) -> list[ExtentRange]:
    """Cut a corpus into parts of about `rows` rows; a function of the corpus and `rows` alone."""
    groups = chunk_extents(corpus, 0, len(corpus.extents), rows)
    return [ExtentRange(number, int(extents[0]), int(extents[-1]) + 1) for number, extents in enumerate(groups)]


def encode_here(encoder: LoadedEncoder, model: DualEncoder, task: EncodingTask) -> Embeddings:
    """Encode everything in this process; one thread reads and decodes ahead."""
    whole = chunk_extents(task.corpus, 0, len(task.corpus.extents), task.decoder.chunk_rows)
    pending: deque[Future[EvaluationRows]] = deque()
    embedded = []
    with ThreadPoolExecutor(1) as pool:
        for extents in whole:
            pending.append(
                pool.submit(read_evaluation_rows, ExtentChunk.from_corpus(task.corpus, extents), task.decoder)
            )
            if len(pending) >= 2:
                embedded.append(encode_items(model, pending.popleft().result(), task.batch_size, model.dim))
        embedded += [encode_items(model, later.result(), task.batch_size, model.dim) for later in pending]
    return Embeddings.join(embedded)


Sink = Callable[[ExtentRange, Embeddings], Any]


class _Encoder:
    """An actor that encodes parts of a corpus and returns what `sink` makes of their embeddings."""

    def __init__(self, encoder: LoadedEncoder, task: EncodingTask, sink: Sink, threads: int) -> None:
        torch.set_num_threads(threads)
        load_plugins(task.plugins)
        self._model = encoder.model("cuda" if ray.get_gpu_ids() else "cpu")
        self._task, self._sink = task, sink
        self._decoder = ray.put(task.decoder)
        self._reading: deque[tuple[ExtentRange, ray.ObjectRef]] = deque()
        self._unread: deque[tuple[ExtentRange, np.ndarray]] = deque()
        self._planned: set[ExtentRange] = set()

    def encode(self, part: ExtentRange, next_part: ExtentRange | None) -> Any:
        """Encode `part`; meanwhile the rows of `next_part` are read, which must be the next one to be encoded."""
        for planned in (part, next_part):
            if planned is not None and planned not in self._planned:
                self._planned.add(planned)
                groups = chunk_extents(self._task.corpus, planned.start, planned.stop, self._task.decoder.chunk_rows)
                self._unread.extend((planned, extents) for extents in groups)
        embedded = []
        self._read_ahead()
        while self._reading and self._reading[0][0] == part:
            items = ray.get(self._reading.popleft()[1])
            self._read_ahead()
            embedded.append(encode_items(self._model, items, self._task.batch_size, self._model.dim))
        return self._sink(part, Embeddings.join(embedded))

    def _read_ahead(self) -> None:
        while self._unread and len(self._reading) < CHUNKS_AHEAD:
            part, extents = self._unread.popleft()
            self._reading.append(
                (part, _read.remote(ExtentChunk.from_corpus(self._task.corpus, extents), [self._decoder]))
            )


@ray.remote(num_cpus=CPUS_PER_READ, max_retries=3)
def _read(chunk: ExtentChunk, decoder: list[ray.ObjectRef]) -> EvaluationRows:
    return read_evaluation_rows(chunk, ray.get(decoder[0]))


def encode_on_cluster(
    encoder: LoadedEncoder, task: EncodingTask, todo: Sequence[ExtentRange], sink: Sink, cluster: Cluster
) -> Iterator[tuple[ExtentRange, Any]]:
    """Encode parts on the cluster; yield each with what `sink(part, embeddings)` returns, in the order of completion.

    The sink runs where the encoder is. XmodalError when encoders keep dying; errors of a sink or a reader are raised
    here.
    """
    pool = EncoderPool(encoder, task, sink, cluster, deque(todo))
    try:
        yield from pool.results()
    finally:
        pool.stop()


class EncoderPool:
    """The encoders of a cluster, each with the part that it works on and the one that comes next."""

    def __init__(
        self, encoder: LoadedEncoder, task: EncodingTask, sink: Sink, cluster: Cluster, todo: deque[ExtentRange]
    ) -> None:
        count = max(1, min(cluster.sizes[-1], len(todo)))
        cores = os.cpu_count() or 1
        threads = max(1, cores // count) if cluster.local else max(1, int(cluster.per_worker.get("CPU", 1)))
        actor = ray.remote(_Encoder).options(
            num_cpus=cluster.per_worker.get("CPU", 0), num_gpus=cluster.per_worker.get("GPU", 0)
        )
        self._new_encoder = partial(actor.remote, ray.put(encoder), ray.put(task), sink, threads)
        self._todo = todo
        self._running: dict[ray.ObjectRef, tuple[Any, ExtentRange, ExtentRange | None]] = {}
        self._deaths = 0
        for first in [self._take() for _ in range(count)]:  # one for each, before any gets a second
            self._start(self._new_encoder(), first)

    def results(self) -> Iterator[tuple[ExtentRange, Any]]:
        """Yield each part with what its sink returned, in the order of completion."""
        while self._running:
            (done,), _ = ray.wait(list(self._running))
            actor, part, next_part = self._running.pop(done)
            try:
                result = ray.get(done)
            except RayTaskError as error:
                raise error.cause if isinstance(error.cause, XmodalError) else error from None
            except RayActorError as death:
                if death.actor_init_failed:  # what fails while it starts fails every time
                    raise
                self._replace(part, next_part, death)
                continue
            self._deaths = 0
            self._start(actor, next_part or self._take())
            yield part, result

    def stop(self) -> None:
        """Kill the encoders that are still at work."""
        for actor, _, _ in self._running.values():
            ray.kill(actor)
        self._running = {}

    def _take(self) -> ExtentRange | None:
        return self._todo.popleft() if self._todo else None

    def _start(self, actor: Any, part: ExtentRange | None) -> None:
        if part is not None:
            next_part = self._take()
            self._running[actor.encode.remote(part, next_part)] = (actor, part, next_part)

    def _replace(self, part: ExtentRange, next_part: ExtentRange | None, death: RayActorError) -> None:
        self._deaths += 1
        if self._deaths > MAX_DEATHS:
            reason = str(death).strip().splitlines()[-1]
            raise XmodalError(
                f"{self._deaths} encoders died one after the other, perhaps for lack of memory; what is finished "
                f"stays, and the same command goes on, with a smaller --batch-size or fewer --workers ({reason})"
            ) from death
        self._todo.extendleft([unfinished for unfinished in (next_part, part) if unfinished is not None])
        self._start(self._new_encoder(), self._take())
