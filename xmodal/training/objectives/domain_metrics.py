"""Metrics of domain adaptation: how far the domains' features lie apart, and how strongly a domain loss pulls."""

from collections.abc import Collection, Iterable, Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from xmodal.distributed.rank_consistency import all_reduce_sum
from xmodal.training.objectives.gradient_norms import GradientNorms


class DomainMetrics:
    """Collects, for each modality since `reset`, the mean features of both domains and the gradients at the features.

    `MODALITY/gradient_ratio` is the norm of the domain losses' gradient divided by that of the task's gradient.
    `MODALITY/source_spread` and `MODALITY/target_spread` are 1 minus the squared length of the mean unit row: 0 if
    all rows are one point. `MODALITY/centroid_distance` is the distance between the two means.
    """

    def __init__(self, modalities: Collection[str]) -> None:
        self.modalities = tuple(modalities)
        self._norms = GradientNorms()
        self._sums: dict[str, Tensor] = {}  # sum and count of valid rows, by modality and domain

    def reset(self) -> None:
        """Forget everything collected; called at the start of each loss."""
        self._norms.clear()
        self._sums = {}

    def tap_task(self, modality: str, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Return a view of `x` for the task losses, whose gradient is measured there."""
        return self._norms.tap(f"{modality}/task", x)

    def tap_domain(self, modality: str, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Return a view of `x` for the domain losses, whose gradient is measured there."""
        return self._norms.tap(f"{modality}/domain", x)

    @torch.no_grad()
    def add_rows(self, modality: str, domain: str, rows: Float[Tensor, "B D"], valid: Bool[Tensor, "B"]) -> None:
        """Collect unit rows of one modality and domain (`source` or `target`)."""
        self._sums[f"{modality}/{domain}/sum"] = torch.where(valid[:, None], rows.double(), 0.0).sum(0)
        self._sums[f"{modality}/{domain}/count"] = valid.sum()

    def rank_sums(self, device: torch.device) -> dict[str, Tensor]:
        """Return everything collected on this rank, to be summed over ranks."""
        squares = {
            f"{name}/{loss}": self._norms.squared_norm(f"{name}/{loss}", device)
            for name in self.modalities
            for loss in ("task", "domain")
        }
        return squares | self._sums

    def metrics(self, sums: Mapping[str, Tensor], aligned: Iterable[str]) -> dict[str, Float[Tensor, ""]]:
        """Compute the metrics from the `rank_sums` of all ranks, added up.

        The gradient ratio is only given for the modalities whose features a domain loss reads (`aligned`).
        """
        values: dict[str, Tensor] = {}
        with_ratio = set(aligned)
        for modality in self.modalities:
            values |= _distances(modality, sums)
            if modality in with_ratio:
                task, domain = (sums[f"{modality}/{loss}"].sqrt() for loss in ("task", "domain"))
                values[f"{modality}/gradient_ratio"] = domain / task.clamp(min=torch.finfo(torch.float64).tiny)
        return values


def _distances(modality: str, sums: Mapping[str, Tensor]) -> dict[str, Tensor]:
    values, means = {}, {}
    for domain in ("source", "target"):
        if f"{modality}/{domain}/count" not in sums:
            continue
        count = sums[f"{modality}/{domain}/count"]
        means[domain] = sums[f"{modality}/{domain}/sum"] / count.clamp(min=1)
        values[f"{modality}/{domain}_spread"] = 1 - means[domain].square().sum()
    if len(means) == 2:
        values[f"{modality}/centroid_distance"] = (means["source"] - means["target"]).norm()
    return values


def sum_over_ranks(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the sum of each value over ranks, by one reduction of all of them together."""
    flat = all_reduce_sum(torch.cat([x.detach().double().reshape(-1) for x in values.values()]))
    parts = torch.split(flat, [x.numel() for x in values.values()])
    return {name: part.reshape(x.shape) for (name, x), part in zip(values.items(), parts, strict=True)}
