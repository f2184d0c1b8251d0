"""An experiment and a folder for what is costly to make in; its splits in memory out, made once and then read back."""

import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, cast

import torch

from jobs.bench.real_data import material
from jobs.reproduce.catalogue import Name, experiment
from jobs.reproduce.disk_cache import kept
from jobs.reproduce.row_batches import Rows

if TYPE_CHECKING:
    from jobs.reproduce.experiment import Experiment


@functools.lru_cache(maxsize=2)
def splits(name: Name, rows: int | None, to: str) -> Mapping[str, Rows]:
    """`train`, `validation` and `test`; decoded tensors are kept at TO/data-*.safetensors."""
    chosen = cast("Experiment", experiment(name))
    root = material(dict(chosen.needs))

    def make() -> dict[str, torch.Tensor]:
        made = chosen.read(root, rows)
        return {f"{split}/{field}": x for split, fields in made.items() for field, x in fields.items()}

    identity = (name, rows, getattr(chosen.read, "args", ()), sorted(chosen.facts.items()))
    found = kept(to, identity, make)
    return {split: Rows(_of(split, found), chosen.view) for split in ("train", "validation", "test")}


def _of(split: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    start = f"{split}/"
    return {name.removeprefix(start): x for name, x in tensors.items() if name.startswith(start)}
