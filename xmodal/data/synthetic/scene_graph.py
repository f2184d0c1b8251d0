"""Generate scene graphs: the things of a scene, their positions, and the relations between them."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from xmodal.data.synthetic.shapes import CONTAINER_SHAPES, COVERING_SHAPES, SHAPES, SOLID_SHAPES

COLOURS = {  # sRGB 0..255, of the lit surface and of the pencil
    "red": (206, 32, 38), "orange": (243, 128, 22), "yellow": (245, 205, 30), "green": (38, 150, 62),
    "teal": (22, 160, 158), "blue": (36, 76, 200), "purple": (124, 50, 168), "pink": (246, 128, 176),
    "brown": (122, 74, 38), "black": (36, 36, 40),
}  # fmt: skip

BACKGROUNDS = {  # each with the colours that would be invisible on it
    "plain": (), "wood": ("brown", "orange"), "grass": ("green", "teal"), "bricks": ("red", "brown", "orange"),
    "sand": ("yellow",), "water": ("blue", "teal"), "cloth": (),
}  # fmt: skip

RADIUS = {"small": (0.095, 0.12), "large": (0.175, 0.21)}  # as a share of the image's side
CONTAINER_RADIUS = (0.25, 0.29)
UPRIGHT_SHAPES = ("house", "tree", "cup", "boat", "cloud", "mushroom", "fish", "heart")
INVERSE = {
    "left_of": "right_of", "right_of": "left_of", "above": "below", "below": "above", "inside": "around",
    "around": "inside", "in_front_of": "behind", "behind": "in_front_of",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Thing:
    """One object of a scene. `x`, `y` (down) and `radius` are shares of the image's side; `angle` is in radians."""

    shape: str
    colour: str
    size: str
    x: float
    y: float
    radius: float
    angle: float


@dataclass(frozen=True)
class Relation:
    """`things[subject]` is `kind` of `things[object]`; `kind` is a key of `INVERSE`."""

    subject: int
    kind: str
    object: int


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Two to four things, back to front, on a background; no two things share a colour or a shape."""

    seed: int
    index: int
    background: str
    things: tuple[Thing, ...]

    @cached_property
    def relations(self) -> tuple[Relation, ...]:
        """Every relation that is clearly true by the geometry, each with its inverse."""
        relations = []
        for back in range(len(self.things)):
            for front in range(back + 1, len(self.things)):
                kind = relation_between(self.things[back], self.things[front])
                if kind:
                    relations += [Relation(front, kind, back), Relation(back, INVERSE[kind], front)]
        return tuple(relations)


def relation_between(back: Thing, front: Thing) -> str | None:
    """Return the relation of `front`, which is drawn later, to `back`; None where a person might disagree."""
    dx, dy = front.x - back.x, front.y - back.y
    distance, reach = float(np.hypot(dx, dy)), back.radius + front.radius
    if back.shape in CONTAINER_SHAPES and distance + front.radius <= 0.62 * back.radius:
        return "inside"
    if back.shape in SOLID_SHAPES and front.shape in COVERING_SHAPES and distance <= 0.65 * reach:
        return "in_front_of"
    if distance < reach:
        return None
    if abs(dy) <= 0.6 * abs(dx):
        return "right_of" if dx > 0 else "left_of"
    if abs(dx) <= 0.6 * abs(dy):
        return "below" if dy > 0 else "above"
    return None


def make_scene(seed: int, index: int) -> Scene:
    """Return scene number `index` of the endless corpus `seed`; it depends on these two numbers alone.

    >>> make_scene(seed=0, index=0) == make_scene(seed=0, index=0)
    True
    """
    rng = np.random.default_rng((seed, index, 0))
    background = _pick(rng, tuple(BACKGROUNDS))
    colours = [c for c in COLOURS if c not in BACKGROUNDS[background]]
    things = _pair(rng, [colours[i] for i in rng.permutation(len(colours))])
    unused = [c for c in colours if c not in {t.colour for t in things}]
    for colour in [unused[i] for i in rng.permutation(len(unused))[: int(rng.integers(0, 3))]]:
        things += _extra_thing(rng, things, colour)
    return Scene(seed=seed, index=index, background=background, things=tuple(things))


def _pick(rng: np.random.Generator, names: tuple[str, ...], *, exclude: tuple[str, ...] = ()) -> str:
    allowed = [n for n in names if n not in exclude]
    return allowed[int(rng.integers(len(allowed)))]


def _pair(rng: np.random.Generator, colours: list[str]) -> list[Thing]:
    """Return the first two things, in positions where one relation surely holds between them."""
    layout = rng.choice(("side", "stack", "inside", "front"), p=(0.34, 0.28, 0.18, 0.2))
    if layout == "inside":
        return _nested(rng, colours)
    first = _pick(rng, SOLID_SHAPES if layout == "front" else SHAPES)
    second = _pick(rng, COVERING_SHAPES if layout == "front" else SHAPES, exclude=(first,))
    sizes = [_pick(rng, ("small", "large")) for _ in range(2)]
    if layout == "front" and sizes[1] == "large":  # a large thing would hide a small one
        sizes[0] = "large"
    radii = [float(rng.uniform(*RADIUS[s])) for s in sizes]
    centres = _centres(rng, radii, str(layout))
    return [
        _thing(rng, shape, colour, size, xy, radius)
        for shape, colour, size, xy, radius in zip((first, second), colours, sizes, centres, radii, strict=False)
    ]


def _centres(rng: np.random.Generator, radii: list[float], layout: str) -> list[np.ndarray]:
    """Return two centres side by side, one above the other, or overlapping, somewhere inside the image."""
    reach = sum(radii)
    if layout == "front":
        angle = rng.uniform(0, 2 * np.pi)
        step = reach * rng.uniform(0.47, 0.6) * np.array([np.cos(angle), np.sin(angle)])
    else:
        along = reach + rng.uniform(0.03, max(0.04, min(0.2, 0.9 - 2 * reach)))
        across = along * rng.uniform(-0.45, 0.45)
        step = np.array([along, across] if layout == "side" else [across, along])
        step = step * rng.choice((-1.0, 1.0))
    radius = np.array(radii)[:, None]
    ends = np.stack([np.zeros(2), step])
    low, high = (ends - radius).min(axis=0), (ends + radius).max(axis=0)
    room = np.maximum(0.96 - (high - low), 0.0)
    origin = 0.5 - (low + high) / 2 + room * rng.uniform(-0.5, 0.5, 2)
    return list(ends + origin)


def _nested(rng: np.random.Generator, colours: list[str]) -> list[Thing]:
    outer = _pick(rng, CONTAINER_SHAPES)
    radius = float(rng.uniform(*CONTAINER_RADIUS))
    centre = rng.uniform(radius + 0.02, 0.98 - radius, 2)
    small = 0.4 * radius
    inner = _thing(
        rng,
        _pick(rng, SHAPES, exclude=(outer,)),
        colours[1],
        "small",
        centre + rng.uniform(-0.02, 0.02, 2),
        small,
    )
    return [_thing(rng, outer, colours[0], "large", centre, radius), inner]


def _extra_thing(rng: np.random.Generator, things: list[Thing], colour: str) -> list[Thing]:
    """Return one more thing that does not touch the others; an empty list where there is no space."""
    shape = _pick(rng, SHAPES, exclude=tuple(t.shape for t in things))
    for size in (_pick(rng, ("small", "large")), "small"):
        radius = float(rng.uniform(*RADIUS[size]))
        for xy in rng.uniform(radius + 0.02, 0.98 - radius, (12, 2)):
            if all(np.hypot(*(xy - (t.x, t.y))) > t.radius + radius + 0.02 for t in things):
                return [_thing(rng, shape, colour, size, xy, radius)]
    return []


def _thing(rng: np.random.Generator, shape: str, colour: str, size: str, xy: np.ndarray, radius: float) -> Thing:
    tilt = 0.15 if shape in UPRIGHT_SHAPES else 0.35
    angle = float(rng.uniform(-tilt, tilt))
    if shape == "arrow":
        angle += float(rng.integers(4)) * np.pi / 2
    return Thing(shape=shape, colour=colour, size=size, x=float(xy[0]), y=float(xy[1]), radius=radius, angle=angle)
