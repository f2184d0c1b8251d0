"""JPEG bytes in, RGB pixels out, decoded no larger than they are needed; EXIF orientation read from the header."""

import struct
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
import simplejpeg
from jaxtyping import UInt8

from xmodal.data.decode.image_limits import MAX_SCANS
from xmodal.errors import BadSample

START = b"\xff\xd8"
RGB_SPACES = frozenset({"YCbCr", "Gray", "RGB"})  # the rest (CMYK, YCCK) needs Pillow's conversion
_ORIENTATION_TAG = 0x0112
_MAX_SEGMENTS = 100  # a header has about ten; bounds the walk through a hostile one
_MAX_TAGS = 512
_OPERATIONS: dict[
    int, Callable[[np.ndarray], np.ndarray]
] = {  # EXIF orientation -> what brings the stored pixels upright (TIFF 6.0, tag 274)
    2: lambda x: cv2.flip(x, 1),
    3: lambda x: cv2.rotate(x, cv2.ROTATE_180),
    4: lambda x: cv2.flip(x, 0),
    5: cv2.transpose,
    6: lambda x: cv2.rotate(x, cv2.ROTATE_90_CLOCKWISE),
    7: lambda x: cv2.rotate(cv2.transpose(x), cv2.ROTATE_180),
    8: lambda x: cv2.rotate(x, cv2.ROTATE_90_COUNTERCLOCKWISE),
}


@dataclass(frozen=True, slots=True)
class Header:
    """Size in pixels as shown, that is with the EXIF orientation (1..8) applied."""

    width: int
    height: int
    orientation: int

    @property
    def turned(self) -> bool:
        """Whether the stored picture lies on its side."""
        return self.orientation >= 5


def read_header(encoded: bytes) -> Header | None:
    """The header, or None where Pillow must decide: a colour space or subsampling simplejpeg cannot decode."""
    try:
        height, width, space, _ = simplejpeg.decode_jpeg_header(encoded, strict=False)
    except (ValueError, KeyError):  # KeyError: no colour space, in a header that is cut
        return None
    if space not in RGB_SPACES:
        return None
    turn = orientation(encoded)
    return Header(height, width, turn) if turn >= 5 else Header(width, height, turn)


def decode(encoded: bytes, header: Header, min_width: int, min_height: int) -> UInt8[np.ndarray, "H W 3"]:
    """Upright RGB pixels at the smallest of 1/2, 3/8, 1/4, 1/8 that is at least the minimum as shown, else in full.

    Strict: what libjpeg calls recoverable (missing end, lost synchronisation) shows as grey or shifted blocks,
    so it is a BadSample, `decode_truncated` or `decode_corrupt`. Scales between 1/2 and 1/1 are slower than 1/1.
    """
    # plain chroma upsampling is 11 % faster, and averaging hides it (mean difference 0.03 of 255)
    shrinks = min_width < header.width and min_height < header.height
    if header.turned:
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
    """BadSample `too_large` for a JPEG of more scans than any encoder writes; pixel data never holds the marker."""
    if encoded.count(b"\xff\xda") > MAX_SCANS:
        raise BadSample("too_large", f"more than {MAX_SCANS} JPEG scans")


def orientation(encoded: bytes) -> int:
    """EXIF orientation 1..8; 1 where it is absent or malformed."""
    position = 2
    try:
        for _ in range(_MAX_SEGMENTS):
            mark, kind, length = struct.unpack_from(">BBH", encoded, position)
            if mark != 0xFF or kind == 0xDA or length < 2:  # 0xDA: pixels begin
                return 1
            if kind == 0xE1 and encoded[position + 4 : position + 10] == b"Exif\0\0":
                return _tiff_orientation(encoded[position + 10 : position + 2 + length])
            position += 2 + length
    except struct.error:  # cut inside the header
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
