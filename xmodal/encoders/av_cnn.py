"""Sizes in, the towers of a clip's pictures and of its sound out: small convolutional networks, each on its own."""

from collections.abc import Sequence

from xmodal.data.media.audio import AudioField
from xmodal.data.media.clip_window import Window
from xmodal.data.media.mel import Mel
from xmodal.encoders.av_inputs import Frames, Spectrogram
from xmodal.encoders.small_resnet import ConvConfig, ConvModel
from xmodal.encoders.tower import Tower
from xmodal.errors import ConfigError

GROUP = 16  # channels normalised together


def av_towers(
    *,
    seconds: float = 1.0,
    margin: float = 0.0,
    frames: int = 8,
    size: int = 64,
    rate: int = 16_000,
    bands: int = 64,
    level: float = -4.0,
    level_spread: float = 2.0,
    widths: Sequence[int] = (32, 64, 128),
    video_grid: Sequence[int] = (2, 2),
    audio_grid: Sequence[int] = (4, 8),
    dim: int = 256,
) -> dict[str, Tower]:
    """`frames` pictures of `size` px and the log-mel of `bands` bands of the same `seconds` of a clip.

    An excerpt that the field map names is widened by `margin` seconds on both sides. `level` and `level_spread` are
    mean and standard deviation of the corpus's log-mel; `widths` the channels of the stages, one block each. What is
    seen stands in `video_grid` parts of each frame, frame after frame, what is heard in `audio_grid` parts of bands
    and time: where and when something happens is not forgotten. The heads have a bias: it takes away what all clips
    have in common, which without it keeps all vectors together for the first hundred steps.
    """
    sound = spectrogram(seconds, margin, rate, bands, level, level_spread)
    sight = Frames("video", size=size, frames=frames, seconds=seconds, margin=margin)
    video, audio = network(widths, channels=3, grid=video_grid), network(widths, channels=1, grid=audio_grid)
    return {
        "video": Tower.with_head(sight, video, dim, pooling="pooler", bias=True),
        "audio": Tower.with_head(sound, audio, dim, pooling="pooler", bias=True),
    }


def spectrogram(seconds: float, margin: float, rate: int, bands: int, level: float, level_spread: float) -> Spectrogram:
    """The intake of the sound of so many seconds; ConfigError for numbers that make no spectrogram."""
    if not level_spread > 0:
        raise ConfigError(f"level_spread={level_spread} must be positive")
    field = AudioField(rate=rate, window=Window(seconds=seconds, margin=margin), mel=Mel(bands=bands))
    length, _ = field.columns["audio"].shape
    return Spectrogram(
        "audio", bands=bands, frames=length, mean=level, std=level_spread, rate=rate, seconds=seconds, margin=margin
    )


def network(widths: Sequence[int], *, channels: int, grid: Sequence[int] = (1, 1)) -> ConvModel:
    """A small residual network, a block for each of `widths`, whose features keep the parts of a `grid` apart."""
    if len(grid) != 2:
        raise ConfigError(f"a grid is its rows and its columns, e.g. 4,8, not {','.join(map(str, grid))}")
    return ConvModel(
        ConvConfig(
            hidden_sizes=list(widths), depths=[1] * len(widths), stem_size=widths[0], group_size=min(GROUP, *widths),
            num_channels=channels, grid=list(grid) if len(set(grid)) > 1 else grid[0],
        )
    )  # fmt: skip
