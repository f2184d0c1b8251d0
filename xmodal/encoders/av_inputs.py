"""Input adapters of the video and audio towers: from the fields of a batch to the arguments of an image backbone."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from xmodal.batch import Batch
from xmodal.encoders.inputs import CLIP_MEAN, CLIP_STD, ImageInput
from xmodal.errors import ConfigError

if TYPE_CHECKING:  # decoders need the extra `av`; a model that is given tensors does not
    from xmodal.data.decode.augment import Augment
    from xmodal.data.decode.fields import Field
    from xmodal.data.media.clip_window import ClipWindow


class VideoInput(nn.Module):
    """Turns uint8 clips [B, T, H, W, 3] into `pixel_values` float32 [B T, 3, H, W], frame after frame.

    Pixels are normalised as by `ImageInput`. `FIELD_mask` bool [B, T] says which frames are present. `seconds` and
    `margin` are the time span that the frames are taken from, if the model records it.
    """

    kind = "frames"

    def __init__(
        self,
        field: str,
        *,
        size: int,
        frames: int,
        mean: Sequence[float] = CLIP_MEAN,
        std: Sequence[float] = CLIP_STD,
        seconds: float | None = None,
        margin: float = 0.0,
    ) -> None:
        super().__init__()
        self.field, self.size, self.frames = field, size, frames
        self.seconds, self.margin = seconds, margin
        self.rows_per_sample = frames  # rows of the backbone's input for a row of the batch
        self.image_input = ImageInput(field, size=size, mean=mean, std=std)

    def forward(self, batch: Batch) -> dict[str, Float[Tensor, "R C H W"]]:
        """Return the normalised frames of all rows as `pixel_values`."""
        clips = batch.fields[self.field].flatten(0, 1)
        rows = torch.zeros(len(clips), dtype=torch.int64, device=clips.device)
        inputs: dict[str, Tensor] = self.image_input(Batch(rows, rows == 0, {self.field: clips}))
        return inputs

    def mask(self, batch: Batch) -> Bool[Tensor, "B T"]:
        """Return which frames are present."""
        return batch.fields[f"{self.field}_mask"]

    def example_fields(self, device: torch.device) -> dict[str, Tensor]:
        """Return one black clip, to probe a backbone with."""
        clip = torch.zeros(1, self.frames, self.size, self.size, 3, dtype=torch.uint8, device=device)
        return {self.field: clip, f"{self.field}_mask": torch.ones(1, self.frames, dtype=torch.bool, device=device)}

    def describe(self) -> dict[str, object]:
        """Return all settings as JSON."""
        window = {"seconds": self.seconds, "margin": self.margin}
        return {**self.image_input.describe(), "kind": self.kind, "frames": self.frames, **window}

    def build_field(self, tokenizer_json: str | None, augment: "Augment | None") -> "Field":
        """Return the decoder of a clip's frames; ConfigError where the seconds of the clip are not recorded."""
        from xmodal.data.media.video import VideoField

        window = _window(self.field, self.seconds, self.margin, is_random=augment is not None)
        return VideoField(frames=self.frames, size=self.size, window=window, augment=augment, name=self.field)


class AudioInput(nn.Module):
    """Turns log-mel spectrograms [B, L, M] into `pixel_values` [B, 1, M, L]: images M bands high and L frames wide.

    `mean` and `std` are those of the corpus, in the units of the log-mel. The first `FIELD_length` frames are audio;
    the rest is padding, which is set to the mean. A row without audio has no token. `rate` (Hz), `seconds` and `margin`
    are those of the audio, if the model records them.
    """

    kind = "spectrogram"
    rows_per_sample = 1

    def __init__(
        self,
        field: str,
        *,
        bands: int,
        frames: int,
        mean: float = 0.0,
        std: float = 1.0,
        rate: int = 16_000,
        seconds: float | None = None,
        margin: float = 0.0,
    ) -> None:
        super().__init__()
        self.field, self.bands, self.frames = field, bands, frames
        self.mean, self.std = float(mean), float(std)
        self.rate, self.seconds, self.margin = rate, seconds, margin

    def forward(self, batch: Batch) -> dict[str, Float[Tensor, "B C M L"]]:
        """Return the normalised spectrograms as `pixel_values`."""
        levels = (batch.fields[self.field].float() - self.mean) / self.std
        position = torch.arange(levels.shape[1], device=levels.device)
        is_audio = position < batch.fields[f"{self.field}_length"][:, None]
        levels = torch.where(is_audio[:, :, None], levels, torch.zeros_like(levels))
        return {"pixel_values": levels.transpose(1, 2)[:, None]}

    def mask(self, batch: Batch) -> Bool[Tensor, "B 1"]:
        """Return which rows have audio."""
        return (batch.fields[f"{self.field}_length"] > 0)[:, None]

    def example_fields(self, device: torch.device) -> dict[str, Tensor]:
        """Return one row at the mean level, to probe a backbone with."""
        levels = torch.full((1, self.frames, self.bands), self.mean, device=device)
        length = torch.full((1,), self.frames, dtype=torch.int32, device=device)
        return {self.field: levels, f"{self.field}_length": length}

    def describe(self) -> dict[str, object]:
        """Return all settings as JSON."""
        return {
            "kind": self.kind, "field": self.field, "bands": self.bands, "frames": self.frames,
            "mean": self.mean, "std": self.std, "rate": self.rate, "seconds": self.seconds, "margin": self.margin,
        }  # fmt: skip

    def build_field(self, tokenizer_json: str | None, augment: "Augment | None") -> "Field":
        """Return what makes spectrograms of recordings; ConfigError where the seconds are not recorded."""
        from xmodal.data.media.audio import AudioField
        from xmodal.data.media.mel import MelSpectrogram

        window = _window(self.field, self.seconds, self.margin, is_random=augment is not None)
        return AudioField(rate=self.rate, window=window, mel=MelSpectrogram(bands=self.bands), name=self.field)


def _window(field: str, seconds: float | None, margin: float, *, is_random: bool) -> "ClipWindow":
    """Return the time span of a clip: drawn in training, the same for video and audio; else in the middle."""
    from xmodal.data.media.clip_window import ClipWindow

    if seconds is None:
        raise ConfigError(f"the {field} tower does not say how many seconds of a clip it takes")
    return ClipWindow(seconds=seconds, position="random" if is_random else "centre", margin=margin)
