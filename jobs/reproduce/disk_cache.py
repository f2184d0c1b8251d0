"""What is costly to make in, plain tensors that are made once and then read back out."""

import hashlib
from collections.abc import Callable

import safetensors.torch
import torch

from xmodal import storage


def kept(to: str, identity: object, make: Callable[[], dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """The tensors of TO/data-*.safetensors, whose name comes from `identity` (something with a stable repr)."""
    place = storage.join(to, f"data-{hashlib.sha256(repr(identity).encode()).hexdigest()[:12]}.safetensors")
    try:
        return safetensors.torch.load(storage.read(place))
    except storage.NotFound:
        made = {name: x.contiguous() for name, x in make().items()}
        storage.write(place, safetensors.torch.save(made))
        return made
