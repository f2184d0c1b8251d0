"""Quarantine records in; each reason with its number of rows and, where bytes can still be decoded, stamps out."""

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
from xmodal.report.held_out_pairs import stamp

EXAMPLES = 4  # rows of each reason that are looked at
MOST_REASONS = 12

OpenCorpus = Callable[[str], tuple[Corpus, FieldMap]]


@dataclass(frozen=True, kw_only=True)
class Example:
    """One bad row; `picture` is None where its bytes cannot be decoded, and `why` says why not."""

    record: Mapping[str, Any]
    picture: UInt8[np.ndarray, "S S 3"] | None = None
    why: str = ""


@dataclass(frozen=True, kw_only=True)
class Reason:
    """All bad rows of one reason in one field."""

    reason: str
    field: str
    rows: int
    corpora: tuple[str, ...]
    examples: tuple[Example, ...] = ()


def reasons(table: pa.Table, open_corpus: OpenCorpus | None = None) -> list[Reason]:
    """The reasons, most frequent first. Every (corpus, row) counts once, in however many epochs it came.

    `open_corpus` gives a corpus and its field map by its URI; without it, or where it raises, there are no stamps.
    """
    groups: dict[tuple[str, str], dict[tuple[str, int], Mapping[str, Any]]] = {}
    for record in table.to_pylist():
        key = (record["reason"], record["field"])
        groups.setdefault(key, {}).setdefault((record["corpus"], record["row"]), record)
    ordered = sorted(groups.items(), key=lambda item: (-len(item[1]), item[0]))
    look = _Look(open_corpus)
    return [
        Reason(
            reason=reason,
            field=name or "sample",
            rows=len(records),
            corpora=tuple(dict.fromkeys(record["corpus"] for record in records.values())),
            examples=look.at(list(records.values())[:EXAMPLES]) if place < MOST_REASONS else (),
        )
        for place, ((reason, name), records) in enumerate(ordered)
    ]


class _Look:
    """Opens each corpus once and looks at single rows of it."""

    def __init__(self, open_corpus: OpenCorpus | None) -> None:
        self._open = open_corpus
        self._opened: dict[str, tuple[Corpus, FieldMap] | str] = {}

    def at(self, records: Sequence[Mapping[str, Any]]) -> tuple[Example, ...]:
        return tuple(self._example(record) for record in records)

    def _example(self, record: Mapping[str, Any]) -> Example:
        opened = self._corpus(record["corpus"])
        if isinstance(opened, str):
            return Example(record=record, why=opened)
        corpus, mapping = opened
        try:
            found = dict(read_rows(corpus, [record["row"]], columns=tuple(sorted(mapping.members))))
            sample = found.get(record["row"])
            if sample is None or sample.key != record["key"]:
                return Example(record=record, why="the corpus holds another row there now")
            if sample.fault is not None:
                raise sample.fault
            return Example(record=record, picture=stamp(mapping, sample.members or {}))
        except (BadSample, XmodalError) as error:
            return Example(record=record, why=str(error))

    def _corpus(self, uri: str) -> tuple[Corpus, FieldMap] | str:
        if self._open is None:
            return "not looked at"
        if uri not in self._opened:
            try:
                self._opened[uri] = self._open(uri)
            except XmodalError as error:
                self._opened[uri] = f"the corpus cannot be opened: {error}"
        return self._opened[uri]
