"""One recording, or the sound of one clip, in; a log-mel spectrogram or waveform of fixed length and its length out."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import soxr
from jaxtyping import Float32

from xmodal.data.decode.fields import Column
from xmodal.data.media.audio_reader import Sound, open_sound
from xmodal.data.media.clip_window import Window, unpack
from xmodal.data.media.media_limits import MediaLimits
from xmodal.data.media.mel import FLOOR, Mel
from xmodal.data.media.video import media_bytes
from xmodal.errors import BadSample, ConfigError

DTYPES = ("float32", "float16")
SILENCE = float(np.log10(FLOOR))


@dataclass(frozen=True, kw_only=True)
class AudioField:
    """Columns `name` and `name_length` int32: how much of `name` is sound; the rest is silence.

    `name` is a log-mel spectrogram [frames, bands] (silence is -10), or with `mel=None` the waveform [samples];
    channels are averaged. Its length is that of the window; with a window equal to a `VideoField`'s, both are of the
    same seconds of a clip.

    BadSample: `missing_member`, `not_a_video`, `no_audio_track`, `unknown_codec`, `too_large`, `too_long`,
    `bad_window`, `decode_truncated`, `decode_corrupt`, `not_finite`.
    """

    name: str = "audio"
    rate: int = 16_000  # Hz
    window: Window = field(default_factory=lambda: Window(seconds=3.0))
    mel: Mel | None = field(default_factory=Mel)
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
        shape = (self.mel.frames(self.samples, self.rate), self.mel.bands) if self.mel else (self.samples,)
        return {
            self.name: Column(dtype=self.dtype, shape=shape),
            f"{self.name}_length": Column(dtype="int32", shape=()),
        }

    def decode(self, raw: Any, rng: np.random.Generator, out: dict[str, np.ndarray]) -> None:
        """Write the sound of `raw` (bytes of a recording or container, or an `Excerpt`) into the two columns."""
        encoded, excerpt = unpack(raw)
        sound = open_sound(media_bytes(encoded, self.name), self.limits)
        heard = sound.read(self.window.choose(sound.span, excerpt, rng))
        if not np.isfinite(heard.samples).all():
            raise BadSample("not_finite", "NaN or infinite samples")
        waveform = self._resampled(heard)
        if len(waveform) == 0:
            raise BadSample("bad_window", "no sound in the window")
        length = len(waveform) if self.mel is None else self.mel.frames(len(waveform), self.rate)
        row = out[self.name]
        row[length:] = 0 if self.mel is None else SILENCE
        row[:length] = waveform if self.mel is None else self.mel.log_mel(waveform, self.rate)
        out[f"{self.name}_length"][...] = length

    def _resampled(self, sound: Sound) -> Float32[np.ndarray, "S"]:
        """At most `samples` samples at `rate`; the k-th is of the k-th instant, whatever the recording's rate."""
        if sound.rate == self.rate or len(sound.samples) == 0:
            return sound.samples[: self.samples]
        return soxr.resample(sound.samples, sound.rate, self.rate)[: self.samples]
