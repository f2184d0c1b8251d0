"""Random image augmentation: sample the parameters of a transform, and apply it to pixels.

The parameters depend on the size of the image and on a random generator alone, so that a decoder knows the crop before
it decodes.
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float32

from xmodal.errors import ConfigError

ColorMatrix = Float32[np.ndarray, "3 4"]  # out_rgb = Colour @ (r, g, b, 1), in units of 0..255

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
class ImageTransform:
    """The parameters of one transform: crop, resize to a square, then flip, rotate and shift, change colours."""

    crop: Crop
    hflip: bool = False
    angle: float = 0.0  # degrees, counter-clockwise
    shift: tuple[float, float] = (0.0, 0.0)  # to the right and down, as shares of the side
    color_jitter: "ColorJitter | None" = None

    @property
    def is_crop_only(self) -> bool:
        """Whether the transform only crops and resizes."""
        return not (self.hflip or self.angle or any(self.shift) or self.color_jitter)


@dataclass(frozen=True, kw_only=True)
class ColorJitter:
    """The factors of one colour jitter; 1, 1, 1, 0 changes nothing."""

    brightness: float = 1.0
    contrast: float = 1.0
    saturation: float = 1.0
    hue: float = 0.0  # turns of the colour circle

    def matrix(self, mean_rgb: np.ndarray) -> ColorMatrix:
        """Return the jitter of an image with this mean colour as one affine map of RGB.

        Brightness, contrast, saturation and hue are each affine in RGB; composed, they cost one pass over the pixels,
        which clips only once, at the end.
        """
        grey = np.outer(np.ones(3), _LUMA)
        saturation = self.saturation * np.eye(3) + (1 - self.saturation) * grey
        linear = self._hue_matrix() @ saturation * self.contrast * self.brightness
        offset = (1 - self.contrast) * self.brightness * float(_LUMA @ mean_rgb)  # grey stays grey in hue
        matrix: ColorMatrix = np.column_stack([linear, np.full(3, offset)]).astype(np.float32)
        return matrix

    def _hue_matrix(self) -> np.ndarray:
        """Return a rotation about the grey axis in YIQ, an affine replacement for a shift of the HSV hue."""
        cos, sin = math.cos(2 * math.pi * self.hue), math.sin(2 * math.pi * self.hue)
        rotation: np.ndarray = _RGB @ np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]]) @ _YIQ
        return rotation


@dataclass(frozen=True, kw_only=True)
class Augment:
    """Random changes of every training image; the defaults are CLIP's: a random crop of 90 to 100 % of the image."""

    scale: tuple[float, float] = (0.9, 1.0)  # smallest and largest share of the image's area that a random crop takes
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """smallest and largest ratio of width to height of a crop, before it is resized to a
    square"""
    mirror: float = 0.0  # probability of a horizontal flip; 0 suits captions that name left and right
    rotate: float = 0.0  # largest rotation in degrees, in both directions; corners become white
    translate: float = 0.0  # largest shift in x and in y, as a share of the side; borders become white
    jitter: float = 0.0  # probability that brightness, contrast, saturation and hue are changed
    brightness: float = 0.0  # largest change of the brightness: its factor is drawn from 1 - value to 1 + value
    contrast: float = 0.0  # largest change of the contrast: its factor is drawn from 1 - value to 1 + value
    saturation: float = 0.0  # largest change of the saturation: its factor is drawn from 1 - value to 1 + value
    hue: float = 0.0  # largest change of the hue in turns of the colour circle, in both directions, at most 0.5
    greyscale: float = 0.0  # probability that the image is made grey

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

    def sample(self, rng: np.random.Generator, width: int, height: int) -> ImageTransform:
        """Sample the transform of a width x height image from `rng` alone.

        >>> transform = Augment(scale=(0.5, 0.5), ratio=(1.0, 1.0)).sample(np.random.default_rng(0), 200, 100)
        >>> transform.crop.width, transform.crop.height, transform.is_crop_only
        (100, 100, True)
        """
        crop = _random_crop(rng, width, height, self.scale, self.ratio)
        hflip = bool(self.mirror) and rng.random() < self.mirror
        angle = _uniform(rng, self.rotate)
        shift = (_uniform(rng, self.translate), _uniform(rng, self.translate))
        jitter = self._sample_color_jitter(rng)
        return ImageTransform(crop=crop, hflip=hflip, angle=angle, shift=shift, color_jitter=jitter)

    def _sample_color_jitter(self, rng: np.random.Generator) -> ColorJitter | None:
        jitter = bool(self.jitter) and rng.random() < self.jitter
        grey = bool(self.greyscale) and rng.random() < self.greyscale
        if not jitter and not grey:
            return None
        limits = (self.brightness, self.contrast, self.saturation) if jitter else (0.0, 0.0, 0.0)
        brightness, contrast, saturation = (1 + _uniform(rng, limit) for limit in limits)
        hue = _uniform(rng, self.hue if jitter else 0.0)
        return ColorJitter(brightness=brightness, contrast=contrast, saturation=0.0 if grey else saturation, hue=hue)


def _uniform(rng: np.random.Generator, limit: float) -> float:
    """Return a number in ±limit; nothing is drawn for a limit of 0."""
    return float(rng.uniform(-limit, limit)) if limit else 0.0


def _random_crop(
    rng: np.random.Generator, width: int, height: int, scale: tuple[float, float], ratio: tuple[float, float]
) -> Crop:
    """Sample area and aspect ratio (Szegedy et al. 2015); after ten failures, take the largest central crop allowed."""
    low, high = math.log(ratio[0]), math.log(ratio[1])
    for _ in range(10):
        area = width * height * rng.uniform(*scale)
        aspect = math.exp(rng.uniform(low, high))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return Crop(int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1)), w, h)
    return central_crop(width, height, ratio)


def central_crop(width: int, height: int, ratio: tuple[float, float] = (1.0, 1.0)) -> Crop:
    """Return the largest central box whose width / height lies within `ratio`.

    >>> central_crop(300, 200)
    Crop(x=50, y=0, width=200, height=200)
    """
    w = max(1, min(width, round(height * ratio[1])))
    h = max(1, min(height, round(width / ratio[0])))
    return Crop((width - w) // 2, (height - h) // 2, w, h)


def apply_transform(transform: ImageTransform, square: np.ndarray) -> np.ndarray:
    """Apply flip, rotation, shift and colour jitter to uint8 pixels [S, S, 3] that are cropped and resized already."""
    if transform.hflip:
        square = cv2.flip(square, 1)
    if transform.angle or any(transform.shift):
        square = _rotate_and_shift(square, transform.angle, transform.shift)
    if transform.color_jitter:
        mean_rgb = np.array(cv2.mean(square)[:3])
        square = cv2.transform(square, transform.color_jitter.matrix(mean_rgb))
    return square


def _rotate_and_shift(square: np.ndarray, angle: float, shift: tuple[float, float]) -> np.ndarray:
    size = square.shape[0]
    centre = (size - 1) / 2
    affine = cv2.getRotationMatrix2D((centre, centre), angle, 1.0)
    affine[:, 2] += np.multiply(shift, size)
    white = (255, 255, 255)
    return cv2.warpAffine(
        square,
        affine,
        (size, size),
        flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=white,
    )
