"""From a scene graph to a sketch: wobbly graphite outlines and coloured-pencil hatching on paper."""

import cv2
import numpy as np

from xmodal.data.synthetic.raster import cloud, corner, fill, place, strokes, window
from xmodal.data.synthetic.scene_graph import COLOURS, Scene, Thing
from xmodal.data.synthetic.shapes import Part, parts

Paper = np.ndarray  # float32 [3, size, size], RGB 0..1; whole planes are quicker to press on
_OVERSIZE = 2  # pencil lines are thinner than a pixel of the finished picture
_GRAPHITE = (0.24, 0.24, 0.27)


def sketch(scene: Scene, size: int) -> np.ndarray:
    """uint8 RGB [size, size, 3]."""
    rng = np.random.default_rng((scene.seed, scene.index, 2))
    large = size * _OVERSIZE
    tooth = 0.72 + 0.28 * rng.random((large, large), dtype=np.float32)  # how much lead the paper takes
    blank = _paper(rng, large)
    paper = blank.copy()
    _press(paper, _motif(rng, scene.background, large) * tooth, _GRAPHITE, 0.36)
    for thing in scene.things:
        _draw(paper, blank, thing, tooth, rng)
    small = cv2.resize(np.ascontiguousarray(paper.transpose(1, 2, 0)), (size, size), interpolation=cv2.INTER_AREA)
    return (np.clip(small, 0, 1) * 255 + 0.5).astype(np.uint8)


def _paper(rng: np.random.Generator, size: int) -> Paper:
    white = np.array([0.975, 0.965, 0.935], np.float32) + rng.uniform(-0.015, 0.015, 3).astype(np.float32)
    return white[:, None, None] * (1 + 0.012 * cloud(rng, size, (24, 24)))


def _press(paper: Paper, cover: np.ndarray, colour: tuple[float, ...], strength: float) -> None:
    """Lay pencil on paper, in place: where `cover` is 1 the paper turns `strength` of the way to `colour`."""
    paper += cover * np.float32(strength) * (np.array(colour, np.float32)[:, None, None] - paper)


def _draw(paper: Paper, blank: Paper, thing: Thing, tooth: np.ndarray, rng: np.random.Generator) -> None:
    """Draw one thing, in place, touching only the window around it."""
    size = paper.shape[1]
    view = window(thing, size, margin=1.1)
    patch, blank, tooth = paper[:, *view], blank[:, *view], tooth[view]
    lead = tuple(c / 255 for c in COLOURS[thing.colour])
    edge = tuple(0.55 * g + 0.25 * c for g, c in zip(_GRAPHITE, lead, strict=True))
    heading = float(rng.uniform(0, np.pi))
    for part in parts(thing.shape):
        outline = [place(c, thing, size) - corner(view) for c in part.contours]
        inside = fill(outline, tooth.shape)
        hatching = _hatching(rng, thing, part, heading, size) - corner(view)
        lines = [_wobble(rng, c, thing.radius * size) for c in outline for _ in range(2)]
        colour = np.maximum(0.36 * tooth * tooth, 0.86 * tooth * strokes(hatching, tooth.shape, width=_width(size)))
        patch += inside * (blank - patch)  # what lies in front leaves the paper white
        _press(patch, inside * colour, lead, 1.0)
        _press(patch, strokes(lines, tooth.shape, width=_width(size), closed=True) * tooth, edge, 0.9)


def _width(size: int) -> int:
    return max(1, round(size / 110))


def _hatching(rng: np.random.Generator, thing: Thing, part: Part, heading: float, size: int) -> np.ndarray:
    """Strokes [strokes, 3, 2] over the whole thing; a darker part gets a second set across the first."""
    sets = [heading] if part.tone > 0.9 else [heading, heading + 1.2]
    pitch = (3.6 if part.tone > 0.5 else 2.8) * size / 192
    return np.concatenate([_rake(rng, thing, turn, pitch, size) for turn in sets])


def _rake(rng: np.random.Generator, thing: Thing, heading: float, pitch: float, size: int) -> np.ndarray:
    """Parallel strokes [strokes, 3, 2] across the thing's circle, each a little bent."""
    reach = thing.radius * size
    across = np.arange(-reach, reach, pitch)
    bend = rng.uniform(-0.35, 0.35, (len(across), 3)) * pitch
    along = np.array([-reach, 0.0, reach])
    v = across[:, None] + bend
    cos, sin = np.cos(heading), np.sin(heading)
    points = np.stack([along * cos - v * sin, along * sin + v * cos], axis=-1)
    return points + np.array([thing.x, thing.y]) * size


def _wobble(rng: np.random.Generator, contour: np.ndarray, radius: float) -> np.ndarray:
    """The contour as an unsteady hand follows it: smooth errors of about 3 % of the radius."""
    noise = rng.standard_normal((len(contour), 2))
    smooth = (noise + np.roll(noise, 1, axis=0) + np.roll(noise, -1, axis=0)) / 3
    return contour + smooth * 0.035 * radius + rng.normal(0, 0.012 * radius, 2)


def _motif(rng: np.random.Generator, background: str, size: int) -> np.ndarray:
    """A few graphite lines that say what the things lie on: float32 [size, size]."""
    lines = _MOTIFS[background](rng)
    return strokes([line * size for line in lines], (size, size), width=_width(size))


def _bare(rng: np.random.Generator) -> list[np.ndarray]:
    return []


def _waves(rng: np.random.Generator, rows: int, swing: float, cycles: float, gap: float) -> list[np.ndarray]:
    """Rows of wavy lines in unit coordinates, each broken at random."""
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
    for at in np.arange(9) / 8 + rng.uniform(-0.05, 0.05):
        for twin in (at, at + 0.03):
            slip = rng.normal(0, 0.006)
            lines += [
                np.array([[0.0, twin], [1.0, twin + slip]]),
                np.array([[twin, 0.0], [twin + slip, 1.0]]),
            ]
    return lines


_MOTIFS = {
    "plain": _bare, "wood": _grain, "grass": _tufts, "bricks": _courses, "sand": _specks, "water": _swell,
    "cloth": _checks,
}  # fmt: skip
