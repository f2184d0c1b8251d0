"""Clips and spectrograms of a batch in, the keyword arguments of an image backbone out; masks of what is there."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from xmodal.batch import Batch
from xmodal.encoders.inputs import CLIP_MEAN, CLIP_STD, Pixels


class Frames(nn.Module):
    """uint8 clips [B, T, H, W, 3] -> `pixel_values` float32 [B T, 3, H, W], frame after frame, as `Pixels`.

    `FIELD_mask` bool [B, T] says which frames are there. `seconds` and `margin` are the window that they were taken
    from, where the model is to say it.
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
        self.parts = frames  # rows of the backbone's input for a row of the batch
        self.pixels = Pixels(field, size=size, mean=mean, std=std)

    def forward(self, batch: Batch) -> dict[str, Float[Tensor, "R C H W"]]:
        clips = batch.fields[self.field].flatten(0, 1)
        rows = torch.zeros(len(clips), dtype=torch.int64, device=clips.device)
        return self.pixels(Batch(rows, rows == 0, {self.field: clips}))

    def present(self, batch: Batch) -> Bool[Tensor, "B T"]:
        return batch.fields[f"{self.field}_mask"]

    def example(self, device: torch.device) -> dict[str, Tensor]:
        """One black clip, for probing a backbone."""
        clip = torch.zeros(1, self.frames, self.size, self.size, 3, dtype=torch.uint8, device=device)
        return {self.field: clip, f"{self.field}_mask": torch.ones(1, self.frames, dtype=torch.bool, device=device)}

    def describe(self) -> dict[str, Any]:
        window = {"seconds": self.seconds, "margin": self.margin}
        return {**self.pixels.describe(), "kind": self.kind, "frames": self.frames, **window}


class Spectrogram(nn.Module):
    """log-mel [B, L, M] -> `pixel_values` [B, 1, M, L]: a picture of one channel, M mel bands high, L frames wide.

    `mean` and `std` are those of the corpus, in the units of the log-mel. The `FIELD_length` first frames are sound,
    the rest is padding, which is set to the mean. A row without any has no token. `rate` (Hz), `seconds` and `margin`
    are those of the sound, where the model is to say it.
    """

    kind = "spectrogram"
    parts = 1

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
        levels = (batch.fields[self.field].float() - self.mean) / self.std
        place = torch.arange(levels.shape[1], device=levels.device)
        sound = place < batch.fields[f"{self.field}_length"][:, None]
        levels = torch.where(sound[:, :, None], levels, torch.zeros_like(levels))
        return {"pixel_values": levels.transpose(1, 2)[:, None]}

    def present(self, batch: Batch) -> Bool[Tensor, "B 1"]:
        return (batch.fields[f"{self.field}_length"] > 0)[:, None]

    def example(self, device: torch.device) -> dict[str, Tensor]:
        """One row of noiseless sound, for probing a backbone."""
        levels = torch.full((1, self.frames, self.bands), self.mean, device=device)
        length = torch.full((1,), self.frames, dtype=torch.int32, device=device)
        return {self.field: levels, f"{self.field}_length": length}

    def describe(self) -> dict[str, Any]:
        return {
            "kind": self.kind, "field": self.field, "bands": self.bands, "frames": self.frames,
            "mean": self.mean, "std": self.std, "rate": self.rate, "seconds": self.seconds, "margin": self.margin,
        }  # fmt: skip
