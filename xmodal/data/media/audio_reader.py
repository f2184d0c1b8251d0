"""Encoded sound and a span of seconds in; float32 samples of one channel at the recording's own rate out.

WAV, FLAC, Ogg and MP3 files are read by libsndfile, anything else through the container; both on the same clock.
"""

import io
from dataclasses import dataclass
from typing import Any

import av
import numpy as np
import soundfile
from av.error import FFmpegError
from jaxtyping import Float32

from xmodal.data.media.clip_window import Span
from xmodal.data.media.container import PRE_ROLL, Clip, Packet, open_clip
from xmodal.data.media.media_limits import MediaLimits
from xmodal.errors import BadSample

_DRIFT = 0.03  # seconds by which timestamps may leave the count of samples before they are believed instead
_ENDLESS = (0, 0xFFFFFFFF)  # sizes that a WAV writes when it was streamed


@dataclass(frozen=True)
class Sound:
    """Samples from `start` on; fewer than were asked for where the recording ends."""

    samples: Float32[np.ndarray, "S"]
    rate: int  # Hz


class SoundFile:
    """One recording that libsndfile reads."""

    def __init__(self, encoded: bytes, limits: MediaLimits) -> None:
        limits.check_bytes(encoded)
        _check_riff(encoded)
        try:
            self._file = soundfile.SoundFile(io.BytesIO(encoded))
        except (soundfile.SoundFileError, RuntimeError, ValueError, OverflowError, MemoryError) as cause:
            raise BadSample("decode_corrupt", f"begins {encoded[:4]!r}: {cause}") from cause
        self._limits, self._rate = limits, self._file.samplerate
        limits.check_sound(self._rate, self._file.channels)
        if self._rate < 1 or self._file.frames < 1:
            raise BadSample("decode_truncated", f"{self._file.frames} samples at {self._rate} Hz")
        self.span = Span(0.0, self._file.frames / self._rate)
        limits.check_seconds(self.span.seconds)

    def read(self, span: Span) -> Sound:
        """BadSample `too_large`, `decode_truncated`, `decode_corrupt`."""
        first, stop = round(span.start * self._rate), min(round(span.stop * self._rate), self._file.frames)
        count = max(0, stop - first)
        self._limits.check_decoded(4.0 * count * self._file.channels)
        try:
            self._file.seek(min(first, self._file.frames))
            samples = self._file.read(count, "float32", always_2d=True)
        except (soundfile.SoundFileError, RuntimeError, ValueError) as cause:
            raise BadSample("decode_corrupt", f"{self._file.format}: {cause}") from cause
        if len(samples) < count:
            raise BadSample("decode_truncated", f"{self._file.format}: {len(samples)} of {count} samples")
        return Sound(samples.mean(axis=1, dtype=np.float32), self._rate)


class TrackSound:
    """The sound track of a container."""

    def __init__(self, clip: Clip) -> None:
        self._clip, self._track = clip, clip.audio
        self.span = clip.span

    def read(self, span: Span) -> Sound:
        """BadSample as `Clip.packets`, and `decode_corrupt`."""
        clip, track, context = self._clip, self._track, self._track.codec_context
        rate = context.sample_rate
        clip.limits.check_decoded(4.0 * context.channels * rate * (span.seconds + 2 * PRE_ROLL))
        samples = np.zeros(max(0, round(span.stop * rate) - round(span.start * rate)), np.float32)
        origin, position, end = round(span.start * rate), None, 0
        for frame in self._frames(span):
            stamp = None if frame.pts is None else clip.seconds(frame.pts, track) * rate
            if position is None or (stamp is not None and abs(stamp - position) > _DRIFT * rate):
                position = round(stamp or 0.0)
            heard = one_channel(frame)
            end = max(end, _put(samples, heard, position - origin))
            position += len(heard)
        return Sound(samples[:end], rate)

    def _frames(self, span: Span) -> Any:
        track, context = self._track, self._track.codec_context
        packets = self._clip.packets(track, span.start, span.stop)
        rate = context.sample_rate
        try:
            for packet in _needed(self._clip, packets, track, span):
                for frame in context.decode(packet):
                    if frame.sample_rate != rate:
                        raise BadSample("decode_corrupt", f"the rate changes from {rate} to {frame.sample_rate} Hz")
                    yield frame
            yield from context.decode(None)
        except (FFmpegError, ValueError, MemoryError) as cause:
            raise BadSample("decode_corrupt", f"{context.codec.name}: {cause}") from cause


def open_sound(encoded: bytes, limits: MediaLimits) -> SoundFile | TrackSound:
    """The recording in these bytes; BadSample as `Clip` and `SoundFile`."""
    if encoded.startswith((b"RIFF", b"fLaC", b"OggS", b"ID3")) and encoded[8:12] not in (b"AVI ",):
        return SoundFile(encoded, limits)
    if len(encoded) > 1 and encoded[0] == 0xFF and encoded[1] & 0xE6 == 0xE2:  # MPEG audio, layer 3
        return SoundFile(encoded, limits)
    return TrackSound(open_clip(encoded, limits, "audio"))


def _needed(clip: Clip, packets: list[Packet], track: Any, span: Span) -> list[Packet]:
    """The packets that sound within the span, and the ones before them that the decoder needs to be exact."""
    if any(packet.pts is None for packet in packets):
        return packets
    tick = clip.tick(track)
    first, last = (span.start - PRE_ROLL + clip.zero) / tick, (span.stop + clip.zero) / tick
    return [p for p in packets if p.pts < last and p.pts + clip.packet_seconds(p, track) / tick > first]


def one_channel(frame: av.AudioFrame) -> Float32[np.ndarray, "S"]:
    """The mean of a frame's channels, full scale as 1."""
    channels = frame.layout.nb_channels
    if channels == 1 and frame.format.name in ("flt", "fltp"):  # most speech; PyAV's own copy costs 30 us a frame
        plane: Any = frame.planes[0]
        return np.frombuffer(plane, np.float32, frame.samples).copy()
    array = frame.to_ndarray()  # [channels, samples], or [1, samples * channels] where they are interleaved
    if not frame.format.is_planar and channels > 1:
        array = array.reshape(-1, channels).T
    if array.dtype == np.uint8:
        array = (array.astype(np.float32) - 128) / 128
    elif array.dtype.kind == "i":
        array = array.astype(np.float32) / np.float32(2 ** (8 * array.dtype.itemsize - 1))
    return array.mean(axis=0, dtype=np.float32) if len(array) > 1 else array[0].astype(np.float32, copy=False)


def _put(samples: np.ndarray, heard: np.ndarray, at: int) -> int:
    """Write `heard` at sample `at` (which may lie outside); the end of what was written."""
    first, stop = max(0, at), min(len(samples), at + len(heard))
    if stop <= first:
        return 0
    samples[first:stop] = heard[first - at : stop - at]
    return stop


def _check_riff(encoded: bytes) -> None:
    """A WAV says its length; libsndfile reads what there is without a word."""
    if not encoded.startswith(b"RIFF"):
        return
    says = int.from_bytes(encoded[4:8], "little")
    if says not in _ENDLESS and says + 8 > len(encoded) + 1:  # the pad byte at the end is often left out
        raise BadSample("decode_truncated", f"{len(encoded)} bytes of a WAV of {says + 8}")
