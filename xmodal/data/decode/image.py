"""One encoded image in, one uint8 RGB square out, written straight into the block.

JPEG is decoded by simplejpeg at the smallest scale that serves, all else by Pillow; OpenCV resizes.
"""

import functools
import math
from dataclasses import dataclass, field, replace
from typing import Any

import cv2
import numpy as np
from jaxtyping import UInt8

from xmodal.data.decode import jpeg, pillow
from xmodal.data.decode.augment import Augment, Crop, View, apply, central_crop
from xmodal.data.decode.fields import Column
from xmodal.data.decode.image_limits import Limits
from xmodal.errors import BadSample, ConfigError, nearest

FITS = ("crop", "squash", "pad")


@dataclass(frozen=True, kw_only=True)
class ImageField:
    """Column `name`: uint8 [size, size, 3], RGB, upright, transparency on white.

    Without `augment` the whole picture is seen by `fit`: `crop` resizes the short side to `size` and crops the
    centre (CLIP's evaluation), `squash` ignores the aspect ratio, `pad` fits the long side on white. With
    `augment` a view is drawn from the row's generator, and `fit` does not apply.

    BadSample: `missing_member`, `not_an_image`, `too_large`, `bad_aspect`, `decode_truncated`, `decode_corrupt`.
    """

    size: int = 224
    name: str = "image"
    augment: Augment | None = None
    fit: str = "crop"
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        if self.fit not in FITS:
            raise ConfigError(f"image: unknown fit {self.fit!r}; {nearest(self.fit, FITS)}")
        if not 1 <= self.size <= 4096:
            raise ConfigError(f"image: size={self.size} must lie in 1..4096 pixels")

    @property
    def columns(self) -> dict[str, Column]:
        return {self.name: Column(dtype="uint8", shape=(self.size, self.size, 3))}

    def decode(self, raw: Any, rng: np.random.Generator, out: dict[str, np.ndarray]) -> None:
        """Write the picture in `raw` into out[name]."""
        single_thread()
        encoded = _as_bytes(raw)
        self.limits.check_bytes(encoded)
        header = _jpeg_header(encoded)
        if header is not None:
            pixels, view = self._decode_jpeg(encoded, header, rng)
        else:
            pixels = _decode_other(encoded, self.limits)
            view = self.view(rng, pixels.shape[1], pixels.shape[0])
        self.place(pixels, view, out[self.name])

    def _decode_jpeg(
        self, encoded: bytes, header: jpeg.Header, rng: np.random.Generator
    ) -> tuple[UInt8[np.ndarray, "H W 3"], View]:
        """Pixels at a scale where the view's crop still has the wanted resolution, and the view at that scale."""
        width, height = header.width, header.height
        self.limits.check_size(width, height)
        view = self.view(rng, width, height)
        target_width, target_height = self.target(view.crop)
        enough_width = min(width, math.ceil(width * target_width / view.crop.width))
        enough_height = min(height, math.ceil(height * target_height / view.crop.height))
        pixels = jpeg.decode(encoded, header, enough_width, enough_height)
        return pixels, replace(view, crop=rescaled(view.crop, width, height, pixels))

    def view(self, rng: np.random.Generator, width: int, height: int) -> View:
        """How an upright width x height picture is seen this time."""
        if self.augment is not None:
            return self.augment.draw(rng, width, height)
        return View(crop=central_crop(width, height) if self.fit == "crop" else Crop(0, 0, width, height))

    def target(self, crop: Crop) -> tuple[int, int]:
        """Width and height that the crop takes in the square."""
        if self.fit != "pad" or self.augment is not None:
            return self.size, self.size
        share = self.size / max(crop.width, crop.height)
        return max(1, round(crop.width * share)), max(1, round(crop.height * share))

    def place(self, pixels: UInt8[np.ndarray, "H W 3"], view: View, out: UInt8[np.ndarray, "S S 3"]) -> None:
        """Write what `view` shows of the pixels into the square."""
        crop = view.crop
        seen = pixels[crop.y : crop.y + crop.height, crop.x : crop.x + crop.width]
        width, height = self.target(crop)
        if (width, height) == (self.size, self.size) and view.plain:
            resize_into(seen, out)
            return
        square = np.full_like(out, 255)
        top, left = (self.size - height) // 2, (self.size - width) // 2
        resize_into(seen, square[top : top + height, left : left + width])
        out[...] = apply(view, square)


@functools.cache
def single_thread() -> None:
    """Once per process: OpenCV would start a thread pool per CPU worker, and the workers already fill the cores."""
    cv2.setNumThreads(1)


def _as_bytes(raw: Any) -> bytes:
    if raw is None:
        raise BadSample("missing_member", "the image is null")
    if not isinstance(raw, bytes | bytearray | memoryview):
        raise BadSample("not_an_image", f"{type(raw).__name__} instead of encoded bytes")
    if len(raw) == 0:
        raise BadSample("not_an_image", "0 bytes")
    return bytes(raw)  # the same object where it is bytes already


def _jpeg_header(encoded: bytes) -> jpeg.Header | None:
    if not encoded.startswith(jpeg.START):
        return None
    jpeg.check_scans(encoded)
    return jpeg.read_header(encoded)


def _decode_other(encoded: bytes, limits: Limits) -> UInt8[np.ndarray, "H W 3"]:
    try:
        return pillow.decode(encoded, limits)
    except BadSample as bad:
        if bad.reason == "not_an_image" and encoded.startswith(jpeg.START):
            raise BadSample("decode_truncated", "JPEG that ends or breaks inside its header") from bad
        raise


def rescaled(crop: Crop, width: int, height: int, pixels: np.ndarray) -> Crop:
    """The crop of a width x height image in a decode of it at another scale, to the nearest pixel."""
    across, down = pixels.shape[1] / width, pixels.shape[0] / height
    x, y = round(crop.x * across), round(crop.y * down)
    right, bottom = round((crop.x + crop.width) * across), round((crop.y + crop.height) * down)
    x, y = min(x, pixels.shape[1] - 1), min(y, pixels.shape[0] - 1)
    return Crop(x, y, max(1, right - x), max(1, bottom - y))


def resize_into(source: UInt8[np.ndarray, "H W 3"], target: UInt8[np.ndarray, "h w 3"]) -> None:
    """Resize onto `target` in place: INTER_AREA where a side shrinks, INTER_CUBIC where it grows.

    OpenCV's cubic takes 4x4 source pixels however far it shrinks and so aliases; area averages what each pixel
    covers. On photographs 1.8x too large, the mean difference to Pillow's antialiased bicubic (CLIP's) was 1.6 of
    255 for area, 2.1 for linear, 2.7 for cubic. A side that shrinks while the other grows is done first, because
    INTER_AREA falls back to linear if either side grows.
    """
    height, width = target.shape[:2]
    shrunk = min(width, source.shape[1]), min(height, source.shape[0])
    if shrunk == (width, height):
        _resize(source, target, cv2.INTER_AREA)
        return
    if shrunk != (source.shape[1], source.shape[0]):
        source = cv2.resize(source, shrunk, interpolation=cv2.INTER_AREA)
    _resize(source, target, cv2.INTER_CUBIC)


def _resize(source: np.ndarray, target: np.ndarray, interpolation: int) -> None:
    result = cv2.resize(source, (target.shape[1], target.shape[0]), dst=target, interpolation=interpolation)
    if result is not target:  # OpenCV allocates its own array where it cannot write through the view
        target[...] = result
