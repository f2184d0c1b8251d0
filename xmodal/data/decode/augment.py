"""Random image augmentation as numbers: an image's size and a generator in, crop, flip, warp and tint out.

Everything is drawn from the size alone, so that a decoder knows the crop before it decodes.
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float32

from xmodal.errors import ConfigError

Colour = Float32[np.ndarray, "3 4"]  # out_rgb = Colour @ (r, g, b, 1), in units of 0..255

_LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601
_YIQ = np.array([_LUMA, [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
_RGB = np.linalg.inv(_YIQ)


@dataclass(frozen=True, slots=True)
class Crop:
    """A box of whole pixels in an upright image."""

    x: int
    y: int
    width: int
    height: int


@dataclass(frozen=True, kw_only=True)
class View:
    """How one picture is seen: crop, resize to the square, then mirror, move, tint; each only where asked for."""

    crop: Crop
    mirror: bool = False
    angle: float = 0.0  # degrees, counter-clockwise
    shift: tuple[float, float] = (0.0, 0.0)  # right, down; shares of the side
    tint: "Tint | None" = None

    @property
    def plain(self) -> bool:
        """Whether crop and resize are all."""
        return not (self.mirror or self.angle or any(self.shift) or self.tint)


@dataclass(frozen=True, kw_only=True)
class Tint:
    """Factors of one colour jitter; 1, 1, 1, 0 changes nothing."""

    brightness: float = 1.0
    contrast: float = 1.0
    saturation: float = 1.0
    hue: float = 0.0  # turns of the colour circle

    def matrix(self, mean_rgb: np.ndarray) -> Colour:
        """The jitter of an image with this mean colour as one affine map (brightness, contrast, saturation, hue).

        Each step of the usual jitter is affine in RGB; composed, they cost one pass and clip once, at the end.
        """
        grey = np.outer(np.ones(3), _LUMA)
        saturation = self.saturation * np.eye(3) + (1 - self.saturation) * grey
        linear = self._hue() @ saturation * self.contrast * self.brightness
        offset = (1 - self.contrast) * self.brightness * float(_LUMA @ mean_rgb)  # grey stays grey in hue
        return np.column_stack([linear, np.full(3, offset)]).astype(np.float32)

    def _hue(self) -> np.ndarray:
        """Rotation about the grey axis in YIQ, an affine stand-in for a shift of the HSV hue."""
        cos, sin = math.cos(2 * math.pi * self.hue), math.sin(2 * math.pi * self.hue)
        return _RGB @ np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]]) @ _YIQ


@dataclass(frozen=True, kw_only=True)
class Augment:
    """What may be drawn; the defaults are CLIP's training transform (a random resized crop of 90 to 100 %)."""

    scale: tuple[float, float] = (0.9, 1.0)  # share of the image's area
    ratio: tuple[float, float] = (3 / 4, 4 / 3)  # width / height of the crop, before it is squashed to the square
    mirror: float = 0.0  # probability of a horizontal flip; captions name left and right, so none by default
    rotate: float = 0.0  # up to this many degrees either way, on white
    translate: float = 0.0  # up to this share of the side in x and in y, on white
    jitter: float = 0.0  # probability of the four below
    brightness: float = 0.0  # factor in 1 ± this
    contrast: float = 0.0  # the same
    saturation: float = 0.0  # the same
    hue: float = 0.0  # ± turns, at most 0.5
    greyscale: float = 0.0  # probability

    def __post_init__(self) -> None:
        for name in ("scale", "ratio"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise ConfigError(f"augment: {name}=({low}, {high}) must be 0 < low <= high")
        upper = {"mirror": 1, "jitter": 1, "greyscale": 1, "brightness": 1, "contrast": 1, "saturation": 1}
        for name, high in {**upper, "translate": 1, "hue": 0.5, "rotate": 180}.items():
            if not 0 <= getattr(self, name) <= high:
                raise ConfigError(f"augment: {name}={getattr(self, name)} must lie in 0..{high}")
        if self.scale[1] > 1:
            raise ConfigError(f"augment: scale={self.scale} must not exceed the image's area, 1.0")

    def draw(self, rng: np.random.Generator, width: int, height: int) -> View:
        """One view of a width x height image, from `rng` only."""
        crop = _random_crop(rng, width, height, self.scale, self.ratio)
        mirror = bool(self.mirror) and rng.random() < self.mirror
        angle = _within(rng, self.rotate)
        shift = (_within(rng, self.translate), _within(rng, self.translate))
        return View(crop=crop, mirror=mirror, angle=angle, shift=shift, tint=self._draw_tint(rng))

    def _draw_tint(self, rng: np.random.Generator) -> Tint | None:
        jitter = bool(self.jitter) and rng.random() < self.jitter
        grey = bool(self.greyscale) and rng.random() < self.greyscale
        if not jitter and not grey:
            return None
        reach = (self.brightness, self.contrast, self.saturation) if jitter else (0.0, 0.0, 0.0)
        brightness, contrast, saturation = (1 + _within(rng, amount) for amount in reach)
        hue = _within(rng, self.hue if jitter else 0.0)
        return Tint(brightness=brightness, contrast=contrast, saturation=0.0 if grey else saturation, hue=hue)


def _within(rng: np.random.Generator, reach: float) -> float:
    return float(rng.uniform(-reach, reach)) if reach else 0.0


def _random_crop(
    rng: np.random.Generator, width: int, height: int, scale: tuple[float, float], ratio: tuple[float, float]
) -> Crop:
    """Random area and aspect ratio (Szegedy et al. 2015), ten tries, then the largest central crop allowed."""
    low, high = math.log(ratio[0]), math.log(ratio[1])
    for _ in range(10):
        area = width * height * rng.uniform(*scale)
        aspect = math.exp(rng.uniform(low, high))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return Crop(int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1)), w, h)
    return central_crop(width, height, ratio)


def central_crop(width: int, height: int, ratio: tuple[float, float] = (1.0, 1.0)) -> Crop:
    """The largest central box whose width / height lies within `ratio`."""
    w = max(1, min(width, round(height * ratio[1])))
    h = max(1, min(height, round(width / ratio[0])))
    return Crop((width - w) // 2, (height - h) // 2, w, h)


def apply(view: View, square: np.ndarray) -> np.ndarray:
    """The view's mirror, movement and tint on uint8 [S, S, 3]; the crop is already taken."""
    if view.mirror:
        square = cv2.flip(square, 1)
    if view.angle or any(view.shift):
        square = _moved(square, view.angle, view.shift)
    if view.tint:
        mean_rgb = np.array(cv2.mean(square)[:3])
        square = cv2.transform(square, view.tint.matrix(mean_rgb))
    return square


def _moved(square: np.ndarray, angle: float, shift: tuple[float, float]) -> np.ndarray:
    size = square.shape[0]
    centre = (size - 1) / 2
    motion = cv2.getRotationMatrix2D((centre, centre), angle, 1.0)
    motion[:, 2] += np.multiply(shift, size)
    white = (255, 255, 255)
    return cv2.warpAffine(
        square,
        motion,
        (size, size),
        flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=white,
    )
