"""Group the quarantined rows of a run by reason, with thumbnails of a few rows whose bytes can still be decoded."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import UInt8

from xmodal.data.decode.fields import FieldMap
from xmodal.data.index.corpus import Corpus
from xmodal.data.index.sampling import read_rows
from xmodal.errors import BadSample, XmodalError
from xmodal.report.held_out_pairs import row_thumbnail

EXAMPLES_PER_REASON = 4
MAX_REASONS_WITH_EXAMPLES = 12

OpenCorpus = Callable[[str], tuple[Corpus, FieldMap]]  # by its URI; raises XmodalError where it cannot be opened


@dataclass(frozen=True, kw_only=True)
class QuarantineExample:
    """One quarantined row; without a thumbnail, `why_no_thumbnail` says why its image cannot be shown."""

    record: Mapping[str, Any]
    thumbnail: UInt8[np.ndarray, "S S 3"] | None = None
    why_no_thumbnail: str = ""


@dataclass(frozen=True, kw_only=True)
class QuarantineReason:
    """All rows that were quarantined for one reason in one field."""

    reason: str
    field: str
    rows: int
    corpora: tuple[str, ...]
    examples: tuple[QuarantineExample, ...] = ()


def group_by_reason(table: pa.Table, open_corpus: OpenCorpus | None = None) -> list[QuarantineReason]:
    """Return the reasons in a run's quarantine table, most frequent first.

    Every (corpus, row) counts once, in however many epochs it was met. Without `open_corpus`, or where it raises, the
    examples have no thumbnails.
    """
    groups: dict[tuple[str, str], dict[tuple[str, int], Mapping[str, Any]]] = {}
    for record in table.to_pylist():
        key = (record["reason"], record["field"])
        groups.setdefault(key, {}).setdefault((record["corpus"], record["row"]), record)
    ordered = sorted(groups.items(), key=lambda item: (-len(item[1]), item[0]))
    reader = _ExampleReader(open_corpus)
    return [
        QuarantineReason(
            reason=reason,
            field=name or "sample",
            rows=len(records),
            corpora=tuple(dict.fromkeys(record["corpus"] for record in records.values())),
            examples=reader.read(list(records.values())[:EXAMPLES_PER_REASON]) if k < MAX_REASONS_WITH_EXAMPLES else (),
        )
        for k, ((reason, name), records) in enumerate(ordered)
    ]


class _ExampleReader:
    """Reads single rows of corpora; each corpus is opened once."""

    def __init__(self, open_corpus: OpenCorpus | None) -> None:
        self._open = open_corpus
        self._corpora: dict[str, tuple[Corpus, FieldMap] | str] = {}

    def read(self, records: Sequence[Mapping[str, Any]]) -> tuple[QuarantineExample, ...]:
        """Return the rows of these quarantine records, with thumbnails where they can be decoded."""
        return tuple(self._read_row(record) for record in records)

    def _read_row(self, record: Mapping[str, Any]) -> QuarantineExample:
        opened = self._corpus(record["corpus"])
        if isinstance(opened, str):
            return QuarantineExample(record=record, why_no_thumbnail=opened)
        corpus, mapping = opened
        try:
            rows = dict(read_rows(corpus, [record["row"]], columns=tuple(sorted(mapping.members))))
            sample = rows.get(record["row"])
            if sample is None or sample.key != record["key"]:
                return QuarantineExample(record=record, why_no_thumbnail="the corpus now holds another row there")
            if sample.fault is not None:
                raise sample.fault
            return QuarantineExample(record=record, thumbnail=row_thumbnail(mapping, sample.members or {}))
        except (BadSample, XmodalError) as error:
            return QuarantineExample(record=record, why_no_thumbnail=str(error))

    def _corpus(self, uri: str) -> tuple[Corpus, FieldMap] | str:
        """Return the corpus with its field map, or a sentence that says why it is not there."""
        if self._open is None:
            return "the corpus was not read"
        if uri not in self._corpora:
            try:
                self._corpora[uri] = self._open(uri)
            except XmodalError as error:
                self._corpora[uri] = f"the corpus cannot be opened: {error}"
        return self._corpora[uri]
