"""The URI of a small corpus of tar shards in, the members of each sample out, in corpus order."""

from collections.abc import Iterator
from tempfile import TemporaryDirectory
from typing import Any

from xmodal.data.index.corpus import open_corpus, read_extent
from xmodal.errors import CorpusError


def members(uri: str) -> Iterator[dict[str, Any]]:
    """`{extension: bytes}`; CorpusError for a sample that cannot be read: an experiment leaves none out."""
    with TemporaryDirectory() as index:
        corpus = open_corpus(uri, index=index)
        for extent in range(len(corpus.extents)):
            for sample in read_extent(corpus, extent):
                if sample.members is None:
                    raise CorpusError(f"{uri}: {sample.key} cannot be read: {sample.fault}")
                yield sample.members
