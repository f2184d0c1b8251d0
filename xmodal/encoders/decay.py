"""A module in, AdamW's parameter groups out: matrices decay, everything else does not."""

from typing import Any

from torch import nn


def decay_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Two groups, with and without decay, in the order of `named_parameters`.

    No decay for parameters of fewer than two dimensions: biases, the gains of norms, the class token, the temperature
    and the bias of the logits (as CLIP and open_clip). Frozen parameters are in neither group; all others in one.
    """
    trainable = [p for p in module.parameters() if p.requires_grad]
    return [
        {"params": [p for p in trainable if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trainable if p.ndim < 2], "weight_decay": 0.0},
    ]
