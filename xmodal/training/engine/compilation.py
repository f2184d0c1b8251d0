"""torch.compile for the towers of a model, with an error instead of a silent fallback to eager mode."""

from collections.abc import Callable
from typing import Any

import torch._dynamo
from torch import nn
from torch._dynamo.eval_frame import is_dynamo_supported

from xmodal.errors import ConfigError


def compile_towers(towers: nn.ModuleDict, *, backend: str | Callable[..., Any] = "inductor") -> None:
    """Compile each tower in place, with unchanged parameter names; call it before the model is wrapped in DDP.

    The loss stays eager because it communicates with other ranks. Compilation happens at the first forward. If it
    fails, or a tower is recompiled more often than torch's limit, that forward raises (torch alone would continue in
    eager mode). Raises ConfigError if this torch or Python cannot compile at all.
    """
    if not is_dynamo_supported():
        raise ConfigError("torch.compile does not run on this Python or platform: switch compile off")
    torch._dynamo.config.suppress_errors = False
    torch._dynamo.config.fail_on_recompile_limit_hit = True
    for tower in towers.values():
        tower.compile(backend=backend)
