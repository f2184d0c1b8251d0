"""Patch dropout: training on a random part of the patch tokens (FLIP, Li et al. 2023)."""

import torch
from jaxtyping import Float
from torch import Tensor, nn


class PatchDropout:
    """Keeps the class token and `round((1 - rate) * P)`, at least one, of the P patches of each image.

    It is a forward hook of a ViT's `embeddings`: the model is not forked and its state names do not change. The
    position embeddings are already added, so the order of tokens does not matter. Draws come from torch's default
    generator of the device: seed it per step to get the same patches again.
    """

    def __init__(self, rate: float) -> None:
        self.rate = rate

    def __call__(
        self, module: nn.Module, inputs: tuple[object, ...], tokens: Float[Tensor, "B L W"]
    ) -> Float[Tensor, "B K W"]:
        """Drop tokens in training mode; in evaluation mode return them all."""
        return self.drop(tokens) if module.training else tokens

    def drop(self, tokens: Float[Tensor, "B L W"]) -> Float[Tensor, "B K W"]:
        """Return the class token and a random part of the others."""
        rows, patches = tokens.shape[0], tokens.shape[1] - 1
        count = max(1, round((1 - self.rate) * patches))
        index = torch.rand(rows, patches, device=tokens.device).topk(count, dim=1).indices
        index = index[:, :, None].expand(-1, -1, tokens.shape[2])
        return torch.cat((tokens[:, :1], tokens[:, 1:].gather(1, index)), dim=1)
