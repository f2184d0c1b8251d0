"""Limits on the cost of one clip or recording, checked on its bytes, headers and packets before it is decoded."""

from dataclasses import dataclass

from xmodal.errors import BadSample

MAX_TRACKS = 16
MAX_PACKETS = 200_000  # two hours of 25 frames a second; reading a packet costs 3 microseconds


@dataclass(frozen=True, kw_only=True)
class MediaLimits:
    """Largest sizes of a clip that is decoded; every check raises BadSample `too_large` or `too_long`."""

    max_bytes: int = 256 * 2**20  # of the encoded clip
    max_seconds: float = 600.0  # by the header, and by the timestamps of the packets
    max_side: int = 8_192  # pixels
    max_pixels: int = 10_000_000  # width * height of one frame; 4096x2304 passes
    max_decoded_bytes: int = 2 * 2**30  # of all frames or samples that are decoded for one row
    max_rate: int = 384_000  # Hz
    max_channels: int = 16

    def check_bytes(self, encoded: bytes) -> None:
        """Check the size of the encoded clip."""
        if len(encoded) > self.max_bytes:
            raise BadSample("too_large", f"{len(encoded)} bytes, limit {self.max_bytes}")

    def check_seconds(self, seconds: float) -> None:
        """Check the length of the clip."""
        if seconds > self.max_seconds:
            raise BadSample("too_long", f"{seconds:.1f} s, limit {self.max_seconds:g} s")

    def check_image_size(self, width: int, height: int) -> None:
        """Check the size of a frame in pixels."""
        if max(width, height) > self.max_side or width * height > self.max_pixels:
            detail = f"{width}x{height} pixels, limits {self.max_side} a side and {self.max_pixels} in all"
            raise BadSample("too_large", detail)

    def check_audio_format(self, rate: int, channels: int) -> None:
        """Check the sampling rate in Hz and the number of channels."""
        if rate > self.max_rate or channels > self.max_channels:
            raise BadSample("too_large", f"{rate} Hz x {channels}, limits {self.max_rate} Hz x {self.max_channels}")

    def check_decoded(self, decoded_bytes: float) -> None:
        """Check the number of bytes that must be decoded."""
        if decoded_bytes > self.max_decoded_bytes:
            raise BadSample("too_large", f"{decoded_bytes:.3g} decoded bytes, limit {self.max_decoded_bytes}")
