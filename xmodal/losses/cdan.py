"""Features conditioned on class predictions, for a domain critic that aligns class by class (CDAN).

N: rows.  D: width of the features.  K: classes, or captions of a bank.  A critic on features alone may match the dogs
of one domain with the cats of the other; a critic on feature x prediction does so less easily (Long et al. 2018).

    predictions = bank_probabilities(features, bank, temperature)       # or the probabilities of a label predictor
    logits = critic(conditioning(reverse_gradient(features, strength), predictions))
    weights = entropy_weights(predictions)
    adversarial_loss(logits[:s], logits[s:], ..., weight_source=weights[:s], weight_target=weights[s:])
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

MAX_WIDTH = 4096  # a wider outer product is projected to this width (Long et al. 2018, §3.3)


class MultilinearConditioning(nn.Module):
    """Combine features [N, D] and class probabilities [N, K] into the input of a domain critic [N, `width`].

    Returns the outer product of both if D x K is at most `MAX_WIDTH`. Otherwise returns (1/sqrt(w)) (F f) * (G g) with
    w = `MAX_WIDTH` and fixed Gaussian matrices F and G (eq. 6 of the paper), whose inner products equal those of the
    outer product in expectation. The matrices are buffers drawn from `seed`: equal on all ranks and part of a
    checkpoint. Predictions are constants: no gradient flows to the module that made them.

    >>> conditioning = MultilinearConditioning(dim=2, classes=3)
    >>> conditioning(torch.ones(4, 2), torch.full((4, 3), 1 / 3)).shape
    torch.Size([4, 6])
    """

    of_features: Tensor
    of_predictions: Tensor

    def __init__(self, dim: int, classes: int, *, seed: int = 0) -> None:
        super().__init__()
        self.width = min(dim * classes, MAX_WIDTH)
        self.projects = dim * classes > MAX_WIDTH
        if self.projects:
            random = torch.Generator().manual_seed(seed)
            self.register_buffer("of_features", torch.randn(dim, self.width, generator=random))
            self.register_buffer("of_predictions", torch.randn(classes, self.width, generator=random))

    def forward(self, features: Float[Tensor, "N D"], predictions: Float[Tensor, "N K"]) -> Float[Tensor, "N W"]:
        """Return the conditioned features; gradients flow to `features` only."""
        probabilities = predictions.detach().to(features.dtype)
        if not self.projects:
            return (probabilities[:, :, None] * features[:, None, :]).flatten(1)
        return (features @ self.of_features) * (probabilities @ self.of_predictions) / math.sqrt(self.width)


def bank_probabilities(
    embeddings: Float[Tensor, "N D"], bank: Float[Tensor, "K D"], temperature: float
) -> Float[Tensor, "N K"]:
    """Return probabilities over a bank of captions or classes: the softmax of cosine / temperature.

    Rows of `embeddings` and `bank` are unit vectors. `temperature` is above 0 and fixed: a model could appear confident
    by shrinking a trained one.
    """
    return (embeddings @ bank.to(embeddings.dtype).T / temperature).softmax(1)


def entropy_weights(predictions: Float[Tensor, "N K"]) -> Float[Tensor, "N"]:
    """Return weights 1 + exp(-entropy) in (1, 2], as constants: confident rows count more (CDAN+E, eq. 7).

    >>> entropy_weights(torch.tensor([[1.0, 0.0], [0.5, 0.5]]))
    tensor([2.0000, 1.5000])
    """
    probabilities = predictions.detach()
    return 1 + torch.exp(torch.xlogy(probabilities, probabilities).sum(1))
