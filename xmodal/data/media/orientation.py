"""Convert decoded video frames to upright RGB with square pixels, at a reduced size where few pixels are needed."""

import math
from dataclasses import dataclass
from typing import Any

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from jaxtyping import UInt8

_MAX_PIXEL_ASPECT = 4.0  # width / height of a pixel; a header with more is ignored


@dataclass(frozen=True)
class Orientation:
    """How a stored frame becomes upright: exchange rows and columns, then flip."""

    transpose: bool = False
    hflip: bool = False  # exchange left and right
    vflip: bool = False  # exchange top and bottom

    def apply(self, pixels: np.ndarray) -> np.ndarray:
        """Return stored pixels [H, W, 3] upright, as a view."""
        pixels = pixels.transpose(1, 0, 2) if self.transpose else pixels
        pixels = pixels[:, ::-1] if self.hflip else pixels
        return pixels[::-1] if self.vflip else pixels


class FrameConverter:
    """Converts the frames of one clip to pixels; it caches swscale's tables, so use one object per clip."""

    def __init__(self, track: Any) -> None:
        aspect = track.codec_context.sample_aspect_ratio or track.sample_aspect_ratio
        width = float(aspect) if aspect else 1.0
        self._pixel_width = width if 1 / _MAX_PIXEL_ASPECT <= width <= _MAX_PIXEL_ASPECT else 1.0
        self._scaler = VideoReformatter()

    def display_size(self, frame: av.VideoFrame) -> tuple[int, int]:
        """Return the width and height of the frame as it is displayed."""
        width, height = self._square_pixel_size(frame)
        return (height, width) if frame_orientation(frame).transpose else (width, height)

    def to_rgb(self, frame: av.VideoFrame, share: float) -> UInt8[np.ndarray, "H W 3"]:
        """Return the frame as it is displayed, scaled to `share` of its size where that is less than a half.

        swscale averages areas while it converts; a reduction by less is left to the more exact resize afterwards.
        """
        width, height = self._square_pixel_size(frame)
        if share < 0.5:
            width, height = math.ceil(width * share), math.ceil(height * share)
        # one thread: swscale would start one per core, and the workers already use every core
        small = self._scaler.reformat(
            frame, width=width, height=height, format="rgb24", interpolation="AREA", threads=1
        )
        return np.ascontiguousarray(frame_orientation(frame).apply(small.to_ndarray()))

    def _square_pixel_size(self, frame: av.VideoFrame) -> tuple[int, int]:
        """Return the stored width and height in square pixels; neither is reduced."""
        aspect = self._pixel_width
        if aspect >= 1:
            return round(frame.width * aspect), frame.height
        return frame.width, round(frame.height / aspect)


def frame_orientation(frame: av.VideoFrame) -> Orientation:
    """Return the orientation by the frame's display matrix, to the nearest right angle; upright where it has none.

    The matrix a b u c d v x y w (rows of three) moves a stored pixel (x, y) to (a x + c y, b x + d y), y down.
    """
    sides: Any = frame.side_data
    matrix = sides.get("DISPLAYMATRIX")
    if matrix is None:
        return Orientation()
    a, b, _, c, d = np.frombuffer(bytes(matrix), np.int32)[:5].tolist()
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return Orientation(hflip=a < 0, vflip=d < 0)
    return Orientation(transpose=True, hflip=c < 0, vflip=b < 0)
