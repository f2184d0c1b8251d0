"""Embeddings of one modality and the classes of some rows in; the cross-entropy of a linear head over all ranks out."""

import torch.distributed as dist
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn, stack
from torch.nn import functional as F

from xmodal.distributed.ranks import Group, world_size

Scores = dict[str, Float[Tensor, "B C"]]


class LabelPredictor(nn.Module):
    """The label predictor of Ganin et al. 2016 on unit rows of `modality`; `weight` is that of its loss."""

    def __init__(self, modality: str, dim: int, classes: int, *, weight: float = 1.0) -> None:
        super().__init__()
        self.modality, self.weight = modality, weight
        self.head = nn.Linear(dim, classes)
        self.accuracy: Float[Tensor, ""] | None = None  # on the last rows, of all ranks

    def forward(
        self, rows: Float[Tensor, "B D"], label: Int64[Tensor, "B"], valid: Bool[Tensor, "B"], group: Group
    ) -> Float[Tensor, ""]:
        """This rank's share of the mean, without its weight; a row of class -1 has none and counts for nothing."""
        losses, accuracy = of_classes({"label": self.head(rows)}, label, valid, group)
        self.accuracy = accuracy["label"]
        return losses["label"]


def of_classes(
    scores: Scores, label: Int64[Tensor, "B"], valid: Bool[Tensor, "B"], group: Group
) -> tuple[dict[str, Float[Tensor, ""]], dict[str, Float[Tensor, ""]]]:
    """By the name of the scores: this rank's share of the mean cross-entropy over the rows of all ranks that have a
    class, and the share of these that are right."""
    counted = valid & (label >= 0)
    hits = [((score.detach().argmax(1) == label) & counted).sum() for score in scores.values()]
    counts = stack([counted.sum(), *hits]).double()
    if (world := world_size(group)) > 1:
        dist.all_reduce(counts, group=group)
    number = counts[0].clamp(min=1)
    share = (world / number).float()
    losses = {name: share * cross_entropy(score, label, counted) for name, score in scores.items()}
    return losses, dict(zip(scores, counts[1:] / number, strict=True))


def cross_entropy(
    score: Float[Tensor, "B C"], label: Int64[Tensor, "B"], counted: Bool[Tensor, "B"]
) -> Float[Tensor, ""]:
    """The sum over the rows that count; a row that does not may hold any label and any score."""
    each = F.cross_entropy(score, label.clamp(min=0), reduction="none")
    return each.masked_fill(~counted, 0.0).sum()
