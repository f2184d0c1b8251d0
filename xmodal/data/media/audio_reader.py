"""Read a time span of encoded audio as float32 samples of one channel at the recording's own rate.

WAV, FLAC, Ogg and MP3 files are read by libsndfile, anything else by FFmpeg; both use the same clock.
"""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import av
import numpy as np
import soundfile
from av.error import FFmpegError
from jaxtyping import Float32

from xmodal.data.media.clip_window import TimeSpan
from xmodal.data.media.container import PRE_ROLL, ClipReader, Packet, open_clip
from xmodal.data.media.media_limits import MediaLimits
from xmodal.errors import BadSample

_MAX_DRIFT = 0.03  # seconds between timestamps and the count of samples, beyond which the timestamps are used
_UNKNOWN_SIZES = (0, 0xFFFFFFFF)  # in the header of a WAV that was written as a stream


@dataclass(frozen=True)
class AudioSegment:
    """Samples of a time span; fewer where the recording ends before it."""

    samples: Float32[np.ndarray, "S"]
    rate: int  # Hz


class AudioFileReader:
    """Reads a recording by libsndfile. `span` is the time span of the whole recording."""

    def __init__(self, encoded: bytes, limits: MediaLimits) -> None:
        limits.check_bytes(encoded)
        _check_riff(encoded)
        try:
            self._file = soundfile.SoundFile(io.BytesIO(encoded))
        except (soundfile.SoundFileError, RuntimeError, ValueError, OverflowError, MemoryError) as cause:
            raise BadSample("decode_corrupt", f"begins {encoded[:4]!r}: {cause}") from cause
        self._limits, self._rate = limits, self._file.samplerate
        limits.check_audio_format(self._rate, self._file.channels)
        if self._rate < 1 or self._file.frames < 1:
            raise BadSample("decode_truncated", f"{self._file.frames} samples at {self._rate} Hz")
        self.span = TimeSpan(0.0, self._file.frames / self._rate)
        limits.check_seconds(self.span.seconds)

    def read(self, span: TimeSpan) -> AudioSegment:
        """Return the samples of a time span; BadSample `too_large`, `decode_truncated`, `decode_corrupt`."""
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
        return AudioSegment(samples.mean(axis=1, dtype=np.float32), self._rate)


class TrackReader:
    """Reads the audio track of a container by FFmpeg. `span` is the time span of the whole clip."""

    def __init__(self, clip: ClipReader) -> None:
        self._clip, self._track = clip, clip.audio_track
        self.span = clip.span

    def read(self, span: TimeSpan) -> AudioSegment:
        """Return the samples of a time span; BadSample as `ClipReader.packets`, and `decode_corrupt`."""
        clip, track, context = self._clip, self._track, self._track.codec_context
        rate = context.sample_rate
        clip.limits.check_decoded(4.0 * context.channels * rate * (span.seconds + 2 * PRE_ROLL))
        samples = np.zeros(max(0, round(span.stop * rate) - round(span.start * rate)), np.float32)
        origin, position, end = round(span.start * rate), None, 0
        for frame in self._frames(span):
            stamp = None if frame.pts is None else clip.seconds(frame.pts, track) * rate
            if position is None or (stamp is not None and abs(stamp - position) > _MAX_DRIFT * rate):
                position = round(stamp or 0.0)
            mono = to_mono(frame)
            end = max(end, _copy_into(samples, mono, position - origin))
            position += len(mono)
        return AudioSegment(samples[:end], rate)

    def _frames(self, span: TimeSpan) -> Iterator[av.AudioFrame]:
        track, context = self._track, self._track.codec_context
        packets = self._clip.packets(track, span.start, span.stop)
        rate = context.sample_rate
        try:
            for packet in _packets_of_span(self._clip, packets, track, span):
                for frame in context.decode(packet):
                    if frame.sample_rate != rate:
                        raise BadSample("decode_corrupt", f"the rate changes from {rate} to {frame.sample_rate} Hz")
                    yield frame
            yield from context.decode(None)
        except (FFmpegError, ValueError, MemoryError) as cause:
            raise BadSample("decode_corrupt", f"{context.codec.name}: {cause}") from cause


def open_audio(encoded: bytes, limits: MediaLimits) -> AudioFileReader | TrackReader:
    """Return a reader of the recording in these bytes; BadSample as `ClipReader` and `AudioFileReader`."""
    if encoded.startswith((b"RIFF", b"fLaC", b"OggS", b"ID3")) and encoded[8:12] not in (b"AVI ",):
        return AudioFileReader(encoded, limits)
    if len(encoded) > 1 and encoded[0] == 0xFF and encoded[1] & 0xE6 == 0xE2:  # MPEG audio, layer 3
        return AudioFileReader(encoded, limits)
    return TrackReader(open_clip(encoded, limits, "audio"))


def _packets_of_span(clip: ClipReader, packets: list[Packet], track: Any, span: TimeSpan) -> list[Packet]:
    """Return the packets within the span, and those before it that the decoder needs to be exact."""
    if any(packet.pts is None for packet in packets):
        return packets
    tick = clip.tick(track)
    first, last = (span.start - PRE_ROLL + clip.clock_start) / tick, (span.stop + clip.clock_start) / tick
    return [p for p in packets if p.pts < last and p.pts + clip.packet_seconds(p, track) / tick > first]


def to_mono(frame: av.AudioFrame) -> Float32[np.ndarray, "S"]:
    """Return the mean of a frame's channels, with full scale as 1."""
    channels = frame.layout.nb_channels
    if channels == 1 and frame.format.name in ("flt", "fltp"):  # faster than PyAV's copy, which costs 30 us a frame
        plane: Any = frame.planes[0]
        return np.frombuffer(plane, np.float32, frame.samples).copy()
    array = frame.to_ndarray()  # [channels, samples], or [1, samples * channels] where they are interleaved
    if not frame.format.is_planar and channels > 1:
        array = array.reshape(-1, channels).T
    if array.dtype == np.uint8:
        array = (array.astype(np.float32) - 128) / 128
    elif array.dtype.kind == "i":
        array = array.astype(np.float32) / np.float32(2 ** (8 * array.dtype.itemsize - 1))
    mono: np.ndarray = (
        array.mean(axis=0, dtype=np.float32) if len(array) > 1 else array[0].astype(np.float32, copy=False)
    )
    return mono


def _copy_into(samples: np.ndarray, part: np.ndarray, position: int) -> int:
    """Copy `part` to `position` of `samples` (it may reach outside); return the end of the copied region."""
    first, stop = max(0, position), min(len(samples), position + len(part))
    if stop <= first:
        return 0
    samples[first:stop] = part[first - position : stop - position]
    return stop


def _check_riff(encoded: bytes) -> None:
    """Raise BadSample `decode_truncated` for a WAV shorter than its header says: libsndfile ignores that."""
    if not encoded.startswith(b"RIFF"):
        return
    size = int.from_bytes(encoded[4:8], "little")
    if size not in _UNKNOWN_SIZES and size + 8 > len(encoded) + 1:  # the pad byte at the end is often left out
        raise BadSample("decode_truncated", f"{len(encoded)} bytes of a WAV of {size + 8}")
