"""Decode every image format but common JPEG: by Pillow, with a whitelist of formats and our own limits."""

import io
import warnings

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

from xmodal.data.decode.image_limits import ImageLimits
from xmodal.errors import BadSample

# Formats that decode inside the process from bytes alone: EPS starts Ghostscript; PDF, PSD and SVG are documents.
PILLOW_FORMATS = ("PNG", "WEBP", "GIF", "BMP", "TIFF", "JPEG", "PPM")
_DEEP_MODES = ("I;16", "I;16B", "I;16L", "I;16N", "I")
_UNSCALED_MODES = ("F", "LAB")  # no fixed range, or no conversion without colour profiles


def decode(encoded: bytes, limits: ImageLimits) -> UInt8[np.ndarray, "H W 3"]:
    """Decode the first frame to upright RGB, transparency on white, 16 bits scaled to 8.

    BadSample: `not_an_image`, `too_large` (from the header), `bad_aspect`, `decode_truncated`, `decode_corrupt`.
    """
    with warnings.catch_warnings():
        # Image.open itself only warns between 89 and 179 megapixels
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        warnings.filterwarnings("ignore", module="PIL")  # warnings about metadata that are not used
        image = _open(encoded)
        limits.check_size(*image.size)
        return _load(image)


def _open(encoded: bytes) -> Image.Image:
    try:
        return Image.open(io.BytesIO(encoded), formats=PILLOW_FORMATS)
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as cause:
        raise BadSample("too_large", str(cause)) from cause
    except UnidentifiedImageError as cause:
        raise BadSample("not_an_image", f"begins with {encoded[:16]!r}") from cause
    except Exception as cause:  # Pillow's parsers may raise any exception on hostile headers
        raise BadSample(_damage_reason(cause), f"header: {cause}") from cause


def _load(image: Image.Image) -> UInt8[np.ndarray, "H W 3"]:
    try:
        image.load()
        return np.asarray(_as_rgb(ImageOps.exif_transpose(image)))
    except BadSample:
        raise
    except Exception as cause:  # as above, with hostile pixel data
        raise BadSample(_damage_reason(cause), f"{image.format}: {cause}") from cause


def _damage_reason(cause: Exception) -> str:
    return "decode_truncated" if "truncated" in str(cause).lower() else "decode_corrupt"


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode in _UNSCALED_MODES:
        raise BadSample("decode_corrupt", f"{image.format} pixels of mode {image.mode} have no 8-bit scale")
    if image.mode in _DEEP_MODES:
        return Image.fromarray(_scale_to_8_bits(np.asarray(image))).convert("RGB")
    if not image.has_transparency_data:
        return image.convert("RGB")
    rgba = image.convert("RGBA")
    white = Image.new("RGB", rgba.size, "white")
    white.paste(rgba, mask=rgba.getchannel("A"))
    return white


def _scale_to_8_bits(pixels: np.ndarray) -> UInt8[np.ndarray, "H W"]:
    """Return the high byte of 16-bit grey, as Pillow does for 16-bit colour; `convert` would clip at 255."""
    if pixels.min() < 0 or pixels.max() > 0xFFFF:
        raise BadSample("decode_corrupt", "integer pixels outside 0..65535 have no 8-bit scale")
    return (pixels >> 8).astype(np.uint8)
