"""The features of both domains in, what happens to them in a step out: means, and the gradients that meet there."""

from collections.abc import Collection, Iterable, Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from xmodal.distributed.rank_consistency import total
from xmodal.distributed.ranks import Group
from xmodal.training.objectives.gradient_norms import GradientNorms


class DomainWatch:
    """Of each modality, since `begin`: the mean of either domain's features, and both gradients at them.

    `MODALITY/gradient_ratio` is the norm of the domain losses' gradient beside the task's, `MODALITY/source_spread`
    (and `target_spread`) 1 minus the squared length of the mean unit row: 0 where all rows are one point.
    `MODALITY/centroid_distance` lies between the two means.
    """

    def __init__(self, modalities: Collection[str]) -> None:
        self.modalities = tuple(modalities)
        self._norms = GradientNorms()
        self._sums: dict[str, Tensor] = {}  # of valid rows and their number, by modality and domain

    def begin(self) -> None:
        self._norms.clear()
        self._sums = {}

    def task(self, modality: str, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """`x` for the losses of the task."""
        return self._norms.tap(f"{modality}/task", x)

    def domain(self, modality: str, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """`x` for the domain losses."""
        return self._norms.tap(f"{modality}/domain", x)

    @torch.no_grad()
    def see(self, modality: str, domain: str, rows: Float[Tensor, "B D"], valid: Bool[Tensor, "B"]) -> None:
        """Unit rows of one modality and domain (`source` or `target`)."""
        self._sums[f"{modality}/{domain}/sum"] = torch.where(valid[:, None], rows.double(), 0.0).sum(0)
        self._sums[f"{modality}/{domain}/count"] = valid.sum()

    def shares(self, device: torch.device) -> dict[str, Tensor]:
        """This rank's part of all that is known, to be summed over ranks."""
        squares = {
            f"{name}/{side}": self._norms.square(f"{name}/{side}", device)
            for name in self.modalities
            for side in ("task", "domain")
        }
        return squares | self._sums

    def figures(self, summed: Mapping[str, Tensor], met: Iterable[str]) -> dict[str, Float[Tensor, ""]]:
        """Of all ranks' shares; the ratio only of modalities at which a domain loss pulls (`met`)."""
        found: dict[str, Tensor] = {}
        pulled = set(met)
        for modality in self.modalities:
            found |= _distances(modality, summed)
            if modality in pulled:
                task, against = (summed[f"{modality}/{side}"].sqrt() for side in ("task", "domain"))
                found[f"{modality}/gradient_ratio"] = against / task.clamp(min=torch.finfo(torch.float64).tiny)
        return found


def _distances(modality: str, summed: Mapping[str, Tensor]) -> dict[str, Tensor]:
    found, means = {}, {}
    for domain in ("source", "target"):
        if f"{modality}/{domain}/count" not in summed:
            continue
        count = summed[f"{modality}/{domain}/count"]
        means[domain] = summed[f"{modality}/{domain}/sum"] / count.clamp(min=1)
        found[f"{modality}/{domain}_spread"] = 1 - means[domain].square().sum()
    if len(means) == 2:
        found[f"{modality}/centroid_distance"] = (means["source"] - means["target"]).norm()
    return found


def over_ranks(values: Mapping[str, Tensor], group: Group) -> dict[str, Tensor]:
    """The sums over ranks, by one reduction of all of them together."""
    flat = total(torch.cat([x.detach().double().reshape(-1) for x in values.values()]), group)
    parts = flat.split([x.numel() for x in values.values()])
    return {name: part.reshape(x.shape) for (name, x), part in zip(values.items(), parts, strict=True)}
