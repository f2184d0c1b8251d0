"""Draw a scene as a sketch: wobbly graphite outlines and coloured-pencil hatching on paper."""

import cv2
import numpy as np

from xmodal.data.synthetic.raster import (
    canvas_window,
    draw_strokes,
    fill_polygons,
    smooth_noise,
    to_canvas,
    window_origin,
)
from xmodal.data.synthetic.scene_graph import COLOURS, Scene, Thing
from xmodal.data.synthetic.shapes import ShapePart, shape_parts

Paper = np.ndarray  # float32 [3, size, size], RGB 0..1; planes first, because that is faster
_OVERSIZE = 2  # pencil lines are thinner than a pixel of the final image
_GRAPHITE = (0.24, 0.24, 0.27)


def draw_sketch(scene: Scene, size: int) -> np.ndarray:
    """Draw a scene as a sketch: uint8 RGB [size, size, 3]."""
    rng = np.random.default_rng((scene.seed, scene.index, 2))
    large = size * _OVERSIZE
    grain = 0.72 + 0.28 * rng.random((large, large), dtype=np.float32)  # how much graphite the paper's grain takes
    blank = _paper(rng, large)
    paper = blank.copy()
    _apply_pencil(paper, _background_lines(rng, scene.background, large) * grain, _GRAPHITE, 0.36)
    for thing in scene.things:
        _draw_thing(paper, blank, thing, grain, rng)
    small = cv2.resize(np.ascontiguousarray(paper.transpose(1, 2, 0)), (size, size), interpolation=cv2.INTER_AREA)
    return (np.clip(small, 0, 1) * 255 + 0.5).astype(np.uint8)


def _paper(rng: np.random.Generator, size: int) -> Paper:
    white = np.array([0.975, 0.965, 0.935], np.float32) + rng.uniform(-0.015, 0.015, 3).astype(np.float32)
    return white[:, None, None] * (1 + 0.012 * smooth_noise(rng, size, (24, 24)))


def _apply_pencil(paper: Paper, cover: np.ndarray, colour: tuple[float, ...], strength: float) -> None:
    """Draw with pencil in place: where `cover` is 1, the paper moves by `strength` towards `colour`."""
    paper += cover * np.float32(strength) * (np.array(colour, np.float32)[:, None, None] - paper)


def _draw_thing(paper: Paper, blank: Paper, thing: Thing, grain: np.ndarray, rng: np.random.Generator) -> None:
    """Draw one thing in place; only the window around it changes."""
    size = paper.shape[1]
    region = canvas_window(thing, size, margin=1.1)
    patch, blank, grain = paper[:, *region], blank[:, *region], grain[region]
    pencil = tuple(c / 255 for c in COLOURS[thing.colour])
    edge = tuple(0.55 * g + 0.25 * c for g, c in zip(_GRAPHITE, pencil, strict=True))
    direction = float(rng.uniform(0, np.pi))
    for part in shape_parts(thing.shape):
        outline = [to_canvas(c, thing, size) - window_origin(region) for c in part.contours]
        inside = fill_polygons(outline, grain.shape)
        hatching = _hatching(rng, thing, part, direction, size) - window_origin(region)
        lines = [_wobble(rng, c, thing.radius * size) for c in outline for _ in range(2)]
        colour = np.maximum(
            0.36 * grain * grain, 0.86 * grain * draw_strokes(hatching, grain.shape, width=_line_width(size))
        )
        patch += inside * (blank - patch)  # erase everything behind the part
        _apply_pencil(patch, inside * colour, pencil, 1.0)
        _apply_pencil(patch, draw_strokes(lines, grain.shape, width=_line_width(size), closed=True) * grain, edge, 0.9)


def _line_width(size: int) -> int:
    return max(1, round(size / 110))


def _hatching(rng: np.random.Generator, thing: Thing, part: ShapePart, direction: float, size: int) -> np.ndarray:
    """Return strokes [strokes, 3, 2] over the whole thing; a darker part gets a second set across the first."""
    directions = [direction] if part.tone > 0.9 else [direction, direction + 1.2]
    pitch = (3.6 if part.tone > 0.5 else 2.8) * size / 192
    return np.concatenate([_parallel_strokes(rng, thing, angle, pitch, size) for angle in directions])


def _parallel_strokes(
    rng: np.random.Generator, thing: Thing, direction: float, spacing: float, size: int
) -> np.ndarray:
    """Return parallel strokes [strokes, 3, 2] across the thing's circle, each slightly bent."""
    radius = thing.radius * size
    across = np.arange(-radius, radius, spacing)
    bend = rng.uniform(-0.35, 0.35, (len(across), 3)) * spacing
    along = np.array([-radius, 0.0, radius])
    v = across[:, None] + bend
    cos, sin = np.cos(direction), np.sin(direction)
    points = np.stack([along * cos - v * sin, along * sin + v * cos], axis=-1)
    strokes: np.ndarray = points + np.array([thing.x, thing.y]) * size
    return strokes


def _wobble(rng: np.random.Generator, contour: np.ndarray, radius: float) -> np.ndarray:
    """Return the contour with smooth random errors of about 3 % of the radius, as if drawn by hand."""
    noise = rng.standard_normal((len(contour), 2))
    smooth = (noise + np.roll(noise, 1, axis=0) + np.roll(noise, -1, axis=0)) / 3
    wobbly: np.ndarray = contour + smooth * 0.035 * radius + rng.normal(0, 0.012 * radius, 2)
    return wobbly


def _background_lines(rng: np.random.Generator, background: str, size: int) -> np.ndarray:
    """Return the coverage of a few graphite lines that indicate the background: float32 [size, size]."""
    lines = _BACKGROUND_LINES[background](rng)
    return draw_strokes([line * size for line in lines], (size, size), width=_line_width(size))


def _bare(rng: np.random.Generator) -> list[np.ndarray]:
    return []


def _waves(rng: np.random.Generator, rows: int, swing: float, cycles: float, gap: float) -> list[np.ndarray]:
    """Return rows of wavy lines in unit coordinates, each interrupted with probability `gap`."""
    lines = []
    for row in range(rows):
        begin, end = np.sort(rng.uniform(-0.1, 1.1, 2)) if rng.random() < gap else (0.0, 1.0)
        x = np.linspace(begin, end, 24)
        phase, depth = rng.uniform(0, 2 * np.pi), swing * rng.uniform(0.6, 1.4)
        y = (row + rng.uniform(0.2, 0.8)) / rows + depth * np.sin(2 * np.pi * cycles * x + phase)
        lines.append(np.stack([x, y], axis=1))
    return lines


def _grain(rng: np.random.Generator) -> list[np.ndarray]:
    planks = [np.array([[0.0, y], [1.0, y + rng.uniform(-0.01, 0.01)]]) for y in (0.2, 0.45, 0.7, 0.95)]
    return planks + planks + _waves(rng, 14, 0.012, 1.0, 0.75)


def _swell(rng: np.random.Generator) -> list[np.ndarray]:
    return _waves(rng, 9, 0.018, 5.0, 0.7)


def _tufts(rng: np.random.Generator) -> list[np.ndarray]:
    roots = rng.uniform(0, 1, (34, 1, 2))
    lean = rng.uniform(-0.02, 0.02, (34, 1))
    blades = np.array([[-0.022, -0.05], [0.0, 0.0], [0.002, -0.07], [0.0, 0.0], [0.026, -0.045]])
    tufts = roots + blades
    tufts[..., 0] += lean * (blades[:, 1] / -0.05)
    return list(tufts)


def _courses(rng: np.random.Generator) -> list[np.ndarray]:
    height = 1 / 6
    lines = []
    for row, top in enumerate(np.arange(-height, 1, height) + rng.uniform(0, height)):
        lines.append(np.array([[0.0, top], [1.0, top + rng.normal(0, 0.004)]]))
        joints = (np.arange(5) + 0.5 * (row % 2)) / 4 + rng.normal(0, 0.006, 5)
        lines += [np.array([[x, top], [x + rng.normal(0, 0.004), top + height]]) for x in joints]
    return lines


def _specks(rng: np.random.Generator) -> list[np.ndarray]:
    spots = rng.uniform(0, 1, (150, 1, 2))
    return [*(spots + np.array([[0.0, 0.0], [0.006, 0.003]])), *_waves(rng, 4, 0.02, 1.5, 1.0)]


def _checks(rng: np.random.Generator) -> list[np.ndarray]:
    lines = []
    for position in np.arange(9) / 8 + rng.uniform(-0.05, 0.05):
        for line in (position, position + 0.03):
            slope = rng.normal(0, 0.006)
            lines += [
                np.array([[0.0, line], [1.0, line + slope]]),
                np.array([[line, 0.0], [line + slope, 1.0]]),
            ]
    return lines


_BACKGROUND_LINES = {
    "plain": _bare, "wood": _grain, "grass": _tufts, "bricks": _courses, "sand": _specks, "water": _swell,
    "cloth": _checks,
}  # fmt: skip
