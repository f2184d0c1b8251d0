"""The domain critic of adversarial adaptation: features of two domains in, logits, loss, penalty and accuracy out.

S, T: rows of the source and of the target on this rank.  D: width of the features.  Positive logits say "source".

The losses follow the convention of `xmodal.losses.contrastive`: a rank returns its share, the mean over ranks is the
global loss, and DDP's mean of gradients is its gradient. Each domain is normalised by its own number of valid rows over
all ranks, so neither the number of ranks nor masked rows move the balance between the domains; a rank may hold any
number of rows of either, none too. A step in which a domain has no valid row anywhere gives 0.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.distributed as dist
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from xmodal.distributed.ranks import Group, world_size

HIDDEN = (256, 256)


class Critic(nn.Module):
    """A perceptron that tells the domains apart: features [N, D] in, one logit a row out, positive for the source.

    LayerNorm after each hidden layer, so that unit rows are seen as well as long ones, and never BatchNorm, which would
    give each domain statistics of its own. With `spectral` every layer has spectral norm 1 instead (Miyato et al.
    2018) and the logits change by no more than the features do.
    """

    def __init__(self, dim: int, hidden: Sequence[int] = HIDDEN, *, spectral: bool = False) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for wide, narrow in pairwise((dim, *hidden)):
            layers += [nn.Linear(wide, narrow), nn.Identity() if spectral else nn.LayerNorm(narrow), nn.ReLU()]
        layers.append(nn.Linear((dim, *hidden)[-1], 1))
        normed = [spectral_norm(one) if spectral and isinstance(one, nn.Linear) else one for one in layers]
        self.layers = nn.Sequential(*normed)

    def forward(self, features: Float[Tensor, "N D"]) -> Float[Tensor, "N"]:
        return self.layers(features).squeeze(1)


def adversarial(
    logits_source: Float[Tensor, "S"],
    logits_target: Float[Tensor, "T"],
    valid_source: Bool[Tensor, "S"],
    valid_target: Bool[Tensor, "T"],
    *,
    weight_source: Float[Tensor, "S"] | None = None,
    weight_target: Float[Tensor, "T"] | None = None,
    smoothing: float = 0.0,
    group: Group = None,
) -> Float[Tensor, ""]:
    """This rank's share of the critic's cross-entropy, the mean of both domains' own means; ln 2 is knowing nothing.

    Ganin et al. 2016, eq. 8, each domain by its own count. The true domain has probability 1 - `smoothing`
    (environment label smoothing, Zhang et al. 2023); ValueError unless it lies in [0, 0.5). The weights of rows, if
    any, are constants: the means are weighted ones (`xmodal.losses.cdan`). Features come through
    `xmodal.losses.gradient_reversal.reverse` where the encoder is to learn against the critic.
    """
    if not 0.0 <= smoothing < 0.5:
        raise ValueError(f"smoothing={smoothing} must lie in [0, 0.5): at 0.5 the critic has nothing to learn")
    with torch.autocast(logits_source.device.type, enabled=False):
        source, target = _counted(logits_source, valid_source), _counted(logits_target, valid_target)
        source = F.softplus(-source) + smoothing * source
        target = F.softplus(target) - smoothing * target
        return _balanced((source, target), (valid_source, valid_target), (weight_source, weight_target), group)


def critic_accuracy(
    logits_source: Float[Tensor, "S"],
    logits_target: Float[Tensor, "T"],
    valid_source: Bool[Tensor, "S"],
    valid_target: Bool[Tensor, "T"],
    *,
    group: Group = None,
) -> Float[Tensor, ""]:
    """Share of rows whose domain is told rightly, the mean of both domains' own, over all ranks: 0.5 is guessing."""
    right = (logits_source.detach() > 0).double(), (logits_target.detach() <= 0).double()
    share = _balanced(right, (valid_source, valid_target), (None, None), group)
    if (world := world_size(group)) > 1:
        dist.all_reduce(share, group=group)
    return share / world


def gradient_penalty(
    critic: nn.Module,
    source: Float[Tensor, "S D"],
    target: Float[Tensor, "T D"],
    valid_source: Bool[Tensor, "S"],
    valid_target: Bool[Tensor, "T"],
    *,
    group: Group = None,
) -> Float[Tensor, ""]:
    """This rank's share of the mean squared gradient of the logits at the features, both domains counting equally.

    It keeps the critic smooth (R1 of Mescheder et al. 2018, as in DomainBed's DANN, there of the loss) and reaches the
    critic's weights alone: the features are taken as constants.
    """
    known = [_counted(rows.detach(), valid) for rows, valid in ((source, valid_source), (target, valid_target))]
    rows = torch.cat(known).requires_grad_()
    with torch.enable_grad():
        (slope,) = torch.autograd.grad(critic(rows).sum(), rows, create_graph=True)
    squared = slope.square().sum(1)
    parts = squared[: len(source)], squared[len(source) :]
    return _balanced(parts, (valid_source, valid_target), (None, None), group)


def _balanced(
    values: tuple[Tensor, Tensor],
    valid: tuple[Tensor, Tensor],
    weights: tuple[Tensor | None, Tensor | None],
    group: Group,
) -> Tensor:
    """Half the sum of the (weighted) means of both domains over all ranks' valid rows, as this rank's share."""
    sums, totals = [], []
    for each, counted, weight in zip(values, valid, weights, strict=True):
        weighing = counted.to(each.dtype) if weight is None else torch.where(counted, weight.detach().to(each.dtype), 0)
        sums.append((each * weighing).sum())
        totals.append(weighing.sum())
    total = torch.stack(totals).double()
    if (world := world_size(group)) > 1:
        dist.all_reduce(total, group=group)
    both = (total > 0).all()
    share = torch.where(both, 0.5 * world / total.clamp(min=torch.finfo(torch.float32).tiny), 0.0)
    return (torch.stack(sums) * share.to(sums[0].dtype)).sum()


def _counted(x: Tensor, valid: Tensor) -> Tensor:
    """At least in float32; rows that do not count become 0 before anything is computed of them: NaN stays out."""
    wide = x if x.dtype == torch.float64 else x.float()
    return wide.masked_fill(~(valid if x.ndim == 1 else valid[:, None]), 0)
