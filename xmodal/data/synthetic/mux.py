"""Encode frames and a waveform as one audio-video container.

Equal arguments give equal bytes: there is one encoder thread, and no time of day in the header.
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

CODECS = {  # container -> video codec, audio codec, pixel format
    "mp4": ("libx264", "aac", "yuv420p"),
    "mov": ("libx264", "aac", "yuv420p"),
    "matroska": ("libx264", "aac", "yuv420p"),
    "webm": ("libvpx", "libopus", "yuv420p"),
    "mpeg": ("mpeg1video", "mp2", "yuv420p"),
}
_TICKS = 90_000  # per second
_CHUNK = 1024  # samples passed to the audio encoder at once


@dataclass(frozen=True, kw_only=True)
class ClipEncoding:
    """How tracks are encoded."""

    format: str = "mp4"  # a key of CODECS
    keyframe_interval: int = 12  # frames from one keyframe to the next
    b_frames: int = 2
    quality: int = 20  # x264's constant rate factor
    rotation: int = 0  # degrees to the left, in the header
    hflip: bool = False
    pixel_aspect: Fraction = Fraction(1)

    def __post_init__(self) -> None:
        if self.format not in CODECS:
            raise ConfigError(f"no container {self.format!r} to write; {nearest(self.format, CODECS)}")


def mux(
    images: UInt8[np.ndarray, "T H W 3"] | None,
    times: Sequence[float] | float | int,
    waveform: Float32[np.ndarray, "channels S"] | None,
    rate: int = 16_000,
    encoding: ClipEncoding | None = None,
) -> bytes:
    """Return the bytes of a container with RGB frames and audio; either may be None.

    `times` are the seconds at which the frames are shown, or a number of frames per second. The audio begins at 0 s and
    has `rate` samples per second.
    """
    encoding = encoding or ClipEncoding()
    out = io.BytesIO()
    flags = {"fflags": "+bitexact"}
    with av.open(out, "w", format=encoding.format, container_options=flags) as container:
        video = None if images is None else _video_track(container, images, times, encoding)
        audio = None if waveform is None else _audio_track(container, len(waveform), rate, encoding)
        if video is not None and images is not None:
            for frame in _frames(images, _frame_times(times, len(images)), video):
                container.mux(video.encode(frame))
            container.mux(video.encode(None))
        if audio is not None and waveform is not None:
            for chunk in _chunks(waveform, rate, audio):
                container.mux(audio.encode(chunk))
            container.mux(audio.encode(None))
    return out.getvalue()


def _frame_times(times: Sequence[float] | float | int, count: int) -> Sequence[float]:
    return [i / times for i in range(count)] if isinstance(times, int | float) else times


def _video_track(
    container: Any, images: np.ndarray, times: Sequence[float] | float | int, encoding: ClipEncoding
) -> Any:
    codec, _, pixel_format = CODECS[encoding.format]
    rate = Fraction(times).limit_denominator(1001) if isinstance(times, int | float) else Fraction(25)
    quality = {"libx264": {"crf": str(encoding.quality), "sc_threshold": "0"}, "mpeg1video": {"qmax": "3"}}.get(
        codec, {}
    )
    options = {"threads": "1", **quality}
    track = container.add_stream(codec, rate=rate, options=options)
    track.height, track.width, track.pix_fmt = images.shape[1], images.shape[2], pixel_format
    context = track.codec_context
    context.gop_size, context.bit_rate = encoding.keyframe_interval, 2_000_000
    if codec in ("libx264", "mpeg1video"):
        context.max_b_frames = encoding.b_frames
    if encoding.format != "mpeg":  # which counts frames instead of timing them
        context.time_base = Fraction(1, _TICKS if codec == "libx264" else 1000)
    if encoding.pixel_aspect != 1:
        context.sample_aspect_ratio = encoding.pixel_aspect
    if encoding.rotation or encoding.hflip:
        track.set_display_rotation(encoding.rotation, hflip=encoding.hflip)
    return track


def _audio_track(container: Any, channels: int, rate: int, encoding: ClipEncoding) -> Any:
    layout = {1: "mono", 2: "stereo"}[channels]
    return container.add_stream(CODECS[encoding.format][1], rate=rate, layout=layout)


def _frames(images: np.ndarray, times: Sequence[float], track: Any) -> Any:
    time_base = track.codec_context.time_base or Fraction(1, _TICKS)
    for image, time in zip(images, times, strict=True):
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
        frame.pts, frame.time_base = round(time / time_base), time_base
        yield frame


def _chunks(waveform: np.ndarray, rate: int, track: Any) -> Any:
    """Yield audio frames in the encoder's sample format."""
    resampler = av.AudioResampler(format=track.codec_context.format.name, layout=track.layout, rate=rate)
    layout = {1: "mono", 2: "stereo"}[len(waveform)]
    for start in range(0, waveform.shape[1], _CHUNK):
        part = np.ascontiguousarray(waveform[:, start : start + _CHUNK], np.float32)
        frame = av.AudioFrame.from_ndarray(part, format="fltp", layout=layout)
        frame.sample_rate, frame.pts, frame.time_base = rate, start, Fraction(1, rate)
        yield from resampler.resample(frame)
    yield from resampler.resample(None)
