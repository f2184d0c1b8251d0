"""A model in, pictures and captions to compare it by out: what an export must give back as the model does."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from xmodal.batch import Batch
from xmodal.encoders.dual_encoder import DualEncoder

ROWS = 3


@dataclass(frozen=True, kw_only=True)
class Probe:
    """The same rows as our model reads them and as other libraries do, with our model's unit vectors."""

    batch: Batch
    pixel_values: Float[Tensor, "B C H W"]
    input_ids: Int64[Tensor, "B L"]  # no longer than the longest row
    attention_mask: Int64[Tensor, "B L"]
    image: Float[Tensor, "B D"]
    text: Float[Tensor, "B D"]


@torch.no_grad()
def probe(model: DualEncoder, rows: int = ROWS) -> Probe:
    """Random pictures and captions of several lengths, shorter than the model's context."""
    draw = torch.Generator().manual_seed(0)
    image, text = model.tower("image"), model.tower("text")
    size, context = image.intake.size, text.intake.size
    ids, length = _captions(text.backbone.config, rows, context, draw)
    fields = {
        "image": torch.randint(0, 256, (rows, size, size, 3), generator=draw, dtype=torch.uint8),
        "text": ids.int(),
        "text_length": length,
    }
    batch = Batch(torch.arange(rows), torch.ones(rows, dtype=torch.bool), fields)
    longest = int(length.max())
    return Probe(
        batch=batch,
        pixel_values=image.intake(batch)["pixel_values"],
        input_ids=ids[:, :longest],
        attention_mask=(torch.arange(longest) < length[:, None]).long(),
        image=model.encode("image", batch),
        text=model.encode("text", batch),
    )


def _captions(config: object, rows: int, context: int, draw: torch.Generator) -> tuple[Tensor, Tensor]:
    """Ids [rows, context] that end as the model's captions do, padded; and their lengths, the longest not full."""
    vocabulary, end, pad = (getattr(config, name, None) for name in ("vocab_size", "eos_token_id", "pad_token_id"))
    ids = torch.randint(0, int(vocabulary or 1), (rows, context), generator=draw)
    most = max(1, context - 1)
    length = (most - torch.arange(rows)).clamp(min=min(2, most))
    if isinstance(end, int):
        ids[ids == end] = (end + 1) % int(vocabulary or 1)
        ids[torch.arange(rows), length - 1] = end
    ids[torch.arange(context) >= length[:, None]] = pad or 0
    return ids, length.int()
