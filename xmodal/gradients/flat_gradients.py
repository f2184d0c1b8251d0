"""One flat buffer for the gradients of several objectives.

    | encoders, objective 0 | ... | encoders, objective K-1 | others | encoders, extra (only when used) |

Consecutive parts of the buffer are communicated, each in one all-reduce. While objective k is differentiated, every
parameter's `.grad` points into the part of k, so that autograd adds in place.
"""

from itertools import accumulate, pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

from xmodal.errors import ConfigError
from xmodal.gradients.partition import Partition


class FlatGradients:
    """K (with `extra` K + 1) gradients of the encoders and one of the other parameters, contiguous in memory."""

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
        """Reset the accumulated gradients to zero."""
        self.flat.zero_()

    def encoder_gradient(self, k: int) -> Float[Tensor, "P"]:
        """Return the encoders' gradient of objective k; k = K is the extra one."""
        start = k * self.encoder_size + (self.others_size if k == self.objectives else 0)
        return self.flat[start : start + self.encoder_size]

    @property
    def other_gradient(self) -> Float[Tensor, "R"]:
        """Return the gradient of the other parameters, summed over all objectives."""
        start = self.objectives * self.encoder_size
        return self.flat[start : start + self.others_size]

    @property
    def last_message(self) -> Float[Tensor, "Q"]:
        """Return what is complete only after the last pass: the last objective's, the others' and the extra one."""
        return self.flat[(self.objectives - 1) * self.encoder_size :]

    def point_grads_at(self, k: int) -> None:
        """Let the encoders' `.grad` point into the gradient of objective k, and that of the others into theirs."""
        encoders = [p for block in self.partition.encoders.values() for p in block]
        _point_grads(encoders, self.encoder_gradient(k))
        _point_grads(self.partition.others, self.other_gradient)

    def segment_bounds(self, *, tensors: bool) -> list[list[int]]:
        """Return the bounds of the segments in each encoder's gradient: the whole encoder, or each of its tensors."""
        bounds, start = [], 0
        for block in self.partition.encoders.values():
            sizes = [p.numel() for p in block] if tensors else [sum(p.numel() for p in block)]
            bounds.append(list(accumulate(sizes, initial=start)))
            start = bounds[-1][-1]
        return bounds


def _point_grads(parameters: list[nn.Parameter], flat: Tensor) -> None:
    start = 0
    for p in parameters:
        p.grad = flat[start : start + p.numel()].view_as(p)
        start += p.numel()


def slices_between(bounds: list[int]) -> list[slice]:
    """Return the slices between consecutive bounds.

    >>> slices_between([0, 3, 5])
    [slice(0, 3, None), slice(3, 5, None)]
    """
    return [slice(a, b) for a, b in pairwise(bounds)]
