"""Read all samples of a small corpus in order, and fail on one that cannot be read: an experiment leaves none out."""

from collections.abc import Iterator
from tempfile import TemporaryDirectory
from typing import Any

from xmodal.data.index.corpus import open_corpus, read_extent
from xmodal.errors import CorpusError


def sample_members(uri: str, index: str | None = None) -> Iterator[dict[str, Any]]:
    """Yield the members of every sample, in corpus order: bytes by extension, or the cells of a row by column.

    `index` is a directory for the corpus's index; None: a temporary one. Raises CorpusError for a sample that cannot be
    read.
    """
    with TemporaryDirectory() as scratch:
        corpus = open_corpus(uri, index=index or scratch)
        for extent in range(len(corpus.extents)):
            for sample in read_extent(corpus, extent):
                if sample.members is None:
                    raise CorpusError(f"{uri}: {sample.key} cannot be read: {sample.fault}")
                yield sample.members
