"""Evaluation mode of a model for the length of a `with` block."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def eval_mode(module: nn.Module) -> Iterator[None]:
    """Put `module` into evaluation mode; afterwards each submodule is in the mode that it was in before.

    >>> dropout = nn.Dropout()
    >>> with eval_mode(dropout):
    ...     dropout.training
    False
    >>> dropout.training
    True
    """
    modes = {submodule: submodule.training for submodule in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for submodule, mode in modes.items():
            submodule.training = mode
