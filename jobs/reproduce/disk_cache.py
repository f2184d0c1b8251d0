"""Cache tensors that are costly to compute in a file."""

import hashlib
from collections.abc import Callable

import safetensors.torch
import torch

from xmodal import storage


def cached_tensors(
    to: str, identity: object, compute: Callable[[], dict[str, torch.Tensor]]
) -> dict[str, torch.Tensor]:
    """Return the tensors of TO/data-*.safetensors; compute and store them first where that file does not exist.

    The file's name comes from `identity`, an object whose repr is the same in every process.
    """
    uri = storage.join(to, f"data-{hashlib.sha256(repr(identity).encode()).hexdigest()[:12]}.safetensors")
    try:
        return safetensors.torch.load(storage.read(uri))
    except storage.NotFound:
        tensors = {name: x.contiguous() for name, x in compute().items()}
        storage.write(uri, safetensors.torch.save(tensors))
        return tensors
