"""Read a sample of a corpus: rows at even distances, or single rows by number."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass

import numpy as np

from xmodal.data.index.corpus import Corpus, RawSample, read_extent

MIN_EXTENTS = 16  # however small the sample: neighbours in a shard are often alike


@dataclass(frozen=True, kw_only=True)
class SamplePlan:
    """Which extents are read, and how many of the first rows of each."""

    extents: tuple[int, ...]
    rows_per_extent: int
    rows: int  # of the whole sample

    @staticmethod
    def evenly(corpus: Corpus, max_rows: int) -> "SamplePlan":
        """Choose at most `max_rows` rows, from extents at even distances; all rows of a smaller corpus."""
        counts = corpus.extents.rows
        if corpus.rows <= max_rows:
            return SamplePlan(
                extents=tuple(range(len(counts))), rows_per_extent=int(counts.max(initial=1)), rows=corpus.rows
            )
        target = max(MIN_EXTENTS, -(-max_rows // max(1, corpus.rows // len(counts))))
        number = min(len(counts), target, max_rows)
        extents = np.unique(np.linspace(0, len(counts) - 1, number).round().astype(int))
        rows_per_extent = max(1, max_rows // len(extents))
        return SamplePlan(
            extents=tuple(extents.tolist()),
            rows_per_extent=rows_per_extent,
            rows=int(np.minimum(counts[extents], rows_per_extent).sum()),
        )


def read_sample(
    corpus: Corpus, plan: SamplePlan, *, columns: Collection[str] | None = None
) -> Iterator[tuple[int, RawSample]]:
    """Yield (number of the row in the corpus, sample) of every chosen row, with one extent in memory at a time."""
    for extent in plan.extents:
        samples = read_extent(corpus, extent, columns=columns)
        first_row = int(corpus.row_start[extent])
        for position in range(min(plan.rows_per_extent, len(samples))):
            yield first_row + position, samples[position]


def read_rows(
    corpus: Corpus, rows: Collection[int], *, columns: Collection[str] | None = None
) -> Iterator[tuple[int, RawSample]]:
    """Yield (row, sample) of single rows in the order of the corpus; each extent is read once."""
    ordered = np.array(sorted(row for row in set(rows) if 0 <= row < corpus.rows), dtype=np.int64)
    extents = np.searchsorted(corpus.row_start, ordered, side="right") - 1
    for extent in np.unique(extents):
        samples = read_extent(corpus, int(extent), columns=columns)
        first = int(corpus.row_start[extent])
        for row in ordered[extents == extent]:
            yield int(row), samples[int(row) - first]
