"""AdamW or SGD over the trainable parameters: a module in, an optimizer with decayed and undecayed groups out."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from xmodal.errors import ConfigError

Gain = Callable[[str], float]  # of a parameter, by its name: a factor on the learning rate


def as_all(name: str) -> float:
    """No parameter is faster than the others."""
    return 1.0


def adamw(
    module: nn.Module, *, weight_decay: float, betas: tuple[float, float], eps: float, gain: Gain = as_all
) -> torch.optim.AdamW:
    """AdamW (Loshchilov & Hutter 2019) by the fused kernel: one pass, deterministic. The step sets the rate.

    Raises ConfigError when nothing is trainable.
    """
    fused = all(p.device.type in ("cpu", "cuda") for p in module.parameters())
    _check_trainable(module)
    groups = decay_groups(module, weight_decay, gain)
    return torch.optim.AdamW(groups, lr=0.0, betas=betas, eps=eps, fused=fused)


def sgd(module: nn.Module, *, weight_decay: float, momentum: float, gain: Gain = as_all) -> torch.optim.SGD:
    """SGD with momentum (coupled decay, on matrices only), as balanced multimodal learning was published with it.

    Raises ConfigError when nothing is trainable, or for a momentum outside [0, 1).
    """
    if not 0 <= momentum < 1:
        raise ConfigError(f"momentum={momentum} must lie in [0, 1)")
    _check_trainable(module)
    return torch.optim.SGD(decay_groups(module, weight_decay, gain), lr=0.0, momentum=momentum)


def moments(optimizer: torch.optim.Optimizer) -> tuple[str, ...]:
    """The names of the tensors that an optimizer keeps of each parameter from its first update on."""
    if isinstance(optimizer, torch.optim.SGD):
        return ("momentum_buffer",) if optimizer.defaults["momentum"] else ()
    return ("step", "exp_avg", "exp_avg_sq")


def decay_groups(module: nn.Module, weight_decay: float, gain: Gain = as_all) -> list[dict[str, Any]]:
    """Matrices decay; gains, biases and scalars (fewer than two dimensions) do not: Radford et al. 2021, §2.5.

    Two groups, and two more for every other `gain` than 1, which they carry.
    """
    found: list[dict[str, Any]] = []
    gains = {name: gain(name) for name, _ in trainable(module)}
    for factor in sorted({1.0, *gains.values()}):
        own = [p for name, p in trainable(module) if gains[name] == factor]
        faster = {} if factor == 1 else {"gain": factor}
        found.append({"params": [p for p in own if p.ndim >= 2], "weight_decay": weight_decay, **faster})
        found.append({"params": [p for p in own if p.ndim < 2], "weight_decay": 0.0, **faster})
    return found


def trainable(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The named parameters that the optimizer moves."""
    return ((name, p) for name, p in module.named_parameters() if p.requires_grad)


def _check_trainable(module: nn.Module) -> None:
    if not any(True for _ in trainable(module)):
        raise ConfigError("no parameter is trainable: unfreeze at least one tower or head")
