"""Decode the class of a sample into its number."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from xmodal.data.decode.fields import Column
from xmodal.errors import BadSample, ConfigError


@dataclass(frozen=True, kw_only=True)
class LabelField:
    """Decode a label into the column `name` int64: the index of the sample's class in `classes`.

    A sample holds the name of its class, or the index (also as digits, as in a `cls` member); digits that are the name
    of a class are that name.

    BadSample: `no_label` (missing, empty), `unknown_label`. With `optional` a sample without a label has -1 instead.

    >>> LabelField(classes=("cat", "dog")).number(b"dog\\n")
    1
    """

    classes: tuple[str, ...]
    name: str = "label"
    optional: bool = False

    def __post_init__(self) -> None:
        if len(self.classes) < 2 or len(set(self.classes)) < len(self.classes):
            raise ConfigError(f"{self.name}: {len(self.classes)} classes: give at least two, each once")

    @property
    def columns(self) -> dict[str, Column]:
        return {self.name: Column(dtype="int64", shape=())}

    def decode(self, raw: Any, rng: np.random.Generator, out: dict[str, np.ndarray]) -> None:
        """Write the index of the class in `raw` (bytes, str or int)."""
        out[self.name][...] = -1 if self.optional and raw is None else self.number(raw)

    def number(self, raw: Any) -> int:
        """Return the index of the class in `raw` (bytes, str or int)."""
        text = raw.decode("utf-8", "replace") if isinstance(raw, bytes) else raw
        if text is None or isinstance(text, bool) or not isinstance(text, str | int) or not str(text).strip():
            raise BadSample("no_label", f"{type(raw).__name__} {str(raw)[:40]!r}")
        text = str(text).strip()
        if text in self._index_of:
            return self._index_of[text]
        if text.isdecimal() and int(text) < len(self.classes):
            return int(text)
        raise BadSample("unknown_label", f"{text[:40]!r} is none of {len(self.classes)} classes")

    @cached_property
    def _index_of(self) -> dict[str, int]:
        return {name: index for index, name in enumerate(self.classes)}
