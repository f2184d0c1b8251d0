"""AdamW and SGD over the trainable parameters of a module, with weight decay on matrices only."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from xmodal.errors import ConfigError

LrScale = Callable[[str], float]  # maps the name of a parameter to a factor on its learning rate


def same_rate(name: str) -> float:
    """Return 1: every parameter has the same learning rate."""
    return 1.0


def adamw(
    module: nn.Module, *, weight_decay: float, betas: tuple[float, float], eps: float, lr_scale: LrScale = same_rate
) -> torch.optim.AdamW:
    """Create AdamW (Loshchilov & Hutter 2019) with the fused kernel, which is deterministic; the step sets the rate.

    Raises ConfigError if nothing is trainable.
    """
    fused = all(p.device.type in ("cpu", "cuda") for p in module.parameters())
    _check_trainable(module)
    groups = decay_groups(module, weight_decay, lr_scale)
    return torch.optim.AdamW(groups, lr=0.0, betas=betas, eps=eps, fused=fused)


def sgd(module: nn.Module, *, weight_decay: float, momentum: float, lr_scale: LrScale = same_rate) -> torch.optim.SGD:
    """Create SGD with momentum and coupled weight decay, the optimizer of published balanced multimodal learning.

    Raises ConfigError if nothing is trainable, or for a momentum outside [0, 1).
    """
    if not 0 <= momentum < 1:
        raise ConfigError(f"momentum={momentum} must lie in [0, 1)")
    _check_trainable(module)
    return torch.optim.SGD(decay_groups(module, weight_decay, lr_scale), lr=0.0, momentum=momentum)


def moment_names(optimizer: torch.optim.Optimizer) -> tuple[str, ...]:
    """Return the names of the state tensors that an optimizer has for each parameter after the first update."""
    if isinstance(optimizer, torch.optim.SGD):
        return ("momentum_buffer",) if optimizer.defaults["momentum"] else ()
    return ("step", "exp_avg", "exp_avg_sq")


def decay_groups(module: nn.Module, weight_decay: float, lr_scale: LrScale = same_rate) -> list[dict[str, object]]:
    """Return parameter groups: matrices with weight decay, tensors of fewer than two dimensions without.

    Gains, biases and scalars do not decay (Radford et al. 2021, §2.5). Two groups, and two more for every `lr_scale`
    other than 1, which such a group has under the key `gain` (a name in checkpoints).
    """
    groups: list[dict[str, Any]] = []
    scales = {name: lr_scale(name) for name, _ in trainable(module)}
    for scale in sorted({1.0, *scales.values()}):
        parameters = [p for name, p in trainable(module) if scales[name] == scale]
        options = {} if scale == 1 else {"gain": scale}
        groups.append({"params": [p for p in parameters if p.ndim >= 2], "weight_decay": weight_decay, **options})
        groups.append({"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0, **options})
    return groups


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of every group to `rate` x its `gain` (1 where a group has none)."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("gain", 1.0)


def trainable(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Iterate over the named parameters that the optimizer updates."""
    return ((name, p) for name, p in module.named_parameters() if p.requires_grad)


def _check_trainable(module: nn.Module) -> None:
    if not any(True for _ in trainable(module)):
        raise ConfigError("no parameter is trainable: unfreeze at least one tower or head")
