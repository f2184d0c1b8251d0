"""Patch tokens in, a random part of them out, in training only (FLIP, Li et al. 2023)."""

import torch
from jaxtyping import Float
from torch import Tensor, nn


class PatchDropout:
    """Keeps the class token and `round((1 - rate) * P)`, at least one, of the P patches of each image.

    A forward hook of a ViT's `embeddings`: the model is not forked and its state names stay what they were.
    The position embeddings are already added, so order and gaps carry no meaning. Draws come from torch's default
    generator of the device: whoever seeds it per step gets the same patches again.
    """

    def __init__(self, rate: float) -> None:
        self.rate = rate

    def __call__(self, module: nn.Module, inputs: tuple, tokens: Float[Tensor, "B L W"]) -> Float[Tensor, "B K W"]:
        return self.drop(tokens) if module.training else tokens

    def drop(self, tokens: Float[Tensor, "B L W"]) -> Float[Tensor, "B K W"]:
        rows, patches = tokens.shape[0], tokens.shape[1] - 1
        kept = max(1, round((1 - self.rate) * patches))
        chosen = torch.rand(rows, patches, device=tokens.device).topk(kept, dim=1).indices
        chosen = chosen[:, :, None].expand(-1, -1, tokens.shape[2])
        return torch.cat((tokens[:, :1], tokens[:, 1:].gather(1, chosen)), dim=1)
