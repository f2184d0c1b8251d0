"""The domain critic of adversarial adaptation (DANN): its loss, gradient penalty and accuracy.

S, T: rows of the source and of the target on this rank.  D: width of the features.  Positive logits mean "source".

The losses follow the convention of `xmodal.losses.contrastive`: a rank returns its share, the mean over ranks is the
global loss, and DDP's mean of gradients is its gradient. Each domain is normalised by its own number of valid rows over
all ranks, so neither the number of ranks nor masked rows change the balance of the domains. A rank may hold any number
of rows of either domain, also none. A step in which a domain has no valid row on any rank gives 0.

In a plain training loop:

    critic = DomainCritic(dim=256)
    logits = critic(reverse_gradient(torch.cat([source_features, target_features]), strength))
    loss = task_loss + adversarial_loss(logits[:s], logits[s:])
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
from xmodal.losses.valid_rows import all_valid

HIDDEN_WIDTHS = (256, 256)


class DomainCritic(nn.Module):
    """A multilayer perceptron that predicts the domain of features [N, D]: one logit a row, positive for the source.

    LayerNorm follows each hidden layer, so that unit rows and long rows are handled alike; there is no BatchNorm, which
    would give each domain statistics of its own. With `spectral` every layer has spectral norm 1 instead (Miyato et al.
    2018), and logits change by no more than the features do.

    >>> DomainCritic(dim=8)(torch.zeros(5, 8)).shape
    torch.Size([5])
    """

    def __init__(self, dim: int, hidden: Sequence[int] = HIDDEN_WIDTHS, *, spectral: bool = False) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise((dim, *hidden)):
            layers += [nn.Linear(inputs, outputs), nn.Identity() if spectral else nn.LayerNorm(outputs), nn.ReLU()]
        layers.append(nn.Linear((dim, *hidden)[-1], 1))
        normalised = [spectral_norm(layer) if spectral and isinstance(layer, nn.Linear) else layer for layer in layers]
        self.layers = nn.Sequential(*normalised)

    def forward(self, features: Float[Tensor, "N D"]) -> Float[Tensor, "N"]:
        """Return one logit for each row."""
        logits: Tensor = self.layers(features)
        return logits.squeeze(1)


def adversarial_loss(
    logits_source: Float[Tensor, "S"],
    logits_target: Float[Tensor, "T"],
    valid_source: Bool[Tensor, "S"] | None = None,
    valid_target: Bool[Tensor, "T"] | None = None,
    *,
    weight_source: Float[Tensor, "S"] | None = None,
    weight_target: Float[Tensor, "T"] | None = None,
    smoothing: float = 0.0,
    group: Group = None,
) -> Float[Tensor, ""]:
    """Return this rank's share of the critic's cross-entropy: the mean of both domains' means; ln 2 is guessing.

    Ganin et al. 2016, eq. 8, each domain divided by its own count. The true domain has probability 1 - `smoothing`
    (environment label smoothing, Zhang et al. 2023); ValueError if it is outside [0, 0.5). Row weights are constants
    that make the means weighted ones (`xmodal.losses.cdan.entropy_weights`). `valid_source` and `valid_target` mark the
    rows that count (None: all). Pass features through `xmodal.losses.gradient_reversal.reverse_gradient` if the encoder
    is to learn against the critic.

    >>> adversarial_loss(torch.zeros(4), torch.zeros(9))
    tensor(0.6931)
    """
    if not 0.0 <= smoothing < 0.5:
        raise ValueError(f"smoothing={smoothing} must lie in [0, 0.5): at 0.5 the critic has nothing to learn")
    valid_source, valid_target = all_valid(logits_source, valid_source), all_valid(logits_target, valid_target)
    with torch.autocast(logits_source.device.type, enabled=False):
        source, target = _zero_invalid(logits_source, valid_source), _zero_invalid(logits_target, valid_target)
        source = F.softplus(-source) + smoothing * source
        target = F.softplus(target) - smoothing * target
        return _mean_over_domains((source, target), (valid_source, valid_target), (weight_source, weight_target), group)


def critic_accuracy(
    logits_source: Float[Tensor, "S"],
    logits_target: Float[Tensor, "T"],
    valid_source: Bool[Tensor, "S"],
    valid_target: Bool[Tensor, "T"],
    *,
    group: Group = None,
) -> Float[Tensor, ""]:
    """Return the share of correctly classified rows over all ranks, as the mean of both domains; 0.5 is guessing."""
    correct = (logits_source.detach() > 0).double(), (logits_target.detach() <= 0).double()
    share = _mean_over_domains(correct, (valid_source, valid_target), (None, None), group)
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
    """Return this rank's share of the mean squared gradient of the logits at the features; both domains count equally.

    It keeps the critic smooth (R1 of Mescheder et al. 2018, as in DomainBed's DANN, which takes the gradient of the
    loss) and trains the critic's weights alone: features are constants.
    """
    domains = (source, valid_source), (target, valid_target)
    features = torch.cat([_zero_invalid(rows.detach(), valid) for rows, valid in domains]).requires_grad_()
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(critic(features).sum(), features, create_graph=True)
    squared_norms = gradient.square().sum(1)
    parts = squared_norms[: len(source)], squared_norms[len(source) :]
    return _mean_over_domains(parts, (valid_source, valid_target), (None, None), group)


def _mean_over_domains(
    values: tuple[Tensor, Tensor],
    valid: tuple[Tensor, Tensor],
    weights: tuple[Tensor | None, Tensor | None],
    group: Group,
) -> Tensor:
    """Return this rank's share of half the sum of both domains' (weighted) means over the valid rows of all ranks."""
    sums, totals = [], []
    for losses, mask, weight in zip(values, valid, weights, strict=True):
        row_weights = (
            mask.to(losses.dtype) if weight is None else torch.where(mask, weight.detach().to(losses.dtype), 0)
        )
        sums.append((losses * row_weights).sum())
        totals.append(row_weights.sum())
    total = torch.stack(totals).double()
    if (world := world_size(group)) > 1:
        dist.all_reduce(total, group=group)
    both = (total > 0).all()
    share = torch.where(both, 0.5 * world / total.clamp(min=torch.finfo(torch.float32).tiny), 0.0)
    return (torch.stack(sums) * share.to(sums[0].dtype)).sum()


def _zero_invalid(x: Tensor, valid: Tensor) -> Tensor:
    """Return rows as float32 or wider, rows that do not count set to 0, so that their NaN reaches nothing."""
    rows = x if x.dtype == torch.float64 else x.float()
    return rows.masked_fill(~(valid if x.ndim == 1 else valid[:, None]), 0)
