"""Small convolutional towers for the frames and for the audio of a clip."""

from collections.abc import Sequence

from xmodal.encoders.av_inputs import AudioInput, VideoInput
from xmodal.encoders.small_resnet import ConvConfig, ConvModel
from xmodal.encoders.tower import Tower
from xmodal.errors import ConfigError

GROUP_CHANNELS = 16  # channels normalised together


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
    """Build towers for `frames` images of `size` px and the log-mel of `bands` bands of the same `seconds` of a clip.

    A time span that the field map names is widened by `margin` seconds on both sides. `level` and `level_spread` are
    mean and standard deviation of the corpus's log-mel; `widths` are the channels of the stages, one block each.
    Features keep `video_grid` parts of each frame apart, frame after frame, and `audio_grid` parts of bands and time,
    so that where and when something happens is not lost. The heads have a bias: it removes what all clips have in
    common, which otherwise keeps all vectors close together for the first hundred steps.
    """
    audio_input = spectrogram_input(seconds, margin, rate, bands, level, level_spread)
    video_input = VideoInput("video", size=size, frames=frames, seconds=seconds, margin=margin)
    video_network, audio_network = (
        small_resnet(widths, channels=3, grid=video_grid),
        small_resnet(widths, channels=1, grid=audio_grid),
    )
    return {
        "video": Tower.with_head(video_input, video_network, dim, pooling="pooler", bias=True),
        "audio": Tower.with_head(audio_input, audio_network, dim, pooling="pooler", bias=True),
    }


def spectrogram_input(
    seconds: float, margin: float, rate: int, bands: int, level: float, level_spread: float
) -> AudioInput:
    """Build the input adapter of an audio tower; ConfigError for numbers that make no spectrogram."""
    if not level_spread > 0:
        raise ConfigError(f"level_spread={level_spread} must be positive")
    from xmodal.data.media.audio import AudioField  # the extra `av`, which other architectures do without
    from xmodal.data.media.clip_window import ClipWindow
    from xmodal.data.media.mel import MelSpectrogram

    field = AudioField(rate=rate, window=ClipWindow(seconds=seconds, margin=margin), mel=MelSpectrogram(bands=bands))
    length, _ = field.columns["audio"].shape
    return AudioInput(
        "audio", bands=bands, frames=length, mean=level, std=level_spread, rate=rate, seconds=seconds, margin=margin
    )


def small_resnet(widths: Sequence[int], *, channels: int, grid: Sequence[int] = (1, 1)) -> ConvModel:
    """Build a small residual network, a block for each of `widths`, whose features keep the parts of a `grid` apart."""
    if len(grid) != 2:
        raise ConfigError(f"a grid needs rows and columns, e.g. 4,8, not {','.join(map(str, grid))}")
    return ConvModel(
        ConvConfig(
            hidden_sizes=list(widths),
            depths=[1] * len(widths),
            stem_size=widths[0],
            group_size=min(GROUP_CHANNELS, *widths),
            num_channels=channels,
            grid=list(grid) if len(set(grid)) > 1 else grid[0],
        )
    )
