"""Held-out rows and a state in training -> retrieval both ways, measured by all ranks together, between two steps.

Each rank reads its share once, beside the first steps, and keeps it decoded; at a measurement it encodes its share,
the embeddings are gathered, and rank 0 searches while the others are at the next step already. (Ray Train's own way,
`ray.train.report(..., validation=...)`, is an alpha that runs a task on a checkpoint reported to Ray: it would need a
free slot, and every measurement a checkpoint and a start of torch. A thousand rows cost less than that here.)
"""

import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from pipelines.config.data import Data
from pipelines.config.validation import Validation
from pipelines.inference.encode import Encoded, encode_items
from pipelines.inference.pair_retrieval import search
from pipelines.models.dual_encoder import model_of
from pipelines.runtime.rank import Rank
from pipelines.stream.corpora import Notify, field_map, on_cluster
from xmodal.data.decode.fields import Field
from xmodal.data.index.corpus import Corpus, open_corpus
from xmodal.data.stream.evaluation_rows import Chunk, ItemRecipe, Items, read_items
from xmodal.errors import ConfigError
from xmodal.training.engine.evaluation_mode import evaluating
from xmodal.training.engine.state import TrainState

FEWEST_EXTENTS = 8  # that the rows are spread over: neighbours in a corpus may be alike
BATCH = 256


@dataclass(frozen=True, eq=False)
class HeldOut:
    """The rows that a run is measured on, and how often."""

    corpus: Corpus
    recipe: ItemRecipe
    every: int
    rows: np.ndarray  # int64, numbers in the corpus, rising

    def measurer(self, rank: Rank) -> "Measurer":
        return Measurer(self, rank)


def open_held_out(asked: Validation, data: Data, fields: tuple[Field, ...], notify: Notify) -> HeldOut | None:
    """What `asked` names, with its index checked and `fields` found; CorpusError where it is empty or lacks a field."""
    if asked.corpus is None:
        return None
    specs = asked.fields or data.fields
    return open_rows(asked.corpus, specs, fields, every=asked.every, rows=asked.rows, data=data, notify=notify)


def open_rows(
    uri: str, specs: Sequence[str], fields: tuple[Field, ...], *, every: int, rows: int, data: Data, notify: Notify
) -> HeldOut:
    """Up to `rows` rows of a corpus, spread evenly over it; `specs` is its field map, of which `fields` are read."""
    corpus = open_corpus(uri, index=data.index, options=data.storage, map_shards=on_cluster, notify=notify)
    names = [field.name for field in fields]
    mapping = field_map(corpus, specs, names)
    return HeldOut(corpus, ItemRecipe(mapping, fields), every, spread(corpus, rows))


def spread(corpus: Corpus, rows: int) -> np.ndarray:
    """Up to `rows` row numbers from extents that lie evenly over the corpus: a function of these two alone."""
    counts = corpus.extents.rows.astype(np.int64)
    extents = len(counts)
    wanted = max(FEWEST_EXTENTS, -(-rows * extents // max(1, corpus.rows)))
    while True:
        chosen = np.unique(np.linspace(0, extents - 1, min(wanted, extents)).astype(np.int64))
        held = np.concatenate([corpus.row_start[e] + np.arange(counts[e]) for e in chosen])
        if len(held) >= rows or len(chosen) == extents:
            break
        wanted *= 2
    take = min(rows, len(held))
    return held[np.arange(take) * len(held) // take]


class Measurer:
    """One rank's part in the measurements."""

    def __init__(self, held_out: HeldOut, rank: Rank) -> None:
        self._held_out, self._rank = held_out, rank
        own = np.array_split(held_out.rows, rank.world_size)[rank.index]
        pool = ThreadPoolExecutor(1)
        self._reading: Future[Items] = pool.submit(read_rows, held_out.corpus, held_out.recipe, own)
        pool.shutdown(wait=False)

    def due(self, step: int, *, last: bool) -> bool:
        return last or step % self._held_out.every == 0

    def encode(self, state: TrainState) -> Encoded:
        """The embeddings of this rank's share."""
        model = model_of(state)
        with evaluating(state):
            return encode_items(model, self._reading.result(), BATCH, model.dim)

    def measure(self, state: TrainState) -> dict[str, float]:
        """`validation/...` on rank 0, only the seconds elsewhere; all ranks call it at the same step.

        The seconds are those from which this rank's training stood still, up to the search.
        """
        began = time.perf_counter()
        found = Encoded.join(self._rank.gather([self.encode(state)]))
        _check(found, self._held_out.corpus)
        figures = retrieval(found) if self._rank.first else {}
        return figures | {"validation/seconds": time.perf_counter() - began}


def read_rows(corpus: Corpus, recipe: ItemRecipe, rows: np.ndarray) -> Items:
    """The sound ones of some rows, decoded as for an evaluation."""
    extents = np.unique(np.searchsorted(corpus.row_start, rows, side="right") - 1)
    return read_items(Chunk.of(corpus, extents), recipe, only=frozenset(rows.tolist()))


def _check(found: Encoded, corpus: Corpus) -> None:
    """ConfigError on all ranks alike where nothing can be measured: a restart would not help."""
    if not len(found.row):
        reasons = ", ".join(sorted({fault["reason"] for fault in found.faults}))
        raise ConfigError(f"{corpus.uri}: none of the rows to validate on can be read ({reasons}); mend that corpus")


def retrieval(found: Encoded) -> dict[str, float]:
    """The figures of jobs.evaluate on these rows, beside chance."""
    figures = {name: value for way, one in search(found).items() for name, value in one.as_metrics(way).items()}
    counts = {"rows": len(found.row), "skipped": sum(fault["item"] is None for fault in found.faults)}
    return {f"validation/{name}": float(value) for name, value in (figures | counts).items()}
