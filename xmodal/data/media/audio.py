"""Decode audio, from a recording or a video, into a log-mel spectrogram or a waveform of fixed length."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import soxr
from jaxtyping import Float32

from xmodal.data.decode.fields import Column
from xmodal.data.media.audio_reader import AudioSegment, open_audio
from xmodal.data.media.clip_window import ClipWindow, split_time_span
from xmodal.data.media.media_limits import MediaLimits
from xmodal.data.media.mel import POWER_FLOOR, MelSpectrogram
from xmodal.data.media.video import media_bytes
from xmodal.errors import BadSample, ConfigError

DTYPES = ("float32", "float16")
SILENCE = float(np.log10(POWER_FLOOR))


@dataclass(frozen=True, kw_only=True)
class AudioField:
    """Decode audio into the columns `name` and `name_length` int32 (how much of `name` is audio; the rest is silence).

    `name` is a log-mel spectrogram [frames, bands] (silence is -10), or with `mel=None` the waveform [samples].
    Channels are averaged. Its length is that of the window. If a `VideoField` has an equal window, both take the same
    seconds of a clip.

    BadSample: `missing_member`, `not_a_video`, `no_audio_track`, `unknown_codec`, `too_large`, `too_long`,
    `bad_window`, `decode_truncated`, `decode_corrupt`, `not_finite`.
    """

    name: str = "audio"
    rate: int = 16_000  # Hz
    window: ClipWindow = field(default_factory=lambda: ClipWindow(seconds=3.0))
    mel: MelSpectrogram | None = field(default_factory=MelSpectrogram)
    dtype: str = "float32"
    limits: MediaLimits = field(default_factory=MediaLimits)

    def __post_init__(self) -> None:
        if self.window.seconds is None:
            raise ConfigError("audio: the window needs its seconds: they are the length of every row")
        if not 1_000 <= self.rate <= 384_000:
            raise ConfigError(f"audio: rate={self.rate} must lie in 1000..384000 Hz")
        if self.dtype not in DTYPES:
            raise ConfigError(f"audio: dtype={self.dtype!r} must be one of {', '.join(DTYPES)}")
        if self.mel and not self.mel.lowest_hz < (self.mel.highest_hz or self.rate / 2) <= self.rate / 2:
            raise ConfigError(
                f"audio: the mel bands must end at or below {self.rate / 2:g} Hz, half of rate={self.rate}"
            )

    @cached_property
    def samples(self) -> int:
        """Samples of a row at `rate`."""
        return max(1, round((self.window.seconds or 0.0) * self.rate))

    @property
    def columns(self) -> dict[str, Column]:
        shape = (self.mel.frame_count(self.samples, self.rate), self.mel.bands) if self.mel else (self.samples,)
        return {
            self.name: Column(dtype=self.dtype, shape=shape),
            f"{self.name}_length": Column(dtype="int32", shape=()),
        }

    def decode(self, raw: Any, rng: np.random.Generator, out: dict[str, np.ndarray]) -> None:
        """Decode the audio in `raw` (bytes of a recording or container, or a `ValueWithSpan`) into the two columns."""
        encoded, region = split_time_span(raw)
        reader = open_audio(media_bytes(encoded, self.name), self.limits)
        segment = reader.read(self.window.choose(reader.span, region, rng))
        if not np.isfinite(segment.samples).all():
            raise BadSample("not_finite", "NaN or infinite samples")
        waveform = self._resample(segment)
        if len(waveform) == 0:
            raise BadSample("bad_window", "no audio in the window")
        length = len(waveform) if self.mel is None else self.mel.frame_count(len(waveform), self.rate)
        row = out[self.name]
        row[length:] = 0 if self.mel is None else SILENCE
        row[:length] = waveform if self.mel is None else self.mel.log_mel(waveform, self.rate)
        out[f"{self.name}_length"][...] = length

    def _resample(self, segment: AudioSegment) -> Float32[np.ndarray, "S"]:
        """Return at most `samples` samples at `rate`."""
        if segment.rate == self.rate or len(segment.samples) == 0:
            return segment.samples[: self.samples]
        waveform: np.ndarray = soxr.resample(segment.samples, segment.rate, self.rate)
        return waveform[: self.samples]
