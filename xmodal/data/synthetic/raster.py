"""From polygons and pencils to coverage: float32 masks in 0..1 on a square canvas."""

from collections.abc import Sequence

import cv2
import numpy as np

from xmodal.data.synthetic.scene_graph import Thing

_SHIFT = 4  # OpenCV draws with 4 fractional bits per coordinate
_UNIT = 1 << _SHIFT


def place(contour: np.ndarray, thing: Thing, size: int) -> np.ndarray:
    """A contour of the unit circle -> pixels of a canvas `size` wide, turned and moved as `thing` is."""
    cos, sin = np.cos(thing.angle), np.sin(thing.angle)
    turned = contour @ np.array([[cos, sin], [-sin, cos]])
    return (turned * thing.radius + (thing.x, thing.y)) * size - 0.5


def window(thing: Thing, size: int, *, margin: float) -> tuple[slice, slice]:
    """Rows and columns of the canvas within `margin` radii of the thing's centre."""
    reach = margin * thing.radius * size + 4
    low = [max(0, int(c * size - reach)) for c in (thing.y, thing.x)]
    high = [min(size, int(c * size + reach) + 1) for c in (thing.y, thing.x)]
    return slice(low[0], high[0]), slice(low[1], high[1])


def corner(rows_columns: tuple[slice, slice]) -> np.ndarray:
    """(x, y) of a window's first pixel: what to take from canvas coordinates to draw inside it."""
    rows, columns = rows_columns
    return np.array([columns.start, rows.start])


def fill(contours: Sequence[np.ndarray], shape: tuple[int, int]) -> np.ndarray:
    """Coverage of the even-odd inside of pixel contours: float32 [rows, columns]."""
    canvas = np.zeros(shape, np.uint8)
    cv2.fillPoly(canvas, [_fixed(c) for c in contours], 255, cv2.LINE_AA, _SHIFT)
    return canvas.astype(np.float32) / 255


def strokes(
    lines: Sequence[np.ndarray] | np.ndarray, shape: tuple[int, int], *, width: int, closed: bool = False
) -> np.ndarray:
    """Coverage of pencil lines given as pixel polylines: float32 [rows, columns]."""
    canvas = np.zeros(shape, np.uint8)
    fixed = _fixed(lines) if isinstance(lines, np.ndarray) else [_fixed(line) for line in lines]
    cv2.polylines(canvas, list(fixed), closed, 255, width, cv2.LINE_AA, _SHIFT)
    return canvas.astype(np.float32) / 255


def cloud(rng: np.random.Generator, size: int, cells: tuple[int, int]) -> np.ndarray:
    """Smooth noise of `cells` (rows, columns) knots: float32 [size, size] in about -1..1."""
    knots = rng.random(cells, dtype=np.float32) * 2 - 1
    return cv2.resize(knots, (size, size), interpolation=cv2.INTER_CUBIC)


def _fixed(points: np.ndarray) -> np.ndarray:
    return np.round(points * _UNIT).astype(np.int32)
