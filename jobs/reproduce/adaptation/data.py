"""Load the domains of an experiment on adaptation, with their checksum; decoded tensors are cached."""

import functools
import hashlib
from pathlib import Path
from typing import cast

import torch

from jobs.reproduce.adaptation.experiment import AdaptationExperiment, Parts
from jobs.reproduce.catalogue import ExperimentName, load_experiment
from jobs.reproduce.disk_cache import cached_tensors
from jobs.reproduce.row_batches import Fields


@functools.lru_cache(maxsize=2)
def load_parts(name: ExperimentName, rows: int | None, to: str, folder: Path) -> Parts:
    """Return `source/train`, `source/held`, `source/test` and those of the target.

    They are decoded from the files in `folder` or read from TO/data-*.safetensors. The name of the cached file comes
    from the identity below: its parts stay as they are lest every data set be decoded anew.
    """
    experiment = cast(AdaptationExperiment, load_experiment(name))
    identity = (name, rows, sorted(experiment.facts.items()))
    return _by_part(cached_tensors(to, identity, lambda: _flatten(experiment.read(folder, rows))))


@functools.lru_cache(maxsize=2)
def data_checksum(name: ExperimentName, rows: int | None, to: str, folder: Path) -> str:
    """Return the SHA-256 of all tensors in the order of their names: results of other data cannot be compared."""
    digest = hashlib.sha256()
    for _, tensor in sorted(_flatten(load_parts(name, rows, to, folder)).items()):
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def _flatten(parts: Parts) -> dict[str, torch.Tensor]:
    return {f"{part}/{name}": x for part, fields in parts.items() for name, x in fields.items()}


def _by_part(tensors: dict[str, torch.Tensor]) -> Parts:
    parts: dict[str, Fields] = {}
    for name, x in tensors.items():
        part, _, field = name.rpartition("/")
        parts.setdefault(part, {})[field] = x
    return parts
