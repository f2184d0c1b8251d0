"""A partition and a number of objectives in, one flat buffer for all their gradients out.

    | encoders, objective 0 | ... | encoders, objective K-1 | others | encoders, extra (only when used) |

One such buffer is what is sent: consecutive parts of it, each in one all-reduce. Parameters take turns at having
`.grad` point into the sheet of the objective that is being differentiated, so that autograd adds in place.
"""

from itertools import accumulate, pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

from xmodal.errors import ConfigError
from xmodal.gradients.partition import Partition


class Sheets:
    """K (and, when asked for, one more) gradients of the encoders and one of the others, side by side in memory."""

    def __init__(self, partition: Partition, objectives: int, *, extra: bool) -> None:
        parameters = partition.parameters
        kinds = {f"{p.dtype} on {p.device}" for p in parameters}
        if len(kinds) != 1:
            raise ConfigError(
                f"the trainable parameters must have one dtype and device, these have {sorted(kinds) or 'none'}"
            )
        self.partition = partition
        self.objectives = objectives
        self.extra = extra
        self.encoder_size = sum(p.numel() for block in partition.encoders.values() for p in block)
        self.others_size = sum(p.numel() for p in partition.others)
        total = (objectives + extra) * self.encoder_size + self.others_size
        self.flat = torch.zeros(total, dtype=parameters[0].dtype, device=parameters[0].device)

    def zero(self) -> None:
        """Forget what was accumulated."""
        self.flat.zero_()

    def sheet(self, k: int) -> Float[Tensor, "P"]:
        """The encoders' gradient of objective k; k = K is the extra one."""
        start = k * self.encoder_size + (self.others_size if k == self.objectives else 0)
        return self.flat[start : start + self.encoder_size]

    @property
    def others(self) -> Float[Tensor, "R"]:
        """The gradient of the other parameters, summed over all objectives."""
        start = self.objectives * self.encoder_size
        return self.flat[start : start + self.others_size]

    @property
    def last_part(self) -> Float[Tensor, "Q"]:
        """What can only be sent after the last pass: the last objective's sheet, the others, the extra sheet."""
        return self.flat[(self.objectives - 1) * self.encoder_size :]

    def aim(self, k: int) -> None:
        """Let every parameter's `.grad` point into sheet k (and the others into theirs)."""
        encoders = [p for block in self.partition.encoders.values() for p in block]
        _point(encoders, self.sheet(k))
        _point(self.partition.others, self.others)

    def bounds(self, *, tensors: bool) -> list[list[int]]:
        """For each encoder the places in a sheet where its segments begin, and its end: one, or one per tensor."""
        found, start = [], 0
        for block in self.partition.encoders.values():
            sizes = [p.numel() for p in block] if tensors else [sum(p.numel() for p in block)]
            found.append(list(accumulate(sizes, initial=start)))
            start = found[-1][-1]
        return found


def _point(parameters: list[nn.Parameter], flat: Tensor) -> None:
    start = 0
    for p in parameters:
        p.grad = flat[start : start + p.numel()].view_as(p)
        start += p.numel()


def segments(bounds: list[int]) -> list[slice]:
    """The slices between consecutive bounds."""
    return [slice(a, b) for a, b in pairwise(bounds)]
