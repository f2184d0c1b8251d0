"""Decode JPEG at a reduced scale where few pixels are needed, and read its size and EXIF orientation."""

import struct
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
import simplejpeg
from jaxtyping import UInt8

from xmodal.data.decode.image_limits import MAX_SCANS
from xmodal.errors import BadSample

JPEG_MAGIC = b"\xff\xd8"
RGB_SPACES = frozenset({"YCbCr", "Gray", "RGB"})  # others (CMYK, YCCK) need Pillow's conversion
_ORIENTATION_TAG = 0x0112
_MAX_SEGMENTS = 100  # a header has about ten; a limit for hostile ones
_MAX_TAGS = 512
_OPERATIONS: dict[
    int, Callable[[np.ndarray], np.ndarray]
] = {  # EXIF orientation -> the operation that makes stored pixels upright (TIFF 6.0, tag 274)
    2: lambda x: cv2.flip(x, 1),
    3: lambda x: cv2.rotate(x, cv2.ROTATE_180),
    4: lambda x: cv2.flip(x, 0),
    5: cv2.transpose,
    6: lambda x: cv2.rotate(x, cv2.ROTATE_90_CLOCKWISE),
    7: lambda x: cv2.rotate(cv2.transpose(x), cv2.ROTATE_180),
    8: lambda x: cv2.rotate(x, cv2.ROTATE_90_COUNTERCLOCKWISE),
}


@dataclass(frozen=True, slots=True)
class JpegHeader:
    """Size in pixels as displayed, i.e. with the EXIF orientation (1..8) applied."""

    width: int
    height: int
    orientation: int

    @property
    def is_sideways(self) -> bool:
        """Whether rows and columns of the stored pixels are exchanged for display."""
        return self.orientation >= 5


def read_header(encoded: bytes) -> JpegHeader | None:
    """Return the header; None where simplejpeg cannot decode the colour space or subsampling, so that Pillow must."""
    try:
        height, width, space, _ = simplejpeg.decode_jpeg_header(encoded, strict=False)
    except (ValueError, KeyError):  # KeyError: no colour space, in a truncated header
        return None
    if space not in RGB_SPACES:
        return None
    orientation = exif_orientation(encoded)
    return JpegHeader(height, width, orientation) if orientation >= 5 else JpegHeader(width, height, orientation)


def decode(encoded: bytes, header: JpegHeader, min_width: int, min_height: int) -> UInt8[np.ndarray, "H W 3"]:
    """Decode to upright RGB at the smallest scale of 1/2, 3/8, 1/4, 1/8 that reaches the minimum size, else in full.

    The minimum is that of the displayed image. Errors that libjpeg calls recoverable (missing end, lost
    synchronisation) would show as grey or shifted blocks and raise BadSample `decode_truncated` or `decode_corrupt`.
    Scales between 1/2 and 1/1 are slower than 1/1.
    """
    # simple chroma upsampling is 11 % faster, and later averaging hides it (mean difference 0.03 of 255)
    shrinks = min_width < header.width and min_height < header.height
    if header.is_sideways:
        min_width, min_height = min_height, min_width
    try:
        pixels = simplejpeg.decode_jpeg(
            encoded,
            min_width=min_width,
            min_height=min_height,
            min_factor=2,
            fastupsample=shrinks,
            strict=True,
        )
    except ValueError as cause:
        reason = "decode_truncated" if "end of JPEG file" in str(cause) else "decode_corrupt"
        raise BadSample(reason, str(cause)) from cause
    upright = _OPERATIONS.get(header.orientation)
    return upright(pixels) if upright else pixels


def check_scans(encoded: bytes) -> None:
    """Raise BadSample `too_large` for a JPEG of more scans than any encoder writes."""
    if encoded.count(b"\xff\xda") > MAX_SCANS:  # the marker never occurs in pixel data
        raise BadSample("too_large", f"more than {MAX_SCANS} JPEG scans")


def exif_orientation(encoded: bytes) -> int:
    """Return the EXIF orientation 1..8; 1 where it is absent or malformed."""
    position = 2
    try:
        for _ in range(_MAX_SEGMENTS):
            marker, kind, length = struct.unpack_from(">BBH", encoded, position)
            if marker != 0xFF or kind == 0xDA or length < 2:  # 0xDA: pixels begin
                return 1
            if kind == 0xE1 and encoded[position + 4 : position + 10] == b"Exif\0\0":
                return _tiff_orientation(encoded[position + 10 : position + 2 + length])
            position += 2 + length
    except struct.error:  # truncated inside the header
        return 1
    return 1


def _tiff_orientation(tiff: bytes) -> int:
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None:
        return 1
    (first,) = struct.unpack_from(order + "I", tiff, 4)
    (tags,) = struct.unpack_from(order + "H", tiff, first)
    for i in range(min(tags, _MAX_TAGS)):
        tag, _, _, value = struct.unpack_from(order + "HHIH", tiff, first + 2 + 12 * i)
        if tag == _ORIENTATION_TAG:
            return value if 1 <= value <= 8 else 1
    return 1
