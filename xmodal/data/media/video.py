"""One clip in, T pictures of its window out: uint8 RGB squares and a mask, written straight into the block."""

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import UInt8

from xmodal.data.decode.augment import Augment, View, apply
from xmodal.data.decode.fields import Column
from xmodal.data.decode.image import ImageField, rescaled, single_thread
from xmodal.data.media.clip_window import Span, Window, unpack
from xmodal.data.media.container import open_clip
from xmodal.data.media.media_limits import MediaLimits
from xmodal.data.media.orientation import Upright
from xmodal.data.media.video_frames import frames_at
from xmodal.errors import BadSample, ConfigError


@dataclass(frozen=True, kw_only=True)
class VideoField:
    """Columns `name` uint8 [frames, size, size, 3], RGB and upright, and `name_mask` bool [frames].

    Pictures are taken at the middles of `frames` equal parts of the window, or `rate` a second from its start; each
    is what stands on the screen at that instant, so a slow clip repeats pictures. Where the window reaches beyond
    the pictures, the mask is false and the picture zero. `fit` and `augment` are `ImageField`'s, the same view for
    every picture of a clip.

    BadSample: `missing_member`, `not_a_video`, `no_video_track`, `unknown_codec`, `too_large`, `too_long`,
    `bad_window`, `decode_truncated`, `decode_corrupt`.
    """

    frames: int = 8
    size: int = 112
    name: str = "video"
    rate: float | None = None  # pictures per second
    window: Window = field(default_factory=Window)
    augment: Augment | None = None
    fit: str = "crop"
    limits: MediaLimits = field(default_factory=MediaLimits)

    def __post_init__(self) -> None:
        if not 1 <= self.frames <= 4096:
            raise ConfigError(f"video: frames={self.frames} must lie in 1..4096")
        if self.rate is not None and not 0 < self.rate <= 1000:
            raise ConfigError(f"video: rate={self.rate} must lie above 0 and up to 1000 pictures per second")
        _ = self._lens  # ConfigError for size and fit

    @property
    def columns(self) -> dict[str, Column]:
        return {
            self.name: Column(dtype="uint8", shape=(self.frames, self.size, self.size, 3)),
            f"{self.name}_mask": Column(dtype="bool", shape=(self.frames,)),
        }

    @cached_property
    def _lens(self) -> ImageField:
        return ImageField(size=self.size, augment=self.augment, fit=self.fit, name=self.name)

    def times(self, window: Span) -> list[float]:
        """The instants, in seconds, at which the pictures of a window are taken; at most `frames`."""
        if self.rate is None:
            return [window.start + (i + 0.5) * window.seconds / self.frames for i in range(self.frames)]
        instants = (window.start + i / self.rate for i in range(self.frames))
        return [instant for instant in instants if instant < window.stop - 1e-6]

    def decode(self, raw: Any, rng: np.random.Generator, out: dict[str, np.ndarray]) -> None:
        """Write the pictures of the container in `raw` (bytes, or an `Excerpt` of them) into the two columns."""
        single_thread()
        encoded, excerpt = unpack(raw)
        clip = open_clip(media_bytes(encoded, self.name), self.limits, "video")
        upright = Upright(clip.video)
        window = self.window.choose(clip.span, excerpt, rng)
        pictures, seen = np.zeros_like(out[self.name]), np.zeros(self.frames, bool)
        view: View | None = None
        for places, frame in frames_at(clip, self.times(window)):
            self.limits.check_picture(frame.width, frame.height)
            width, height = upright.size(frame)
            view = view or self._lens.view(rng, width, height)
            pixels = upright.pixels(frame, self._share(view))
            here = replace(view, crop=rescaled(view.crop, width, height, pixels), tint=None)
            self._lens.place(pixels, here, pictures[places[0]])
            pictures[places[1:]] = pictures[places[0]]
            seen[places] = True
        if view is None:
            raise BadSample("bad_window", f"no picture from {window.start:.2f} to {window.stop:.2f} s")
        out[self.name][...] = _tinted(pictures, seen, view)
        out[f"{self.name}_mask"][...] = seen

    def _share(self, view: View) -> float:
        """The smallest scale of the whole picture at which the crop still fills the square."""
        width, height = self._lens.target(view.crop)
        return max(width / view.crop.width, height / view.crop.height)


def _tinted(pictures: UInt8[np.ndarray, "T S S 3"], seen: np.ndarray, view: View) -> UInt8[np.ndarray, "T S S 3"]:
    """One colour map for all pictures, from the mean of all: one per picture would make the clip flicker."""
    if view.tint is not None:
        tall = pictures[seen].reshape(-1, pictures.shape[2], 3)
        pictures[seen] = apply(View(crop=view.crop, tint=view.tint), tall).reshape(pictures[seen].shape)
    return pictures


def media_bytes(raw: Any, kind: str) -> bytes:
    """The encoded bytes themselves; BadSample `missing_member` or `not_a_video` where there are none."""
    if raw is None:
        raise BadSample("missing_member", f"the {kind} is null")
    if not isinstance(raw, bytes | bytearray | memoryview) or len(raw) == 0:
        raise BadSample("not_a_video", f"{type(raw).__name__} without encoded bytes")
    return bytes(raw)  # the same object where it is bytes already
