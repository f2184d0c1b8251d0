"""Measure retrieval on held-out pairs between two training steps, by all ranks together.

Each rank reads its share of the rows once, during the first steps, and keeps it decoded. At an evaluation it encodes
its share, the embeddings are gathered, and rank 0 searches while the others train on. (Ray Train's own way,
`ray.train.report(..., validation=...)`, is an alpha that runs a task on a checkpoint reported to Ray: it would need a
free slot, and every evaluation a checkpoint and a start of torch. A thousand rows cost less than that here.)
"""

import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from pipelines.config.data import DataConfig
from pipelines.config.validation import ValidationConfig
from pipelines.inference.encode import Embeddings, encode_items
from pipelines.inference.pair_retrieval import search_both_ways
from pipelines.models.dual_encoder import model_of
from pipelines.runtime.rank import Rank
from pipelines.stream.corpora import map_on_cluster
from xmodal.callbacks import Notify
from xmodal.data.decode.fields import Field
from xmodal.data.index.corpus import Corpus, open_corpus
from xmodal.data.index.field_maps import field_map
from xmodal.data.stream.evaluation_rows import EvaluationDecoder, EvaluationRows, ExtentChunk, read_evaluation_rows
from xmodal.errors import ConfigError
from xmodal.training.engine.evaluation_mode import evaluation_mode
from xmodal.training.engine.state import TrainState

MIN_EXTENTS = 8  # the rows are spread over at least so many: neighbours in a corpus may be alike
BATCH_SIZE = 256  # rows encoded at once


@dataclass(frozen=True, eq=False)
class ValidationRows:
    """Held-out rows that a run is evaluated on, and how often."""

    corpus: Corpus
    decoder: EvaluationDecoder
    every: int  # steps between two evaluations
    rows: np.ndarray  # int64, numbers in the corpus, ascending

    def evaluator(self, rank: Rank) -> "RetrievalEvaluator":
        """Return a rank's part in the evaluations."""
        return RetrievalEvaluator(self, rank)


def open_held_out(
    config: ValidationConfig, data: DataConfig, fields: tuple[Field, ...], notify: Notify
) -> ValidationRows | None:
    """Open the corpus to validate on; None without one. CorpusError where it is empty or lacks one of `fields`."""
    if config.corpus is None:
        return None
    specs = config.fields or data.fields
    return open_rows(config.corpus, specs, fields, every=config.every, rows=config.rows, data=data, notify=notify)


def open_rows(
    uri: str,
    specs: Sequence[str],
    fields: tuple[Field, ...],
    *,
    every: int,
    rows: int,
    data: DataConfig,
    notify: Notify,
) -> ValidationRows:
    """Choose up to `rows` rows of a corpus, spread evenly over it; `fields` are read by the field map `specs`."""
    corpus = open_corpus(uri, index=data.index, options=data.storage, map_shards=map_on_cluster, notify=notify)
    names = [field.name for field in fields]
    decoder = EvaluationDecoder(field_map(corpus, specs, names), fields)
    return ValidationRows(corpus, decoder, every, spread_rows(corpus, rows))


def spread_rows(corpus: Corpus, rows: int) -> np.ndarray:
    """Choose up to `rows` row numbers from extents spread evenly over the corpus: a function of these two alone."""
    counts = corpus.extents.rows.astype(np.int64)
    extents = len(counts)
    wanted = max(MIN_EXTENTS, -(-rows * extents // max(1, corpus.rows)))
    while True:
        chosen = np.unique(np.linspace(0, extents - 1, min(wanted, extents)).astype(np.int64))
        candidates = np.concatenate([corpus.row_start[e] + np.arange(counts[e]) for e in chosen])
        if len(candidates) >= rows or len(chosen) == extents:
            break
        wanted *= 2
    count = min(rows, len(candidates))
    return candidates[np.arange(count) * len(candidates) // count]


class RetrievalEvaluator:
    """One rank's part in the evaluations: it encodes its share of the rows."""

    def __init__(self, held_out: ValidationRows, rank: Rank) -> None:
        self._held_out, self._rank = held_out, rank
        rows = np.array_split(held_out.rows, rank.world_size)[rank.index]
        pool = ThreadPoolExecutor(1)
        self._reading: Future[EvaluationRows] = pool.submit(read_rows, held_out.corpus, held_out.decoder, rows)
        pool.shutdown(wait=False)

    def due(self, step: int, *, last: bool) -> bool:
        """Return whether to evaluate after this step; alike on all ranks."""
        return last or step % self._held_out.every == 0

    def encode(self, state: TrainState) -> Embeddings:
        """Embed this rank's share."""
        model = model_of(state)
        with evaluation_mode(state):
            return encode_items(model, self._reading.result(), BATCH_SIZE, model.dim)

    def evaluate(self, state: TrainState) -> dict[str, float]:
        """Return `validation/...` on rank 0, only `validation/seconds` elsewhere; all ranks call it at the same step.

        The seconds are those during which this rank's training stood still.
        """
        started = time.perf_counter()
        embeddings = Embeddings.join(self._rank.gather([self.encode(state)]))
        _check_rows(embeddings, self._held_out.corpus)
        metrics = retrieval_metrics(embeddings) if self._rank.first else {}
        return metrics | {"validation/seconds": time.perf_counter() - started}


def read_rows(corpus: Corpus, decoder: EvaluationDecoder, rows: np.ndarray) -> EvaluationRows:
    """Read and decode those of some rows that are valid."""
    extents = np.unique(np.searchsorted(corpus.row_start, rows, side="right") - 1)
    return read_evaluation_rows(ExtentChunk.from_corpus(corpus, extents), decoder, only=frozenset(rows.tolist()))


def _check_rows(embeddings: Embeddings, corpus: Corpus) -> None:
    """Raise ConfigError on all ranks alike where no row can be read: a restart would not help."""
    if not len(embeddings.row):
        reasons = ", ".join(sorted({fault["reason"] for fault in embeddings.faults}))
        raise ConfigError(f"{corpus.uri}: none of the rows to validate on can be read ({reasons}); fix that corpus")


def retrieval_metrics(embeddings: Embeddings) -> dict[str, float]:
    """Return the retrieval metrics of jobs.evaluate on these rows, and those of chance."""
    searches = search_both_ways(embeddings)
    metrics = {name: value for way, result in searches.items() for name, value in result.as_metrics(way).items()}
    counts = {"rows": len(embeddings.row), "skipped": sum(fault["item"] is None for fault in embeddings.faults)}
    return {f"validation/{name}": float(value) for name, value in (metrics | counts).items()}
