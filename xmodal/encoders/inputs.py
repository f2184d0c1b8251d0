"""A batch in, the keyword arguments of a backbone out; what must happen on the device happens here."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from xmodal.batch import Batch

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


class Pixels(nn.Module):
    """uint8 images [B, H, W, 3] -> `pixel_values` float32 [B, 3, H, W] of about zero mean and unit variance.

    Images cross the bus as bytes, a quarter of float32, and are normalised where they are used. `mean` and `std` are
    those of the 0..1 scale, as `preprocessor_config.json` states them.
    """

    kind = "pixels"
    parts = 1  # rows of the backbone's input for a row of the batch
    offset: Tensor
    spread: Tensor

    def __init__(
        self, field: str, *, size: int, mean: Sequence[float] = CLIP_MEAN, std: Sequence[float] = CLIP_STD
    ) -> None:
        super().__init__()
        self.field, self.size = field, size
        self.mean, self.std = [float(m) for m in mean], [float(s) for s in std]
        # Not persistent: these are part of the description, and a CLIP checkpoint has no such tensors.
        self.register_buffer("offset", 255 * torch.tensor(self.mean)[:, None, None], persistent=False)
        self.register_buffer("spread", 255 * torch.tensor(self.std)[:, None, None], persistent=False)

    def forward(self, batch: Batch) -> dict[str, Float[Tensor, "B C H W"]]:
        channels_first = batch.fields[self.field].permute(0, 3, 1, 2)  # a view: memory stays channels-last
        return {"pixel_values": (channels_first.float() - self.offset) / self.spread}

    def present(self, batch: Batch) -> Bool[Tensor, "B 1"]:
        """Every row has its picture."""
        return torch.ones(len(batch), 1, dtype=torch.bool, device=batch.row.device)

    def example(self, device: torch.device) -> dict[str, Tensor]:
        """One black image, for probing a backbone."""
        return {self.field: torch.zeros(1, self.size, self.size, 3, dtype=torch.uint8, device=device)}

    def describe(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "field": self.field,
            "size": self.size,
            "mean": self.mean,
            "std": self.std,
        }


class Tokens(nn.Module):
    """int32 ids [B, L] and lengths [B] -> `input_ids`, and `attention_mask` where the backbone needs one.

    A causal backbone pooled at the end token never sees what comes after it, so it takes no mask
    (`masked=False`): attention may then use its causal kernel, and nothing reads the mask back from the device.
    """

    kind = "tokens"
    parts = 1

    def __init__(self, field: str, *, size: int, masked: bool) -> None:
        super().__init__()
        self.field, self.size, self.masked = field, size, masked

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        ids = batch.fields[self.field].long()
        if not self.masked:
            return {"input_ids": ids}
        # At least one token is attended: a padding row has none, and softmax over nothing is NaN.
        length = batch.fields[f"{self.field}_length"].clamp(min=1)
        mask = torch.arange(ids.shape[1], device=ids.device) < length[:, None]
        return {"input_ids": ids, "attention_mask": mask.long()}

    def example(self, device: torch.device) -> dict[str, Tensor]:
        """One row of token 0, for probing a backbone."""
        ids = torch.zeros(1, self.size, dtype=torch.int32, device=device)
        return {self.field: ids, f"{self.field}_length": torch.full_like(ids[:, 0], self.size)}

    def describe(self) -> dict[str, Any]:
        return {"kind": self.kind, "field": self.field, "size": self.size, "masked": self.masked}
