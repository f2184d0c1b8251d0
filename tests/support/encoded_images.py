"""Images for the decoder tests: photograph-like pixels, and encoders for valid and hostile files."""

import io
import struct
import zlib

import cv2
import numpy as np
from PIL import Image


def photograph(width: int, height: int, seed: int = 0) -> Image.Image:
    """Return smooth colour at several scales with edges, roughly with the spectrum of a photograph."""
    rng = np.random.default_rng(seed)
    layers = [rng.normal(size=(max(2, height // cell), max(2, width // cell), 3)) * cell for cell in (4, 16, 64)]
    pixels = sum(cv2.resize(layer, (width, height), interpolation=cv2.INTER_CUBIC) for layer in layers)
    pixels[: height // 3, width // 2 :] += 60  # one hard edge
    return Image.fromarray(np.clip(128 + pixels, 0, 255).astype(np.uint8))


def encode(picture: Image.Image, format: str = "JPEG", **options: object) -> bytes:
    target = io.BytesIO()
    picture.save(target, format, **options)
    return target.getvalue()


def jpeg(width: int = 500, height: int = 340, seed: int = 0, **options: object) -> bytes:
    return encode(photograph(width, height, seed), "JPEG", **{"quality": 90, **options})


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb_png(width: int, height: int) -> bytes:
    """Return a PNG of one-bit zeros, a thousandth of its pixels in size; beyond 14,000 rows only the header is true."""
    packer = zlib.compressobj(9)
    row = bytes((width + 7) // 8 + 1)
    body = b"".join(packer.compress(row) for _ in range(min(height, 14_000))) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", body), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(kind, data) for kind, data in chunks)


def png_16_bit_grey(pixels: np.ndarray) -> bytes:
    return encode(Image.fromarray(pixels.astype(np.uint16)), "PNG")


def png_16_bit_colour(pixels: np.ndarray) -> bytes:
    """Encode uint16 [H, W, 3] by OpenCV, since Pillow cannot write it."""
    ok, data = cv2.imencode(".png", pixels[:, :, ::-1])
    assert ok
    return data.tobytes()
