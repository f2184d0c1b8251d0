"""Pictures with their times and a waveform come in, the bytes of one container with both tracks go out.

The same arguments give the same bytes: one encoder thread, and no time of day in the header.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av
import numpy as np
from jaxtyping import Float32, UInt8

from xmodal.errors import ConfigError, nearest

CODECS = {  # container -> picture codec, sound codec, pixel format
    "mp4": ("libx264", "aac", "yuv420p"),
    "mov": ("libx264", "aac", "yuv420p"),
    "matroska": ("libx264", "aac", "yuv420p"),
    "webm": ("libvpx", "libopus", "yuv420p"),
    "mpeg": ("mpeg1video", "mp2", "yuv420p"),
}
_TICKS = 90_000  # per second
_CHUNK = 1024  # samples handed to the sound encoder at once


@dataclass(frozen=True, kw_only=True)
class Encoding:
    """How tracks are written; `group` pictures from one key picture to the next, `rotation` degrees to the left."""

    format: str = "mp4"
    group: int = 12
    b_frames: int = 2
    quality: int = 20  # x264's constant rate factor
    rotation: int = 0
    mirrored: bool = False
    pixel_aspect: Fraction = Fraction(1)

    def __post_init__(self) -> None:
        if self.format not in CODECS:
            raise ConfigError(f"no container {self.format!r} to write; {nearest(self.format, CODECS)}")


def mux(
    pictures: UInt8[np.ndarray, "T H W 3"] | None,
    times: Sequence[float] | float | int,
    waveform: Float32[np.ndarray, "channels S"] | None,
    rate: int = 16_000,
    encoding: Encoding | None = None,
) -> bytes:
    """A container of RGB pictures shown at `times` seconds (or at that many a second) and sound from 0 s at `rate` Hz.

    Either track may be None.
    """
    encoding = encoding or Encoding()
    out = io.BytesIO()
    flags = {"fflags": "+bitexact"}
    with av.open(out, "w", format=encoding.format, container_options=flags) as container:
        video = None if pictures is None else _video_track(container, pictures, times, encoding)
        audio = None if waveform is None else _audio_track(container, len(waveform), rate, encoding)
        if video is not None and pictures is not None:
            for frame in _frames(pictures, _instants(times, len(pictures)), video):
                container.mux(video.encode(frame))
            container.mux(video.encode(None))
        if audio is not None and waveform is not None:
            for chunk in _chunks(waveform, rate, audio):
                container.mux(audio.encode(chunk))
            container.mux(audio.encode(None))
    return out.getvalue()


def _instants(times: Sequence[float] | float | int, count: int) -> Sequence[float]:
    return [i / times for i in range(count)] if isinstance(times, int | float) else times


def _video_track(container: Any, pictures: np.ndarray, times: Sequence[float] | float | int, encoding: Encoding) -> Any:
    codec, _, pixels = CODECS[encoding.format]
    rate = Fraction(times).limit_denominator(1001) if isinstance(times, int | float) else Fraction(25)
    quality = {"libx264": {"crf": str(encoding.quality), "sc_threshold": "0"}, "mpeg1video": {"qmax": "3"}}.get(
        codec, {}
    )
    options = {"threads": "1", **quality}
    track = container.add_stream(codec, rate=rate, options=options)
    track.height, track.width, track.pix_fmt = pictures.shape[1], pictures.shape[2], pixels
    context = track.codec_context
    context.gop_size, context.bit_rate = encoding.group, 2_000_000
    if codec in ("libx264", "mpeg1video"):
        context.max_b_frames = encoding.b_frames
    if encoding.format != "mpeg":  # whose pictures are counted, not timed
        context.time_base = Fraction(1, _TICKS if codec == "libx264" else 1000)
    if encoding.pixel_aspect != 1:
        context.sample_aspect_ratio = encoding.pixel_aspect
    if encoding.rotation or encoding.mirrored:
        track.set_display_rotation(encoding.rotation, hflip=encoding.mirrored)
    return track


def _audio_track(container: Any, channels: int, rate: int, encoding: Encoding) -> Any:
    layout = {1: "mono", 2: "stereo"}[channels]
    return container.add_stream(CODECS[encoding.format][1], rate=rate, layout=layout)


def _frames(pictures: np.ndarray, times: Sequence[float], track: Any) -> Any:
    base = track.codec_context.time_base or Fraction(1, _TICKS)
    for picture, time in zip(pictures, times, strict=True):
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
        frame.pts, frame.time_base = round(time / base), base
        yield frame


def _chunks(waveform: np.ndarray, rate: int, track: Any) -> Any:
    """Frames in the encoder's own sample format."""
    resampler = av.AudioResampler(format=track.codec_context.format.name, layout=track.layout, rate=rate)
    layout = {1: "mono", 2: "stereo"}[len(waveform)]
    for start in range(0, waveform.shape[1], _CHUNK):
        part = np.ascontiguousarray(waveform[:, start : start + _CHUNK], np.float32)
        frame = av.AudioFrame.from_ndarray(part, format="fltp", layout=layout)
        frame.sample_rate, frame.pts, frame.time_base = rate, start, Fraction(1, rate)
        yield from resampler.resample(frame)
    yield from resampler.resample(None)
