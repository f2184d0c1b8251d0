"""Draw polygons and pencil lines as coverage masks: float32 in 0..1 on a square canvas."""

from collections.abc import Sequence

import cv2
import numpy as np

from xmodal.data.synthetic.scene_graph import Thing

_SHIFT = 4  # OpenCV draws with 4 fractional bits per coordinate
_UNIT = 1 << _SHIFT


def to_canvas(contour: np.ndarray, thing: Thing, size: int) -> np.ndarray:
    """Convert a contour in the unit circle to pixels of a canvas `size` wide, at the thing's angle and position."""
    cos, sin = np.cos(thing.angle), np.sin(thing.angle)
    rotated = contour @ np.array([[cos, sin], [-sin, cos]])
    pixels: np.ndarray = (rotated * thing.radius + (thing.x, thing.y)) * size - 0.5
    return pixels


def canvas_window(thing: Thing, size: int, *, margin: float) -> tuple[slice, slice]:
    """Return the rows and columns of the canvas within `margin` radii of the thing's centre."""
    reach = margin * thing.radius * size + 4
    low = [max(0, int(c * size - reach)) for c in (thing.y, thing.x)]
    high = [min(size, int(c * size + reach) + 1) for c in (thing.y, thing.x)]
    return slice(low[0], high[0]), slice(low[1], high[1])


def window_origin(rows_columns: tuple[slice, slice]) -> np.ndarray:
    """Return (x, y) of a window's first pixel, to be subtracted from canvas coordinates to draw inside the window."""
    rows, columns = rows_columns
    return np.array([columns.start, rows.start])


def fill_polygons(contours: Sequence[np.ndarray], shape: tuple[int, int]) -> np.ndarray:
    """Return the coverage of the even-odd inside of pixel contours: float32 [rows, columns]."""
    canvas = np.zeros(shape, np.uint8)
    cv2.fillPoly(canvas, [_to_fixed_point(c) for c in contours], 255, cv2.LINE_AA, _SHIFT)
    return canvas.astype(np.float32) / 255


def draw_strokes(
    lines: Sequence[np.ndarray] | np.ndarray, shape: tuple[int, int], *, width: int, closed: bool = False
) -> np.ndarray:
    """Return the coverage of pencil lines given as pixel polylines: float32 [rows, columns]."""
    canvas = np.zeros(shape, np.uint8)
    points = _to_fixed_point(lines) if isinstance(lines, np.ndarray) else [_to_fixed_point(line) for line in lines]
    cv2.polylines(canvas, list(points), closed, 255, width, cv2.LINE_AA, _SHIFT)
    return canvas.astype(np.float32) / 255


def smooth_noise(rng: np.random.Generator, size: int, cells: tuple[int, int]) -> np.ndarray:
    """Return smooth noise with `cells` (rows, columns) knots: float32 [size, size] in about -1..1."""
    knots = rng.random(cells, dtype=np.float32) * 2 - 1
    return cv2.resize(knots, (size, size), interpolation=cv2.INTER_CUBIC)


def _to_fixed_point(points: np.ndarray) -> np.ndarray:
    return np.round(points * _UNIT).astype(np.int32)
