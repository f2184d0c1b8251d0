"""Inputs with the embeddings that a model gives them: what an exported copy of the model must reproduce."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from xmodal.batch import Batch
from xmodal.encoders.dual_encoder import DualEncoder

ROWS = 3


@dataclass(frozen=True, kw_only=True)
class ProbeBatch:
    """The same rows as inputs of our model (`batch`) and of other libraries, with our model's unit vectors."""

    batch: Batch
    pixel_values: Float[Tensor, "B C H W"]
    input_ids: Int64[Tensor, "B L"]  # no longer than the longest row
    attention_mask: Int64[Tensor, "B L"]
    image: Float[Tensor, "B D"]
    text: Float[Tensor, "B D"]


@torch.no_grad()
def probe_batch(model: DualEncoder, rows: int = ROWS) -> ProbeBatch:
    """Return random images and captions of several lengths, shorter than the model's context, with their embeddings."""
    generator = torch.Generator().manual_seed(0)
    image, text = model.tower("image"), model.tower("text")
    size, context = image.input_adapter.size, text.input_adapter.size
    ids, length = _random_captions(text.backbone.config, rows, context, generator)
    fields = {
        "image": torch.randint(0, 256, (rows, size, size, 3), generator=generator, dtype=torch.uint8),
        "text": ids.int(),
        "text_length": length,
    }
    batch = Batch(torch.arange(rows), torch.ones(rows, dtype=torch.bool), fields)
    longest = int(length.max())
    return ProbeBatch(
        batch=batch,
        pixel_values=image.input_adapter(batch)["pixel_values"],
        input_ids=ids[:, :longest],
        attention_mask=(torch.arange(longest) < length[:, None]).long(),
        image=model.encode("image", batch),
        text=model.encode("text", batch),
    )


def _random_captions(config: object, rows: int, context: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return token ids [rows, context] that end with the model's end token, padded, and their lengths."""
    vocabulary, end, pad = (getattr(config, name, None) for name in ("vocab_size", "eos_token_id", "pad_token_id"))
    ids = torch.randint(0, int(vocabulary or 1), (rows, context), generator=generator)
    longest = max(1, context - 1)
    length = (longest - torch.arange(rows)).clamp(min=min(2, longest))
    if isinstance(end, int):
        ids[ids == end] = (end + 1) % int(vocabulary or 1)
        ids[torch.arange(rows), length - 1] = end
    ids[torch.arange(context) >= length[:, None]] = pad or 0
    return ids, length.int()
