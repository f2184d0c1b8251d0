"""One class of one sample in, its number out."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from xmodal.data.decode.fields import Column
from xmodal.errors import BadSample, ConfigError


@dataclass(frozen=True, kw_only=True)
class LabelField:
    """Column `name` int64: the place of the sample's class in `classes`.

    A sample holds the class by name, or as a number that counts them from 0 (also as digits, as in a `cls` member);
    where names are digits themselves, the name counts.

    BadSample: `no_label` (missing, empty), `unknown_label`. With `optional` a sample without a label has -1 instead.
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
        """Write the number of the class in `raw` (bytes, str or int)."""
        out[self.name][...] = -1 if self.optional and raw is None else self.number(raw)

    def number(self, raw: Any) -> int:
        """The number of the class that a sample names."""
        text = raw.decode("utf-8", "replace") if isinstance(raw, bytes) else raw
        if text is None or isinstance(text, bool) or not isinstance(text, str | int) or not str(text).strip():
            raise BadSample("no_label", f"{type(raw).__name__} {str(raw)[:40]!r}")
        text = str(text).strip()
        if text in self._places:
            return self._places[text]
        if text.isdecimal() and int(text) < len(self.classes):
            return int(text)
        raise BadSample("unknown_label", f"{text[:40]!r} is none of {len(self.classes)} classes")

    @cached_property
    def _places(self) -> dict[str, int]:
        return {name: place for place, name in enumerate(self.classes)}
