"""What one clip or recording may cost, checked on its bytes, its headers and its packets before anything is decoded."""

from dataclasses import dataclass

from xmodal.errors import BadSample

MAX_TRACKS = 16
MAX_PACKETS = 200_000  # two hours of 25 pictures a second; a packet costs 3 microseconds to walk over


@dataclass(frozen=True, kw_only=True)
class MediaLimits:
    """Bounds of a clip; every check raises BadSample `too_large` or `too_long`."""

    max_bytes: int = 256 * 2**20  # encoded
    max_seconds: float = 600.0  # as declared, and as the timestamps of the packets say
    max_side: int = 8_192  # pixels
    max_pixels: int = 10_000_000  # width * height of one picture; 4096x2304 passes
    max_decoded_bytes: int = 2 * 2**30  # of all pictures or samples that one decode must go through
    max_rate: int = 384_000  # Hz
    max_channels: int = 16

    def check_bytes(self, encoded: bytes) -> None:
        if len(encoded) > self.max_bytes:
            raise BadSample("too_large", f"{len(encoded)} bytes, limit {self.max_bytes}")

    def check_seconds(self, seconds: float) -> None:
        if seconds > self.max_seconds:
            raise BadSample("too_long", f"{seconds:.1f} s, limit {self.max_seconds:g} s")

    def check_picture(self, width: int, height: int) -> None:
        if max(width, height) > self.max_side or width * height > self.max_pixels:
            detail = f"{width}x{height} pixels, limits {self.max_side} a side and {self.max_pixels} in all"
            raise BadSample("too_large", detail)

    def check_sound(self, rate: int, channels: int) -> None:
        if rate > self.max_rate or channels > self.max_channels:
            raise BadSample("too_large", f"{rate} Hz x {channels}, limits {self.max_rate} Hz x {self.max_channels}")

    def check_decoded(self, decoded: float) -> None:
        """`decoded` is in bytes."""
        if decoded > self.max_decoded_bytes:
            raise BadSample("too_large", f"{decoded:.3g} decoded bytes, limit {self.max_decoded_bytes}")
