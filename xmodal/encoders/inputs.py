"""Input adapters of the image and text towers, which turn the fields of a batch into the arguments of a backbone."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from xmodal.batch import Batch
from xmodal.errors import ConfigError

if TYPE_CHECKING:  # decoders need the extra `data`; a model that is given tensors does not
    from xmodal.data.decode.augment import Augment
    from xmodal.data.decode.fields import Field

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@runtime_checkable
class InputAdapter(Protocol):
    """What a tower needs of an input adapter; a module of a user's own registers one with `register_input_adapter`.

    `kind` names the class in a model's config.json, `field` the field of the batch that it reads, and
    `rows_per_sample` how many rows of the backbone's input a row of the batch becomes.
    """

    kind: str
    field: str
    rows_per_sample: int

    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        """Return the keyword arguments of the backbone for a batch."""

    def mask(self, batch: Batch) -> Bool[Tensor, "B R"]:
        """Return which of the `rows_per_sample` parts of each row, or of its tokens, are present."""

    def example_fields(self, device: torch.device) -> dict[str, Tensor]:
        """Return the fields of a batch of one row, to probe a backbone with."""

    def describe(self) -> dict[str, object]:
        """Return `kind` and the arguments that build the adapter again, as JSON."""

    def build_field(self, tokenizer_json: str | None, augment: "Augment | None") -> "Field":
        """Return what decodes a row for this input: as at an evaluation, or with `augment` as in training."""


class ImageInput(nn.Module):
    """Turns uint8 images [B, H, W, 3] into `pixel_values` float32 [B, 3, H, W] of about zero mean and unit variance.

    Images are copied to the device as bytes, a quarter of float32, and normalised there. `mean` and `std` are in the
    0..1 scale, as in `preprocessor_config.json`.
    """

    kind = "pixels"
    rows_per_sample = 1  # of the backbone's input
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
        """Return the normalised images as `pixel_values`."""
        channels_first = batch.fields[self.field].permute(0, 3, 1, 2)  # a view: memory stays channels-last
        return {"pixel_values": (channels_first.float() - self.offset) / self.spread}

    def mask(self, batch: Batch) -> Bool[Tensor, "B 1"]:
        """Return true for every row: each has an image."""
        return torch.ones(len(batch), 1, dtype=torch.bool, device=batch.row.device)

    def example_fields(self, device: torch.device) -> dict[str, Tensor]:
        """Return one black image, to probe a backbone with."""
        return {self.field: torch.zeros(1, self.size, self.size, 3, dtype=torch.uint8, device=device)}

    def describe(self) -> dict[str, object]:
        """Return all settings as JSON."""
        return {
            "kind": self.kind,
            "field": self.field,
            "size": self.size,
            "mean": self.mean,
            "std": self.std,
        }

    def build_field(self, tokenizer_json: str | None, augment: "Augment | None") -> "Field":
        """Return the decoder of encoded images of this size."""
        from xmodal.data.decode.image import ImageField

        return ImageField(size=self.size, augment=augment, name=self.field)


class TextInput(nn.Module):
    """Turns int32 ids [B, L] and lengths [B] into `input_ids`, and `attention_mask` if the backbone needs one.

    A causal backbone that pools at the end token never sees what follows it, so it gets no mask (`masked=False`):
    attention may then use its causal kernel, and nothing reads the mask back from the device.
    """

    kind = "tokens"
    rows_per_sample = 1

    def __init__(self, field: str, *, size: int, masked: bool) -> None:
        super().__init__()
        self.field, self.size, self.masked = field, size, masked

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return the token ids, and the attention mask of a masked backbone."""
        ids = batch.fields[self.field].long()
        if not self.masked:
            return {"input_ids": ids}
        # At least one token is attended to: a padding row has none, and softmax over nothing is NaN.
        length = batch.fields[f"{self.field}_length"].clamp(min=1)
        mask = torch.arange(ids.shape[1], device=ids.device) < length[:, None]
        return {"input_ids": ids, "attention_mask": mask.long()}

    def mask(self, batch: Batch) -> Bool[Tensor, "B L"]:
        """Return which tokens are those of the caption, not padding."""
        position = torch.arange(batch.fields[self.field].shape[1], device=batch.row.device)
        return position < batch.fields[f"{self.field}_length"][:, None]

    def example_fields(self, device: torch.device) -> dict[str, Tensor]:
        """Return one row of token 0, to probe a backbone with."""
        ids = torch.zeros(1, self.size, dtype=torch.int32, device=device)
        return {self.field: ids, f"{self.field}_length": torch.full_like(ids[:, 0], self.size)}

    def describe(self) -> dict[str, object]:
        """Return all settings as JSON."""
        return {"kind": self.kind, "field": self.field, "size": self.size, "masked": self.masked}

    def build_field(self, tokenizer_json: str | None, augment: "Augment | None") -> "Field":
        """Return what turns captions into token ids; ConfigError without a tokenizer."""
        from xmodal.data.decode.text import TextField

        if tokenizer_json is None:
            raise ConfigError("a model that reads text needs its tokenizer")
        return TextField(tokenizer_json=tokenizer_json, length=self.size, name=self.field)
