"""Limits on the cost of one encoded image, checked on its bytes and its header before any pixel is decoded."""

from dataclasses import dataclass

from xmodal.errors import BadSample

MAX_SCANS = 100  # a progressive JPEG has about ten; each scan walks every block, so thousands of empty ones cost hours


@dataclass(frozen=True, kw_only=True)
class ImageLimits:
    """Largest sizes of an image that is decoded."""

    max_bytes: int = 32 * 2**20  # of the encoded image
    max_pixels: int = 25_000_000  # width * height in the header; 75 MB of RGB
    max_side: int = 16_384  # pixels
    max_aspect: float = 200.0  # long side / short side

    def check_bytes(self, encoded: bytes) -> None:
        """Raise BadSample `too_large` where the encoded image is too large."""
        if len(encoded) > self.max_bytes:
            raise BadSample("too_large", f"{len(encoded)} bytes, limit {self.max_bytes}")

    def check_size(self, width: int, height: int) -> None:
        """Raise BadSample `not_an_image`, `too_large` or `bad_aspect` for an image of this size in pixels."""
        size = f"{width}x{height} pixels"
        if width < 1 or height < 1:
            raise BadSample("not_an_image", size)
        if max(width, height) > self.max_side or width * height > self.max_pixels:
            raise BadSample("too_large", f"{size}, limits {self.max_side} a side and {self.max_pixels} in all")
        if max(width, height) > self.max_aspect * min(width, height):
            raise BadSample("bad_aspect", f"{size}, limit {self.max_aspect:g}:1")
