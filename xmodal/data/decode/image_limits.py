"""What one encoded picture may cost, checked on its bytes and its header before any pixel is decoded."""

from dataclasses import dataclass

from xmodal.errors import BadSample

MAX_SCANS = 100  # a progressive JPEG has about ten; each scan walks every block, so thousands of empty ones cost hours


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Bounds of a picture; `check_bytes` and `check_size` raise BadSample `too_large` or `bad_aspect`."""

    max_bytes: int = 32 * 2**20  # encoded
    max_pixels: int = 25_000_000  # width * height as the header says; 75 MB of RGB
    max_side: int = 16_384  # pixels
    max_aspect: float = 200.0  # long side / short side

    def check_bytes(self, encoded: bytes) -> None:
        if len(encoded) > self.max_bytes:
            raise BadSample("too_large", f"{len(encoded)} bytes, limit {self.max_bytes}")

    def check_size(self, width: int, height: int) -> None:
        size = f"{width}x{height} pixels"
        if width < 1 or height < 1:
            raise BadSample("not_an_image", size)
        if max(width, height) > self.max_side or width * height > self.max_pixels:
            raise BadSample("too_large", f"{size}, limits {self.max_side} a side and {self.max_pixels} in all")
        if max(width, height) > self.max_aspect * min(width, height):
            raise BadSample("bad_aspect", f"{size}, limit {self.max_aspect:g}:1")
