"""Load the splits of an experiment on balanced learning; decoded tensors are cached in the experiment's directory."""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import torch

from jobs.reproduce.catalogue import ExperimentName, load_experiment
from jobs.reproduce.disk_cache import cached_tensors
from jobs.reproduce.experiment import BalanceExperiment
from jobs.reproduce.row_batches import RowDataset


@functools.lru_cache(maxsize=2)
def load_splits(name: ExperimentName, rows: int | None, to: str, folder: Path) -> Mapping[str, RowDataset]:
    """Return `train`, `validation` and `test`, decoded from the files in `folder` or read from TO/data-*.safetensors.

    The name of the cached file comes from `identity`: its parts, with the repr of what `read` is bound to, stay as they
    are lest every data set be decoded anew.
    """
    experiment = cast(BalanceExperiment, load_experiment(name))

    def decode() -> dict[str, torch.Tensor]:
        splits = experiment.read(folder, rows)
        return {f"{split}/{field}": x for split, fields in splits.items() for field, x in fields.items()}

    identity = (name, rows, getattr(experiment.read, "args", ()), sorted(experiment.facts.items()))
    tensors = cached_tensors(to, identity, decode)
    splits = ("train", "validation", "test")
    return {split: RowDataset(_fields_of(split, tensors), experiment.view) for split in splits}


def _fields_of(split: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    prefix = f"{split}/"
    return {name.removeprefix(prefix): x for name, x in tensors.items() if name.startswith(prefix)}
