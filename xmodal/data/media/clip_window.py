"""A clip's span, the corpus's word on which part is meant, and a row's randomness in; the seconds to decode out.

Seconds are on the clip's own clock: 0 is where a player starts it. Fields with equal windows see and hear the same
seconds of a row, whatever else they draw.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from xmodal.data.decode.fields import Excerpt
from xmodal.data.stream.order import row_uniform
from xmodal.errors import BadSample, ConfigError, nearest

PLACES = ("start", "centre", "random")


@dataclass(frozen=True, slots=True)
class Span:
    """Seconds from `start` to `stop`."""

    start: float
    stop: float

    @property
    def seconds(self) -> float:
        return self.stop - self.start


@dataclass(frozen=True, kw_only=True)
class Window:
    """Which part of a clip is taken: `seconds` of it at `place`, None for all of it.

    Where the field map names an excerpt (`video=mp4@json:words.4`), the window is placed in that instead, widened
    by `margin` on both sides; one that is shorter than `seconds` lies in the middle of them (`centre`), at their
    start, or anywhere (`random`). A window never leaves the clip where the clip is long enough.
    """

    seconds: float | None = None
    place: str = "centre"
    margin: float = 0.0  # seconds

    def __post_init__(self) -> None:
        if self.place not in PLACES:
            raise ConfigError(f"window: unknown place {self.place!r}; {nearest(self.place, PLACES)}")
        if self.seconds is not None and not 0 < self.seconds <= 3600:
            raise ConfigError(f"window: seconds={self.seconds} must lie above 0 and up to 3600")
        if not 0 <= self.margin <= 3600:
            raise ConfigError(f"window: margin={self.margin} must lie in 0..3600 seconds")

    def choose(self, clip: Span, excerpt: Span | None, rng: np.random.Generator) -> Span:
        """The seconds of this row; BadSample `bad_window` where the excerpt lies outside the clip."""
        region = self._widened(excerpt, clip) if excerpt else clip
        if self.seconds is None:
            return region
        room = region.seconds - self.seconds
        share = {"start": 0.0, "centre": 0.5}.get(self.place)
        start = region.start + room * (row_uniform(rng) if share is None else share)
        start = max(clip.start, min(start, clip.stop - self.seconds))
        return Span(start, start + self.seconds)

    def _widened(self, excerpt: Span, clip: Span) -> Span:
        start, stop = max(clip.start, excerpt.start - self.margin), min(clip.stop, excerpt.stop + self.margin)
        if start >= stop:
            detail = f"{excerpt.start:g} to {excerpt.stop:g} s of a clip from {clip.start:g} to {clip.stop:g} s"
            raise BadSample("bad_window", detail)
        return Span(start, stop)


def unpack(raw: Any) -> tuple[Any, Span | None]:
    """A field's raw value without its excerpt, and the excerpt's seconds."""
    return (raw.value, span_of(raw.span)) if isinstance(raw, Excerpt) else (raw, None)


def span_of(found: Any) -> Span:
    """`{"start": s, "end": s}` (or `stop`), or `[s, s]`, in seconds; BadSample `bad_window` for anything else."""
    if isinstance(found, Mapping):
        found = (found.get("start"), found.get("end", found.get("stop")))
    if isinstance(found, Sequence | np.ndarray) and not isinstance(found, str | bytes) and len(found) == 2:
        start, stop = found
        if _is_number(start) and _is_number(stop) and 0 <= start < stop < math.inf:
            return Span(float(start), float(stop))
    raise BadSample("bad_window", f"{str(found)[:80]} is neither start and end nor two numbers of seconds")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool) and math.isfinite(value)
