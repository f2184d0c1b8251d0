"""Draw a scene as a photo: lit relief on a textured background, soft shadows, lens blur, noise, a colour cast."""

from dataclasses import dataclass

import cv2
import numpy as np

from xmodal.data.synthetic.raster import canvas_window, fill_polygons, smooth_noise, to_canvas, window_origin
from xmodal.data.synthetic.scene_graph import COLOURS, Scene, Thing
from xmodal.data.synthetic.shapes import shape_parts

Canvas = np.ndarray  # float32 [size, size, 3], RGB 0..1


@dataclass(frozen=True)
class Light:
    """Direction of the light in the image plane, and its strength."""

    x: float
    y: float
    strength: float


def draw_photo(scene: Scene, size: int) -> np.ndarray:
    """Draw a scene as a photo: uint8 RGB [size, size, 3]."""
    rng = np.random.default_rng((scene.seed, scene.index, 1))
    angle = rng.uniform(-2.6, -0.5)  # from above, left to right
    light = Light(float(np.cos(angle)), float(np.sin(angle)), float(rng.uniform(0.8, 1.2)))
    canvas = _draw_background(rng, scene.background, size)
    for thing in scene.things:
        _draw_thing(canvas, thing, light, rng)
    return _apply_camera(rng, canvas, light)


def _draw_thing(canvas: Canvas, thing: Thing, light: Light, rng: np.random.Generator) -> None:
    """Draw one thing and its shadow in place; only the window around it changes."""
    size = len(canvas)
    region = canvas_window(thing, size, margin=1.45)
    patch = canvas[region]
    mask, tone = _coverage(thing, size, region)
    radius = thing.radius * size
    patch *= 1 - 0.62 * _shadow(mask, radius, light)[..., None]
    surface = _shade(mask, tone, COLOURS[thing.colour], radius, light, rng)
    patch += mask[..., None] * (surface - patch)


def _coverage(thing: Thing, size: int, region: tuple[slice, slice]) -> tuple[np.ndarray, np.ndarray]:
    """Return the coverage of the whole thing, and the tone of its visible parts, in a window of the canvas."""
    shape = (region[0].stop - region[0].start, region[1].stop - region[1].start)
    mask = np.zeros(shape, np.float32)
    tone = np.ones(shape, np.float32)
    for part in shape_parts(thing.shape):
        cover = fill_polygons([to_canvas(c, thing, size) - window_origin(region) for c in part.contours], shape)
        tone += cover * (part.tone - tone)
        np.maximum(mask, cover, out=mask)
    return mask, tone


def _shadow(mask: np.ndarray, radius: float, light: Light) -> np.ndarray:
    distance = 0.16 * radius
    translation = np.array([[1, 0, -light.x * distance], [0, 1, -light.y * distance]], np.float32)
    shifted = cv2.warpAffine(mask, translation, mask.shape[::-1])
    blurred = cv2.GaussianBlur(shifted, (0, 0), max(0.6, 0.13 * radius))
    return 0.75 * blurred + 0.25 * cv2.GaussianBlur(mask, (0, 0), max(0.5, 0.06 * radius))


def _shade(
    mask: np.ndarray, tone: np.ndarray, colour: tuple[int, int, int], radius: float, light: Light,
    rng: np.random.Generator,
) -> Canvas:  # fmt: skip
    """Return the coloured relief under the light: a rounded rim, a gloss on the lit side, a little grain."""
    rim = cv2.GaussianBlur(mask * (0.75 + 0.25 * tone), (0, 0), max(0.7, 0.11 * radius))
    dome = cv2.GaussianBlur(mask, (0, 0), max(1.0, 0.38 * radius))
    height = radius * (0.22 * rim + 0.5 * dome)
    slope = -(_gradient(height, 1) * light.x + _gradient(height, 0) * light.y)
    facing = np.clip(slope, -1, 1.2)
    grain = rng.standard_normal(mask.shape, dtype=np.float32)
    shade = tone * (0.9 + 0.36 * light.strength * facing + 0.02 * grain)
    gloss = 0.5 * light.strength * np.clip(facing - 0.25, 0, 1) ** 2
    surface: Canvas = np.clip(np.array(colour, np.float32) / 255 * shade[..., None] + gloss[..., None], 0, 1)
    return surface


def _gradient(height: np.ndarray, axis: int) -> np.ndarray:
    gradient: np.ndarray = cv2.Sobel(height, cv2.CV_32F, axis, 1 - axis, ksize=3, scale=0.125) * 2
    return gradient


def _apply_camera(rng: np.random.Generator, canvas: Canvas, light: Light) -> np.ndarray:
    """Apply the camera: fall-off of the light, colour cast, lens blur, sensor noise."""
    size = len(canvas)
    ramp = np.linspace(-0.5, 0.5, size, dtype=np.float32)
    falloff = 1 + 0.28 * (ramp * light.x + ramp[:, None] * light.y)
    cast = rng.uniform(0.93, 1.07, 3).astype(np.float32) * np.float32(rng.uniform(0.88, 1.08))
    canvas = cv2.GaussianBlur(canvas, (0, 0), size / 96 * rng.uniform(0.35, 0.6))
    noise = rng.standard_normal(canvas.shape, dtype=np.float32) * np.float32(rng.uniform(0.008, 0.02))
    exposed = canvas * (falloff[..., None] * cast) + noise
    return (np.clip(exposed, 0, 1) * 255 + 0.5).astype(np.uint8)


def _draw_background(rng: np.random.Generator, background: str, size: int) -> Canvas:
    return np.ascontiguousarray(_BACKGROUNDS[background](rng, size), np.float32)


def _mix_colours(value: np.ndarray, low: tuple[float, float, float], high: tuple[float, float, float]) -> Canvas:
    """Mix two RGB colours (0..1) by a map: 0 is `low`, 1 is `high`."""
    a, b = np.array(low, np.float32), np.array(high, np.float32)
    mix: Canvas = a + (b - a) * np.clip(value, 0, 1)[..., None]
    return mix


def _plain(rng: np.random.Generator, size: int) -> Canvas:
    hue = rng.uniform(0.62, 0.9, 3).astype(np.float32)
    hue += 0.5 * (hue.mean() - hue)  # muted: the things carry the colour
    return hue * (1 + 0.05 * smooth_noise(rng, size, (3, 3)))[..., None]


def _wood(rng: np.random.Generator, size: int) -> Canvas:
    grain = 0.5 + 0.28 * smooth_noise(rng, size, (48, 3)) + 0.18 * smooth_noise(rng, size, (14, 2))
    planks = int(rng.integers(3, 5))
    row = np.arange(size, dtype=np.float32) * planks / size + rng.uniform()
    grain += 0.12 * rng.standard_normal(planks + 1)[row.astype(int), None].astype(np.float32)
    gap = np.minimum(row % 1, 1 - row % 1) < 0.6 * planks / size
    return (
        _mix_colours(grain, (0.50, 0.34, 0.20), (0.86, 0.68, 0.47))
        * np.where(gap, 0.55, 1).astype(np.float32)[:, None, None]
    )


def _grass(rng: np.random.Generator, size: int) -> Canvas:
    blades = 0.42 + 0.3 * smooth_noise(rng, size, (20, 64)) + 0.22 * smooth_noise(rng, size, (6, 6))
    return _mix_colours(blades, (0.16, 0.34, 0.08), (0.58, 0.74, 0.30))


def _bricks(rng: np.random.Generator, size: int) -> Canvas:
    rows = int(rng.integers(6, 9))
    v = np.arange(size, dtype=np.float32)[:, None] / size * rows + rng.uniform()
    u = np.arange(size, dtype=np.float32)[None] / size * rows / 2 + 0.5 * (v.astype(int) % 2) + rng.uniform()
    hue = rng.random((rows + 2, rows + 3), dtype=np.float32)[v.astype(int), u.astype(int)]
    wall = _mix_colours(
        0.2 + 0.6 * hue + 0.2 * smooth_noise(rng, size, (32, 32)), (0.50, 0.27, 0.21), (0.74, 0.47, 0.38)
    )
    mortar = (np.minimum(v % 1, 1 - v % 1) < 0.09) | (np.minimum(u % 1, 1 - u % 1) < 0.045)
    wall[mortar] = (0.74, 0.71, 0.66)
    return wall


def _sand(rng: np.random.Generator, size: int) -> Canvas:
    v = np.arange(size, dtype=np.float32)[:, None] / size
    bend = smooth_noise(rng, size, (4, 4))
    ripple = np.sin(2 * np.pi * (rng.uniform(5, 8) * v + 0.7 * bend))
    grain = 0.5 + 0.2 * ripple + 0.22 * rng.standard_normal((size, size), dtype=np.float32)
    return _mix_colours(grain, (0.72, 0.60, 0.43), (0.94, 0.86, 0.69))


def _water(rng: np.random.Generator, size: int) -> Canvas:
    v = np.arange(size, dtype=np.float32)[:, None] / size
    bend = smooth_noise(rng, size, (7, 4))
    swell = np.sin(2 * np.pi * (rng.uniform(6, 9) * v + 0.9 * bend)) * 0.5 + 0.5
    return _mix_colours(swell**3 * 0.8 + 0.12 * bend, (0.13, 0.42, 0.58), (0.72, 0.90, 0.95))


def _cloth(rng: np.random.Generator, size: int) -> Canvas:
    stripe = np.arange(size) * int(rng.integers(10, 15)) // size % 2
    weave = 0.5 * (stripe[:, None] + stripe[None]) + 0.08 * rng.standard_normal((size, size))
    folds = 1 + 0.07 * smooth_noise(rng, size, (4, 4))
    return _mix_colours(weave.astype(np.float32), (0.95, 0.94, 0.91), (0.62, 0.66, 0.72)) * folds[..., None]


_BACKGROUNDS = {
    "plain": _plain, "wood": _wood, "grass": _grass, "bricks": _bricks, "sand": _sand, "water": _water,
    "cloth": _cloth,
}  # fmt: skip
