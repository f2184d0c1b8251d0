"""The outlines of shapes: polygons inside the unit circle, x to the right, y down."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np

Polygon = np.ndarray  # float64 [points, 2]


@dataclass(frozen=True)
class ShapePart:
    """One region of a shape: its contours (even-odd, so a second contour is a hole) and its tone.

    `tone` scales the brightness of the shape's colour: 1 is the colour itself, below 1 a darker part.
    """

    contours: tuple[Polygon, ...]
    tone: float = 1.0


@cache
def shape_parts(shape: str) -> tuple[ShapePart, ...]:
    """Return the regions of `shape`, back to front; edges are at most 0.2 long, so that pencil lines can wobble."""
    return tuple(ShapePart(tuple(_subdivide(c) for c in part.contours), part.tone) for part in _SHAPES[shape]())


def _subdivide(contour: Polygon, longest: float = 0.2) -> Polygon:
    ends = np.roll(contour, -1, axis=0)
    steps = np.maximum(1, np.ceil(np.linalg.norm(ends - contour, axis=1) / longest)).astype(int)
    pieces = [a + (b - a) * np.arange(n)[:, None] / n for a, b, n in zip(contour, ends, steps, strict=True)]
    return np.concatenate(pieces)


def _points(*xy: tuple[float, float]) -> Polygon:
    return np.array(xy, dtype=np.float64)


def _polar(radii: np.ndarray, *, start: float = -np.pi / 2) -> Polygon:
    angle = start + np.arange(len(radii)) * 2 * np.pi / len(radii)
    polygon: Polygon = np.stack([np.cos(angle), np.sin(angle)], axis=1) * radii[:, None]
    return polygon


def _disc(radius: float, x: float = 0.0, y: float = 0.0, stretch: float = 1.0, corners: int = 36) -> Polygon:
    return _polar(np.full(corners, radius)) * (1.0, stretch) + (x, y)


def _translate(contour: Polygon, x: float, y: float) -> Polygon:
    translated: Polygon = contour + np.array([x, y])
    return translated


def _regular(corners: int) -> Polygon:
    return _polar(np.ones(corners))


def _box(left: float, top: float, right: float, bottom: float) -> Polygon:
    return _points((left, top), (right, top), (right, bottom), (left, bottom))


def _circle() -> list[ShapePart]:
    return [ShapePart((_disc(0.95),))]


def _square() -> list[ShapePart]:
    return [ShapePart((_box(-0.72, -0.72, 0.72, 0.72),))]


def _triangle() -> list[ShapePart]:
    return [ShapePart((_translate(_regular(3), 0.0, 0.12),))]


def _hexagon() -> list[ShapePart]:
    return [ShapePart((_regular(6),))]


def _star() -> list[ShapePart]:
    return [ShapePart((_polar(np.tile([1.0, 0.42], 5)),))]


def _heart() -> list[ShapePart]:
    t = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    x = 16 * np.sin(t) ** 3
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return [ShapePart((np.stack([x / 17, (-y - 2.5) / 17], axis=1),))]


def _ring() -> list[ShapePart]:
    return [ShapePart((_disc(0.98), _disc(0.66)))]


def _crescent() -> list[ShapePart]:
    outer = np.linspace(0.22 * np.pi, 1.78 * np.pi, 30)
    inner = np.linspace(1.70 * np.pi, 0.30 * np.pi, 24)
    tip = np.array([np.cos(outer[0]), np.sin(outer[0])])
    far = np.stack([np.cos(outer), np.sin(outer)], axis=1)
    near = np.stack([np.cos(inner), np.sin(inner)], axis=1)
    near = near * (tip[1] / near[-1, 1]) * 0.92 + (tip[0] - near[-1, 0] * tip[1] / near[-1, 1] * 0.92, 0)
    return [ShapePart((np.concatenate([far, near]) * 0.97 + (0.12, 0),))]


def _cross() -> list[ShapePart]:
    a, b = 0.3, 0.92
    quarter = [(-a, -b), (a, -b), (a, -a), (b, -a), (b, a), (a, a), (a, b), (-a, b), (-a, a), (-b, a)]
    return [ShapePart((_points(*quarter, (-b, -a), (-a, -a)),))]


def _arrow() -> list[ShapePart]:
    shaft = [(-0.95, -0.24), (0.1, -0.24), (0.1, -0.66), (0.97, 0.0)]
    return [ShapePart((_points(*shaft, (0.1, 0.66), (0.1, 0.24), (-0.95, 0.24)),))]


def _house() -> list[ShapePart]:
    roof = _points((0.0, -0.95), (0.88, -0.12), (-0.88, -0.12))
    windows = _box(-0.44, 0.1, -0.14, 0.4)
    door = _box(0.1, 0.2, 0.44, 0.76)
    return [
        ShapePart((_box(-0.64, -0.14, 0.64, 0.76),)),
        ShapePart((roof,), 0.66),
        ShapePart((windows,), 0.45),
        ShapePart((door,), 0.45),
    ]


def _tree() -> list[ShapePart]:
    trunk = _points((-0.13, 0.4), (0.13, 0.4), (0.17, 0.97), (-0.17, 0.97))
    bumps = 0.6 + 0.07 * np.abs(np.sin(np.arange(40) * np.pi * 7 / 40))
    return [ShapePart((trunk,), 0.5), ShapePart((_translate(_polar(bumps), 0.0, -0.28),))]


def _fish() -> list[ShapePart]:
    t = np.linspace(0, np.pi, 16)
    body = np.stack([0.62 * np.cos(t), 0.44 * np.sin(t)], axis=1)
    body = np.concatenate([body, body[::-1][1:-1] * (1, -1)]) - (0.26, 0)
    tail = _points((0.2, 0.0), (0.85, -0.48), (0.72, 0.0), (0.85, 0.48))
    return [ShapePart((tail,), 0.72), ShapePart((body,)), ShapePart((_disc(0.085, -0.58, -0.1, corners=10),), 0.25)]


def _cup() -> list[ShapePart]:
    body = _points((-0.72, -0.62), (0.4, -0.62), (0.3, 0.66), (-0.62, 0.66))
    handle = _disc(0.4, 0.46, -0.02), _disc(0.23, 0.46, -0.02)
    rim = _disc(0.56, -0.16, -0.62, 0.25)
    return [ShapePart(handle, 0.85), ShapePart((body,)), ShapePart((rim,), 0.6)]


def _flower() -> list[ShapePart]:
    petals = 0.5 + 0.46 * np.abs(np.cos(np.arange(60) * np.pi * 5 / 60)) ** 0.7
    return [ShapePart((_polar(petals),)), ShapePart((_disc(0.26, corners=16),), 0.5)]


def _boat() -> list[ShapePart]:
    hull = _points((-0.9, 0.28), (0.9, 0.28), (0.58, 0.76), (-0.6, 0.76))
    main = _points((-0.02, -0.92), (-0.02, 0.18), (-0.72, 0.18))
    jib = _points((0.08, -0.7), (0.66, 0.18), (0.08, 0.18))
    return [ShapePart((hull,), 0.62), ShapePart((main,)), ShapePart((jib,))]


def _cloud() -> list[ShapePart]:
    puffs = [
        (-0.52, 0.16, 0.36),
        (-0.14, -0.16, 0.46),
        (0.36, -0.02, 0.4),
        (0.6, 0.24, 0.3),
        (0.0, 0.26, 0.32),
    ]
    angle = np.arange(72) * 2 * np.pi / 72
    ray = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return [ShapePart((ray * _reach(ray, puffs)[:, None] + (0.0, 0.05),))]


def _reach(ray: np.ndarray, discs: list[tuple[float, float, float]]) -> np.ndarray:
    """Return how far each unit ray from the origin reaches inside the union of discs, to the farthest crossing."""
    reach = np.zeros(len(ray))
    for x, y, radius in discs:
        along = ray @ (x, y)
        inside = radius**2 - (x * x + y * y - along**2)
        reach = np.maximum(reach, np.where(inside > 0, along + np.sqrt(np.maximum(inside, 0)), 0))
    return reach


def _mushroom() -> list[ShapePart]:
    t = np.linspace(np.pi, 2 * np.pi, 24)
    cap = _translate(np.stack([0.9 * np.cos(t), 0.92 * np.sin(t)], axis=1), 0.0, 0.08)
    stem = _points((-0.26, 0.05), (0.26, 0.05), (0.34, 0.82), (-0.34, 0.82))
    return [
        ShapePart((stem,), 0.6),
        ShapePart((cap,)),
        ShapePart((_disc(0.16, -0.3, -0.28, corners=14),), 0.6),
        ShapePart((_disc(0.12, 0.32, -0.38, corners=14),), 0.6),
    ]


_SHAPES: dict[str, Callable[[], list[ShapePart]]] = {
    "circle": _circle, "square": _square, "triangle": _triangle, "star": _star, "heart": _heart,
    "ring": _ring, "crescent": _crescent, "cross": _cross, "hexagon": _hexagon, "arrow": _arrow,
    "house": _house, "tree": _tree, "fish": _fish, "cup": _cup, "flower": _flower, "boat": _boat,
    "cloud": _cloud, "mushroom": _mushroom,
}  # fmt: skip

SHAPES = tuple(_SHAPES)
CONTAINER_SHAPES = ("circle", "square", "ring", "hexagon")  # with space for a small thing at the centre
SOLID_SHAPES = ("circle", "square", "hexagon")  # that fill most of their circle, so that a thing over them overlaps
COVERING_SHAPES = (*SOLID_SHAPES, "heart", "flower")  # that surely hide a part of a solid shape
