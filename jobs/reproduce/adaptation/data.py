"""An experiment and a folder for what is costly to make in; its domains in memory out, with their checksum."""

import functools
import hashlib
from typing import TYPE_CHECKING, cast

import torch

from jobs.bench.real_data import material
from jobs.reproduce.catalogue import Name, experiment
from jobs.reproduce.disk_cache import kept

if TYPE_CHECKING:
    from jobs.reproduce.adaptation.experiment import Adaptation, Fields, Parts


@functools.lru_cache(maxsize=2)
def parts(name: Name, rows: int | None, to: str) -> "Parts":
    """`source/train`, `source/held`, `source/test` and the target's; decoded tensors are kept at TO/data-*."""
    chosen = cast("Adaptation", experiment(name))
    root = material(dict(chosen.needs))
    return _by_part(kept(to, (name, rows, sorted(chosen.facts.items())), lambda: _flat(chosen.read(root, rows))))


@functools.lru_cache(maxsize=2)
def checksum(name: Name, rows: int | None, to: str) -> str:
    """SHA-256 of all tensors, in the order of their names: results of other data are not comparable."""
    found = hashlib.sha256()
    for _, tensor in sorted(_flat(parts(name, rows, to)).items()):
        found.update(tensor.contiguous().numpy().tobytes())
    return found.hexdigest()[:16]


def _flat(data: "Parts") -> dict[str, torch.Tensor]:
    return {f"{part}/{name}": x for part, fields in data.items() for name, x in fields.items()}


def _by_part(flat: dict[str, torch.Tensor]) -> "Parts":
    found: dict[str, Fields] = {}
    for name, x in flat.items():
        part, _, field = name.rpartition("/")
        found.setdefault(part, {})[field] = x
    return found
