"""One decoded video frame in; upright RGB pixels with square pixels out, no larger than they need be."""

import math
from dataclasses import dataclass
from typing import Any

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from jaxtyping import UInt8

_WIDEST = 4.0  # a pixel's width / height beyond which the header is not believed


@dataclass(frozen=True)
class Turn:
    """How a stored picture becomes upright: exchange rows and columns, then mirror."""

    transposed: bool = False
    mirrored: bool = False  # left and right
    flipped: bool = False  # up and down

    def apply(self, pixels: np.ndarray) -> np.ndarray:
        """The upright picture of stored pixels [H, W, 3]; a view."""
        pixels = pixels.transpose(1, 0, 2) if self.transposed else pixels
        pixels = pixels[:, ::-1] if self.mirrored else pixels
        return pixels[::-1] if self.flipped else pixels


class Upright:
    """Turns frames of one clip into pixels; holds what swscale builds, so one object per clip."""

    def __init__(self, track: Any) -> None:
        aspect = track.codec_context.sample_aspect_ratio or track.sample_aspect_ratio
        wide = float(aspect) if aspect else 1.0
        self._pixel_width = wide if 1 / _WIDEST <= wide <= _WIDEST else 1.0
        self._scaler = VideoReformatter()

    def size(self, frame: av.VideoFrame) -> tuple[int, int]:
        """Width and height of the frame as it is shown."""
        width, height = self._square(frame)
        return (height, width) if turn_of(frame).transposed else (width, height)

    def pixels(self, frame: av.VideoFrame, share: float) -> UInt8[np.ndarray, "H W 3"]:
        """The frame as it is shown, scaled to `share` of its size where that is less than a half.

        swscale's area average goes straight to the small picture; less shrinking is left to the exact resize.
        """
        width, height = self._square(frame)
        if share < 0.5:
            width, height = math.ceil(width * share), math.ceil(height * share)
        # one thread: swscale would start one per core, and the workers already fill the cores
        small = self._scaler.reformat(
            frame, width=width, height=height, format="rgb24", interpolation="AREA", threads=1
        )
        return np.ascontiguousarray(turn_of(frame).apply(small.to_ndarray()))

    def _square(self, frame: av.VideoFrame) -> tuple[int, int]:
        """Stored width and height once pixels are as wide as they are high; never fewer pixels than stored."""
        wide = self._pixel_width
        return (round(frame.width * wide), frame.height) if wide >= 1 else (frame.width, round(frame.height / wide))


def turn_of(frame: av.VideoFrame) -> Turn:
    """The frame's display matrix to the nearest right angle; upright where it has none.

    The matrix a b u c d v x y w (rows of three) sends a stored pixel (x, y) to (a x + c y, b x + d y), y down.
    """
    sides: Any = frame.side_data
    matrix = sides.get("DISPLAYMATRIX")
    if matrix is None:
        return Turn()
    a, b, _, c, d = np.frombuffer(bytes(matrix), np.int32)[:5].tolist()
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return Turn(mirrored=a < 0, flipped=d < 0)
    return Turn(transposed=True, mirrored=c < 0, flipped=b < 0)
