"""torch.compile for the towers of a model, with a failure that speaks: a model in, the same model compiled out."""

from collections.abc import Callable

import torch._dynamo
from torch import nn

from xmodal.errors import ConfigError


def compile_towers(towers: nn.ModuleDict, *, backend: str | Callable = "inductor") -> None:
    """Compile each tower in place, keeping the parameters' names; call it before the model is wrapped in DDP.

    The loss stays eager: it talks to the other ranks. Compilation happens at the first forward; where it fails, or
    where a tower is recompiled more often than torch's limit, that forward raises (torch alone would go on in eager
    mode). Raises ConfigError where this torch or Python cannot compile at all.
    """
    if not torch._dynamo.is_dynamo_supported():
        raise ConfigError("torch.compile does not run on this Python or platform: switch compile off")
    torch._dynamo.config.suppress_errors = False
    torch._dynamo.config.fail_on_recompile_limit_hit = True
    for tower in towers.values():
        tower.compile(backend=backend)
