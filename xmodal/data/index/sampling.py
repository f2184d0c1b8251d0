"""A corpus in, some of its rows spread evenly over it out: all of them where it is small."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass

import numpy as np

from xmodal.data.index.corpus import Corpus, RawSample, read_extent

FEWEST_EXTENTS = 16  # however few rows are wanted: neighbours in a shard are often alike


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Which extents are read, and the first so many rows of each."""

    extents: tuple[int, ...]
    rows_of_each: int
    rows: int  # in all

    @staticmethod
    def over(corpus: Corpus, most: int) -> "Spread":
        """At most `most` rows, from extents at even distances; all rows of a corpus that has no more."""
        counts = corpus.extents.rows
        if corpus.rows <= most:
            return Spread(extents=tuple(range(len(counts))), rows_of_each=int(counts.max(initial=1)), rows=corpus.rows)
        wanted = max(FEWEST_EXTENTS, -(-most // max(1, corpus.rows // len(counts))))
        number = min(len(counts), wanted, most)
        chosen = np.unique(np.linspace(0, len(counts) - 1, number).round().astype(int))
        each = max(1, most // len(chosen))
        return Spread(
            extents=tuple(chosen.tolist()), rows_of_each=each, rows=int(np.minimum(counts[chosen], each).sum())
        )


def read_spread(
    corpus: Corpus, spread: Spread, *, columns: Collection[str] | None = None
) -> Iterator[tuple[int, RawSample]]:
    """(number of the row in the corpus, sample) of every chosen row, one extent in memory at a time."""
    for extent in spread.extents:
        samples = read_extent(corpus, extent, columns=columns)
        first = int(corpus.row_start[extent])
        for place in range(min(spread.rows_of_each, len(samples))):
            yield first + place, samples[place]


def read_rows(
    corpus: Corpus, rows: Collection[int], *, columns: Collection[str] | None = None
) -> Iterator[tuple[int, RawSample]]:
    """(row, sample) of single rows, in corpus order; each extent is read once."""
    ordered = np.array(sorted(row for row in set(rows) if 0 <= row < corpus.rows), dtype=np.int64)
    extents = np.searchsorted(corpus.row_start, ordered, side="right") - 1
    for extent in np.unique(extents):
        samples = read_extent(corpus, int(extent), columns=columns)
        first = int(corpus.row_start[extent])
        for row in ordered[extents == extent]:
            yield int(row), samples[int(row) - first]
