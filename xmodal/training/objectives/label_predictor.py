"""A linear classifier on the embeddings of one modality, and cross-entropy over the labelled rows of all ranks."""

import torch.distributed as dist
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn, stack
from torch.nn import functional as F

from xmodal.distributed.ranks import world_size

Scores = dict[str, Float[Tensor, "B C"]]


class LabelPredictor(nn.Module):
    """The label predictor of Ganin et al. 2016 on unit rows of `modality`; `weight` is the weight of its loss."""

    def __init__(self, modality: str, dim: int, classes: int, *, weight: float = 1.0) -> None:
        super().__init__()
        self.modality, self.weight = modality, weight
        self.head = nn.Linear(dim, classes)
        self.accuracy: Float[Tensor, ""] | None = None  # on the rows of the last forward of all ranks

    def forward(
        self, rows: Float[Tensor, "B D"], label: Int64[Tensor, "B"], valid: Bool[Tensor, "B"]
    ) -> Float[Tensor, ""]:
        """Return this rank's share of the unweighted mean; rows of class -1 have no label and are ignored."""
        losses, accuracy = classification_losses({"label": self.head(rows)}, label, valid)
        self.accuracy = accuracy["label"]
        return losses["label"]


def classification_losses(
    scores: Scores, label: Int64[Tensor, "B"], valid: Bool[Tensor, "B"]
) -> tuple[dict[str, Float[Tensor, ""]], dict[str, Float[Tensor, ""]]]:
    """Return cross-entropies and accuracies by the name of the scores.

    A cross-entropy is this rank's share of the mean over the rows of all ranks that have a class; an accuracy is the
    fraction of these rows that are classified correctly, in [0, 1].
    """
    counted = valid & (label >= 0)
    hits = [((score.detach().argmax(1) == label) & counted).sum() for score in scores.values()]
    counts = stack([counted.sum(), *hits]).double()
    if (world := world_size()) > 1:
        dist.all_reduce(counts)
    number = counts[0].clamp(min=1)
    share = (world / number).float()
    losses = {name: share * sum_cross_entropy(score, label, counted) for name, score in scores.items()}
    return losses, dict(zip(scores, counts[1:] / number, strict=True))


def sum_cross_entropy(
    score: Float[Tensor, "B C"], label: Int64[Tensor, "B"], counted: Bool[Tensor, "B"]
) -> Float[Tensor, ""]:
    """Return the sum of the cross-entropy over the rows that count; other rows may have any label and any score."""
    row_losses = F.cross_entropy(score, label.clamp(min=0), reduction="none")
    return row_losses.masked_fill(~counted, 0.0).sum()
