"""Any image format but common JPEG in, RGB pixels out: Pillow with a whitelist of formats and our own limits."""

import io
import warnings

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

from xmodal.data.decode.image_limits import Limits
from xmodal.errors import BadSample

# Formats that decode inside the process from bytes alone: EPS starts Ghostscript; PDF, PSD and SVG are documents.
FORMATS = ("PNG", "WEBP", "GIF", "BMP", "TIFF", "JPEG", "PPM")
_DEEP_MODES = ("I;16", "I;16B", "I;16L", "I;16N", "I")
_UNSCALED_MODES = ("F", "LAB")  # no fixed range, or no conversion without colour profiles


def decode(encoded: bytes, limits: Limits) -> UInt8[np.ndarray, "H W 3"]:
    """Upright RGB pixels of the first frame, transparency on white, 16 bits scaled to 8.

    BadSample: `not_an_image`, `too_large` (from the header), `bad_aspect`, `decode_truncated`, `decode_corrupt`.
    """
    with warnings.catch_warnings():
        # Image.open itself only warns between 89 and 179 megapixels
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        warnings.filterwarnings("ignore", module="PIL")  # remarks on metadata we do not use
        picture = _open(encoded)
        limits.check_size(*picture.size)
        return _pixels(picture)


def _open(encoded: bytes) -> Image.Image:
    try:
        return Image.open(io.BytesIO(encoded), formats=FORMATS)
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as cause:
        raise BadSample("too_large", str(cause)) from cause
    except UnidentifiedImageError as cause:
        raise BadSample("not_an_image", f"begins with {encoded[:16]!r}") from cause
    except Exception as cause:  # Pillow's parsers let any exception escape on hostile headers
        raise BadSample(_damage(cause), f"header: {cause}") from cause


def _pixels(picture: Image.Image) -> UInt8[np.ndarray, "H W 3"]:
    try:
        picture.load()
        return np.asarray(_as_rgb(ImageOps.exif_transpose(picture)))
    except BadSample:
        raise
    except Exception as cause:  # as above, with hostile pixel data
        raise BadSample(_damage(cause), f"{picture.format}: {cause}") from cause


def _damage(cause: Exception) -> str:
    return "decode_truncated" if "truncated" in str(cause).lower() else "decode_corrupt"


def _as_rgb(picture: Image.Image) -> Image.Image:
    if picture.mode in _UNSCALED_MODES:
        raise BadSample("decode_corrupt", f"{picture.format} pixels of mode {picture.mode} have no 8-bit scale")
    if picture.mode in _DEEP_MODES:
        return Image.fromarray(_scaled_to_8_bits(np.asarray(picture))).convert("RGB")
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    layer = picture.convert("RGBA")
    white = Image.new("RGB", layer.size, "white")
    white.paste(layer, mask=layer.getchannel("A"))
    return white


def _scaled_to_8_bits(deep: np.ndarray) -> UInt8[np.ndarray, "H W"]:
    """The high byte of 16-bit grey, as Pillow itself does for 16-bit colour; `convert` would clip at 255."""
    if deep.min() < 0 or deep.max() > 0xFFFF:
        raise BadSample("decode_corrupt", "integer pixels outside 0..65535 have no 8-bit scale")
    return (deep >> 8).astype(np.uint8)
