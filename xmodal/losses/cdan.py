"""Features conditioned on what they are taken for, for a critic that aligns class by class (CDAN).

N: rows.  D: width of the features.  K: classes, or captions of a bank.  A critic on features alone may match the dogs
of one domain with the cats of the other; one that reads feature x prediction may not so easily (Long et al. 2018).

    predictions = assignments(features, bank, temperature)              # or a label predictor's probabilities
    logits = critic(conditioning(reverse(features, strength), predictions))
    adversarial(logits[:s], logits[s:], ..., weight_source=certainty(predictions[:s]), weight_target=...)
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

MOST = 4096  # entries of an outer product; more are projected (Long et al. 2018, §3.3)


class Conditioning(nn.Module):
    """Features [N, D] and probabilities [N, K] in, what the critic reads [N, `width`] out.

    The outer product of both where D x K is at most `MOST`, else (1/sqrt(w)) (F f) * (G g) with fixed Gaussian F and G
    and w = `MOST` (eq. 6 of the paper), whose inner products are those of the outer product in the mean. The
    matrices are buffers drawn from `seed`, so they are alike on all ranks and part of a checkpoint. Predictions are
    constants: no gradient reaches what made them.
    """

    of_features: Tensor
    of_predictions: Tensor

    def __init__(self, dim: int, classes: int, *, seed: int = 0) -> None:
        super().__init__()
        self.width = min(dim * classes, MOST)
        self.projects = dim * classes > MOST
        if self.projects:
            random = torch.Generator().manual_seed(seed)
            self.register_buffer("of_features", torch.randn(dim, self.width, generator=random))
            self.register_buffer("of_predictions", torch.randn(classes, self.width, generator=random))

    def forward(self, features: Float[Tensor, "N D"], predictions: Float[Tensor, "N K"]) -> Float[Tensor, "N W"]:
        known = predictions.detach().to(features.dtype)
        if not self.projects:
            return (known[:, :, None] * features[:, None, :]).flatten(1)
        return (features @ self.of_features) * (known @ self.of_predictions) / self.width**0.5


def assignments(
    embeddings: Float[Tensor, "N D"], bank: Float[Tensor, "K D"], temperature: float
) -> Float[Tensor, "N K"]:
    """Probabilities over a bank of captions or classes (unit rows, as the embeddings): softmax of cosine / temperature.

    `temperature` is above 0 and fixed: a trained one would let a model look sure by growing it.
    """
    return (embeddings @ bank.to(embeddings.dtype).T / temperature).softmax(1)


def certainty(predictions: Float[Tensor, "N K"]) -> Float[Tensor, "N"]:
    """Weights 1 + exp(-entropy) in (1, 2], constants: rows that are surely something count more (CDAN+E, eq. 7)."""
    known = predictions.detach()
    return 1 + torch.exp(torch.xlogy(known, known).sum(1))
