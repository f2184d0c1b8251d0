"""Choose the time span of a clip to decode.

Seconds are on the clip's own clock: 0 is where a player starts it. Fields with equal windows take the same seconds of
a row, whatever other random numbers they draw.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from xmodal.data.decode.fields import ValueWithSpan
from xmodal.data.stream.order import row_uniform
from xmodal.errors import BadSample, ConfigError, nearest

PLACEMENTS = ("start", "centre", "random")


@dataclass(frozen=True, slots=True)
class TimeSpan:
    """The time from `start` to `stop` in seconds."""

    start: float
    stop: float

    @property
    def seconds(self) -> float:
        """Length of the span."""
        return self.stop - self.start


@dataclass(frozen=True, kw_only=True)
class ClipWindow:
    """Which part of a clip is decoded: `seconds` of it at `position` (start, centre or random); None means all of it.

    Where the field map names a time span (`video=mp4@json:words.4`), the window is placed in that span instead of the
    whole clip, after the span is widened by `margin` on both sides. A span shorter than `seconds` lies in the middle of
    the window (`centre`), at its start, or anywhere in it (`random`). The window stays inside the clip where the clip
    is long enough.
    """

    seconds: float | None = None
    position: str = "centre"
    margin: float = 0.0  # seconds

    def __post_init__(self) -> None:
        if self.position not in PLACEMENTS:
            raise ConfigError(f"window: unknown position {self.position!r}; {nearest(self.position, PLACEMENTS)}")
        if self.seconds is not None and not 0 < self.seconds <= 3600:
            raise ConfigError(f"window: seconds={self.seconds} must lie above 0 and up to 3600")
        if not 0 <= self.margin <= 3600:
            raise ConfigError(f"window: margin={self.margin} must lie in 0..3600 seconds")

    def choose(self, clip: TimeSpan, region: TimeSpan | None, rng: np.random.Generator) -> TimeSpan:
        """Return the time span to decode of a clip, within `region` if given.

        BadSample `bad_window` where the region lies outside the clip.

        >>> rng = np.random.default_rng(0)
        >>> ClipWindow(seconds=2.0).choose(TimeSpan(0.0, 10.0), None, rng)
        TimeSpan(start=4.0, stop=6.0)
        >>> ClipWindow(margin=0.5).choose(TimeSpan(0.0, 10.0), TimeSpan(3.0, 4.0), rng)
        TimeSpan(start=2.5, stop=4.5)
        """
        region = self._widen(region, clip) if region else clip
        if self.seconds is None:
            return region
        slack = region.seconds - self.seconds
        share = {"start": 0.0, "centre": 0.5}.get(self.position)
        start = region.start + slack * (row_uniform(rng) if share is None else share)
        start = max(clip.start, min(start, clip.stop - self.seconds))
        return TimeSpan(start, start + self.seconds)

    def _widen(self, region: TimeSpan, clip: TimeSpan) -> TimeSpan:
        start, stop = max(clip.start, region.start - self.margin), min(clip.stop, region.stop + self.margin)
        if start >= stop:
            detail = f"{region.start:g} to {region.stop:g} s of a clip from {clip.start:g} to {clip.stop:g} s"
            raise BadSample("bad_window", detail)
        return TimeSpan(start, stop)


def split_time_span(raw: object) -> tuple[object, TimeSpan | None]:
    """Return the value of a field, and its time span if it is a `ValueWithSpan`."""
    return (raw.value, parse_time_span(raw.span)) if isinstance(raw, ValueWithSpan) else (raw, None)


def parse_time_span(value: object) -> TimeSpan:
    """Parse `{"start": s, "end": s}` (or `stop`), or `[s, s]`, in seconds; BadSample `bad_window` for anything else.

    >>> parse_time_span({"start": 1.5, "end": 2})
    TimeSpan(start=1.5, stop=2.0)
    """
    if isinstance(value, Mapping):
        value = (value.get("start"), value.get("end", value.get("stop")))
    if isinstance(value, Sequence | np.ndarray) and not isinstance(value, str | bytes) and len(value) == 2:
        start, stop = value
        if _is_number(start) and _is_number(stop) and 0 <= start < stop < math.inf:
            return TimeSpan(float(start), float(stop))
    raise BadSample("bad_window", f"{str(value)[:80]} is neither start and end nor two numbers of seconds")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool) and math.isfinite(value)
