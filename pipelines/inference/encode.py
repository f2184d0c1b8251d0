"""A checkpoint and a corpus in, embeddings of every sound row out: in this process, or by encoders on the cluster.

The corpus is cut into parts of whole extents. An *encoder* is an actor that holds the model; it sends the rows of its
parts to be read and decoded by tasks on whatever CPUs are free, on any node, always some chunks ahead,
also into its next part. A part is all or nothing: that of an encoder that dies is done again by another. (An actor pool
of Ray Data would do the same work, but its rows reach their sink in blocks that know nothing of parts, so what is
finished could not be told from what is not.) Nothing passes through the driver but what it asked for.
"""

import json
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import ray
import torch
from ray.exceptions import RayActorError, RayTaskError
from torch import Tensor

from pipelines.runtime.cluster import CPUS_PER_READ, Cluster
from xmodal import checkpoint
from xmodal.batch import Batch
from xmodal.checkpoint import Found
from xmodal.data.decode.fields import Field
from xmodal.data.decode.text import TextField
from xmodal.data.index.corpus import Corpus
from xmodal.data.stream.evaluation_rows import Chunk, ItemRecipe, Items, chunks, read_items
from xmodal.encoders.dual_encoder import DualEncoder
from xmodal.encoders.hub_tokenizer import load_tokenizer
from xmodal.encoders.input_fields import fields_of
from xmodal.errors import XmodalError
from xmodal.storage import StorageOptions

CHUNKS_AHEAD = 3  # decoded chunks that wait for an encoder
MOST_DEATHS = 3  # of encoders in a row, without a part finished between
WITHOUT = ("optimizer.safetensors", "critics.safetensors", "state.json", "quarantine.parquet")


@dataclass(frozen=True, eq=False)
class Trained:
    """A checkpoint as files, verified, and what a run of the model needs of it."""

    found: Found
    files: dict[str, np.ndarray]  # bytes by name: they travel to every encoder
    fields: Mapping[str, Field]  # what decodes each of its two modalities
    dim: int

    @property
    def modalities(self) -> tuple[str, ...]:
        return tuple(self.fields)

    @property
    def reads_text(self) -> bool:
        return "text" in self.fields

    @property
    def digest(self) -> str:
        """What tells these weights from any others, wherever they are stored: SHA-256 of the weights' file."""
        return next(record.sha256 for record in self.found.files if record.path == "model.safetensors")

    def specs(self, asked: Sequence[str]) -> tuple[str, ...]:
        """The field map that is asked for; of clips, where none is, that of the training: it says which seconds count.

        Pictures and captions go by the usual names, as a held-out corpus may have more captions than the training's.
        """
        if asked or self.reads_text or "run.json" not in self.files:
            return tuple(asked)
        return tuple(json.loads(self.files["run.json"].tobytes())["config"]["data"]["fields"])

    def model(self, device: torch.device | str = "cpu") -> DualEncoder:
        """The model in evaluation mode."""
        return model_of_files(self.files).eval().to(device)


def load(uri: str, options: StorageOptions) -> Trained:
    """The newest sound checkpoint of a run, or the one named; CheckpointError where there is none."""
    found = checkpoint.resolve(uri, options=options)
    with TemporaryDirectory(prefix="xmodal-checkpoint-") as scratch:
        directory = checkpoint.fetch(found, Path(scratch), skip=WITHOUT, options=options)
        files = files_in(directory)
        model = DualEncoder.from_pretrained(directory)
        fields = {field.name: field for field in fields_of(model, tokenizer_of(model, directory))}
        return Trained(found, files, fields, model.dim)


def files_in(directory: Path) -> dict[str, np.ndarray]:
    """The bytes of every file below a directory, by its path there."""
    paths = (path for path in directory.rglob("*") if path.is_file())
    return {path.relative_to(directory).as_posix(): np.fromfile(path, np.uint8) for path in paths}


def model_of_files(files: Mapping[str, np.ndarray]) -> DualEncoder:
    """The dual encoder that these files of a checkpoint hold."""
    with TemporaryDirectory(prefix="xmodal-model-") as scratch:
        for name, data in files.items():
            path = Path(scratch, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data.data)
        return DualEncoder.from_pretrained(scratch)


def tokenizer_of(model: DualEncoder, directory: Path) -> str | None:
    """The tokenizer beside a model; None for one that reads no text."""
    return load_tokenizer(str(directory)) if "text" in model.modalities else None


@dataclass(frozen=True, eq=False)
class Encoded:
    """Embeddings of the sound rows of a part; fields as in `Items`.

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
    def join(cls, parts: Sequence["Encoded"]) -> "Encoded":
        """One after the other."""
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
def encode_items(model: DualEncoder, items: Items, batch_size: int, dim: int) -> Encoded:
    """Embed what a chunk has of the model's modalities."""
    device = next(model.parameters()).device
    text = {"text": items.tokens, "text_length": items.length, "text_id": items.text_id}
    columns = {
        modality: text
        if modality == "text"
        else {name: column for name, column in items.columns.items() if name.partition("_")[0] == modality}
        for modality in model.modalities
    }
    vectors = {name: _embed(model, name, columns[name], batch_size, dim, device) for name in model.modalities}
    return Encoded(
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
    """torch takes no read-only memory, and what comes from the object store is."""
    return array if array.flags.writeable else array.copy()


@torch.no_grad()
def encode_texts(trained: Trained, model: DualEncoder, texts: Sequence[str], batch_size: int) -> Tensor:
    """Unit vectors float32 [T, D] of clean texts."""
    field = trained.fields["text"]
    assert isinstance(field, TextField)
    tokens, length = field.tokens(list(texts))
    fields = {"text": tokens, "text_length": length, "text_id": np.zeros(len(texts), np.int64)}
    device = next(model.parameters()).device
    return torch.from_numpy(_embed(model, "text", fields, batch_size, model.dim, device))


@dataclass(frozen=True, eq=False)
class Task:
    """What is to be encoded, and how."""

    corpus: Corpus
    recipe: ItemRecipe
    batch_size: int


@dataclass(frozen=True, order=True)
class Part:
    """Extents `start` to `stop` - 1: what is encoded as one."""

    number: int
    start: int
    stop: int


def parts(corpus: Corpus, rows: int) -> list[Part]:
    """The corpus in parts of about `rows` rows; a function of the corpus and `rows` alone."""
    found = chunks(corpus, 0, len(corpus.extents), rows)
    return [Part(number, int(extents[0]), int(extents[-1]) + 1) for number, extents in enumerate(found)]


def encode_here(trained: Trained, model: DualEncoder, task: Task) -> Encoded:
    """Everything in this process; one thread reads and decodes ahead."""
    whole = chunks(task.corpus, 0, len(task.corpus.extents), task.recipe.chunk_rows)
    pending: deque[Future[Items]] = deque()
    found = []
    with ThreadPoolExecutor(1) as pool:
        for extents in whole:
            pending.append(pool.submit(read_items, Chunk.of(task.corpus, extents), task.recipe))
            if len(pending) >= 2:
                found.append(encode_items(model, pending.popleft().result(), task.batch_size, model.dim))
        found += [encode_items(model, later.result(), task.batch_size, model.dim) for later in pending]
    return Encoded.join(found)


Sink = Callable[[Part, Encoded], Any]


class _Encoder:
    """One actor: parts come in, what `sink` makes of their embeddings goes out."""

    def __init__(self, trained: Trained, task: Task, sink: Sink, threads: int) -> None:
        torch.set_num_threads(threads)
        self._model = trained.model("cuda" if ray.get_gpu_ids() else "cpu")
        self._task, self._sink = task, sink
        self._recipe = ray.put(task.recipe)
        self._reading: deque[tuple[Part, ray.ObjectRef]] = deque()
        self._unread: deque[tuple[Part, np.ndarray]] = deque()
        self._known: set[Part] = set()

    def encode(self, part: Part, then: Part | None) -> Any:
        """Encode `part`; reading goes on into `then`, which must be the next one asked for."""
        for coming in (part, then):
            if coming is not None and coming not in self._known:
                self._known.add(coming)
                groups = chunks(self._task.corpus, coming.start, coming.stop, self._task.recipe.chunk_rows)
                self._unread.extend((coming, extents) for extents in groups)
        found = []
        self._read_ahead()
        while self._reading and self._reading[0][0] == part:
            items = ray.get(self._reading.popleft()[1])
            self._read_ahead()
            found.append(encode_items(self._model, items, self._task.batch_size, self._model.dim))
        return self._sink(part, Encoded.join(found))

    def _read_ahead(self) -> None:
        while self._unread and len(self._reading) < CHUNKS_AHEAD:
            part, extents = self._unread.popleft()
            self._reading.append((part, _read.remote(Chunk.of(self._task.corpus, extents), [self._recipe])))


@ray.remote(num_cpus=CPUS_PER_READ, max_retries=3)
def _read(chunk: Chunk, recipe: list[ray.ObjectRef]) -> Items:
    return read_items(chunk, ray.get(recipe[0]))


def encode_on_cluster(
    trained: Trained, task: Task, todo: Sequence[Part], sink: Sink, cluster: Cluster
) -> Iterator[tuple[Part, Any]]:
    """What `sink(part, embeddings)` gives for every part, run where the encoder is, in the order of completion.

    XmodalError when encoders keep dying; what a sink or a reader raises is raised here.
    """
    crew = _Crew(trained, task, sink, cluster, deque(todo))
    try:
        yield from crew.results()
    finally:
        crew.dismiss()


class _Crew:
    """The encoders, each with the part that it works on and the one that comes next."""

    def __init__(self, trained: Trained, task: Task, sink: Sink, cluster: Cluster, todo: deque[Part]) -> None:
        count = max(1, min(cluster.sizes[-1], len(todo)))
        cores = os.cpu_count() or 1
        threads = max(1, cores // count) if cluster.local else max(1, int(cluster.per_worker.get("CPU", 1)))
        actor = ray.remote(_Encoder).options(
            num_cpus=cluster.per_worker.get("CPU", 0), num_gpus=cluster.per_worker.get("GPU", 0)
        )
        given = ray.put(trained), ray.put(task)
        self._new = partial(actor.remote, *given, sink, threads)
        self._todo = todo
        self._running: dict[ray.ObjectRef, tuple[Any, Part, Part | None]] = {}
        self._deaths = 0
        for first in [self._take() for _ in range(count)]:  # one for each, before any gets a second
            self._start(self._new(), first)

    def results(self) -> Iterator[tuple[Part, Any]]:
        while self._running:
            (done,), _ = ray.wait(list(self._running))
            actor, part, then = self._running.pop(done)
            try:
                result = ray.get(done)
            except RayTaskError as error:
                raise error.cause if isinstance(error.cause, XmodalError) else error from None
            except RayActorError as death:
                if death.actor_init_failed:  # what fails while it starts fails every time
                    raise
                self._replace(part, then, death)
                continue
            self._deaths = 0
            self._start(actor, then or self._take())
            yield part, result

    def dismiss(self) -> None:
        for actor, _, _ in self._running.values():
            ray.kill(actor)
        self._running = {}

    def _take(self) -> Part | None:
        return self._todo.popleft() if self._todo else None

    def _start(self, actor: Any, part: Part | None) -> None:
        if part is not None:
            then = self._take()
            self._running[actor.encode.remote(part, then)] = (actor, part, then)

    def _replace(self, part: Part, then: Part | None, death: RayActorError) -> None:
        self._deaths += 1
        if self._deaths > MOST_DEATHS:
            reason = str(death).strip().splitlines()[-1]
            raise XmodalError(
                f"{self._deaths} encoders died one after the other, perhaps for lack of memory; what is finished "
                f"stays, and the same command goes on, with a smaller --batch-size or fewer --workers ({reason})"
            ) from death
        self._todo.extendleft([later for later in (then, part) if later is not None])
        self._start(self._new(), self._take())
