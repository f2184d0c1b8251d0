"""Decode frames of a clip's window into uint8 RGB squares and a mask."""

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import UInt8

from xmodal.data.decode.augment import Augment, Crop, ImageTransform, apply_transform
from xmodal.data.decode.fields import Column
from xmodal.data.decode.image import ImageField, limit_opencv_threads, rescale_crop
from xmodal.data.media.clip_window import ClipWindow, TimeSpan, split_time_span
from xmodal.data.media.container import open_clip
from xmodal.data.media.media_limits import MediaLimits
from xmodal.data.media.orientation import FrameConverter
from xmodal.data.media.video_frames import frames_at
from xmodal.errors import BadSample, ConfigError


@dataclass(frozen=True, kw_only=True)
class VideoField:
    """Decode a clip into the columns `name` uint8 [frames, size, size, 3] (RGB, upright) and `name_mask` bool [frames].

    Frames are taken at the middles of `frames` equal parts of the window, or `rate` a second from its start. Each is
    the frame on the screen at that time, so that a clip with a low frame rate repeats frames. Where the window reaches
    beyond the video, the mask is false and the frame zero. `fit` and `augment` are as in `ImageField`, with the same
    transform for every frame of a clip.

    BadSample: `missing_member`, `not_a_video`, `no_video_track`, `unknown_codec`, `too_large`, `too_long`,
    `bad_window`, `decode_truncated`, `decode_corrupt`.
    """

    frames: int = 8
    size: int = 112
    name: str = "video"
    rate: float | None = None  # frames per second; None spreads them over the window
    window: ClipWindow = field(default_factory=ClipWindow)
    augment: Augment | None = None
    fit: str = "crop"
    limits: MediaLimits = field(default_factory=MediaLimits)

    def __post_init__(self) -> None:
        if not 1 <= self.frames <= 4096:
            raise ConfigError(f"video: frames={self.frames} must lie in 1..4096")
        if self.rate is not None and not 0 < self.rate <= 1000:
            raise ConfigError(f"video: rate={self.rate} must lie above 0 and up to 1000 frames per second")
        _ = self._image_field  # ConfigError for size and fit

    @property
    def columns(self) -> dict[str, Column]:
        return {
            self.name: Column(dtype="uint8", shape=(self.frames, self.size, self.size, 3)),
            f"{self.name}_mask": Column(dtype="bool", shape=(self.frames,)),
        }

    @cached_property
    def _image_field(self) -> ImageField:
        return ImageField(size=self.size, augment=self.augment, fit=self.fit, name=self.name)

    def frame_times(self, window: TimeSpan) -> list[float]:
        """Return the times, in seconds, at which the frames of a window are taken; at most `frames`.

        >>> VideoField(frames=4).frame_times(TimeSpan(0.0, 2.0))
        [0.25, 0.75, 1.25, 1.75]
        """
        if self.rate is None:
            return [window.start + (i + 0.5) * window.seconds / self.frames for i in range(self.frames)]
        times = (window.start + i / self.rate for i in range(self.frames))
        return [time for time in times if time < window.stop - 1e-6]

    def decode(self, raw: Any, rng: np.random.Generator, out: dict[str, np.ndarray]) -> None:
        """Decode the container in `raw` (bytes, or a `ValueWithSpan` of them) into the two columns."""
        limit_opencv_threads()
        encoded, region = split_time_span(raw)
        clip = open_clip(media_bytes(encoded, self.name), self.limits, "video")
        converter = FrameConverter(clip.video_track)
        window = self.window.choose(clip.span, region, rng)
        images, mask = np.zeros_like(out[self.name]), np.zeros(self.frames, bool)
        transform: ImageTransform | None = None
        for positions, frame in frames_at(clip, self.frame_times(window)):
            self.limits.check_image_size(frame.width, frame.height)
            width, height = converter.display_size(frame)
            transform = transform or self._image_field.choose_transform(rng, width, height)
            pixels = converter.to_rgb(frame, self._min_scale(transform.crop))
            crop = rescale_crop(transform.crop, width, height, pixels)
            without_jitter = replace(transform, crop=crop, color_jitter=None)
            self._image_field.render(pixels, without_jitter, images[positions[0]])
            images[positions[1:]] = images[positions[0]]
            mask[positions] = True
        if transform is None:
            raise BadSample("bad_window", f"no frame from {window.start:.2f} to {window.stop:.2f} s")
        out[self.name][...] = _apply_color_jitter(images, mask, transform)
        out[f"{self.name}_mask"][...] = mask

    def _min_scale(self, crop: Crop) -> float:
        """Return the smallest scale of the whole frame at which the crop still fills the square."""
        width, height = self._image_field.target_size(crop)
        return max(width / crop.width, height / crop.height)


def _apply_color_jitter(
    images: UInt8[np.ndarray, "T S S 3"], mask: np.ndarray, transform: ImageTransform
) -> UInt8[np.ndarray, "T S S 3"]:
    """Apply one colour map, from the mean of all frames, to all: a map for each frame would make the clip flicker."""
    if transform.color_jitter is not None:
        stack = images[mask].reshape(-1, images.shape[2], 3)
        only_jitter = ImageTransform(crop=transform.crop, color_jitter=transform.color_jitter)
        images[mask] = apply_transform(only_jitter, stack).reshape(images[mask].shape)
    return images


def media_bytes(raw: object, kind: str) -> bytes:
    """Return the encoded bytes in `raw`; BadSample `missing_member` or `not_a_video` where there are none."""
    if raw is None:
        raise BadSample("missing_member", f"the {kind} is null")
    if not isinstance(raw, bytes | bytearray | memoryview) or len(raw) == 0:
        raise BadSample("not_a_video", f"{type(raw).__name__} without encoded bytes")
    return bytes(raw)  # the same object where it is bytes already
