"""An experiment and a folder for what is costly to make in; its splits in memory out, made once and then read back."""

import functools
import hashlib
from collections.abc import Mapping

import safetensors.torch
import torch

from jobs.bench.material import material
from jobs.reproduce.catalogue import Name, experiment
from jobs.reproduce.rows import Rows
from xmodal import storage


@functools.lru_cache(maxsize=2)
def splits(name: Name, rows: int | None, to: str) -> Mapping[str, Rows]:
    """`train`, `validation` and `test`; decoded tensors are kept at TO/data-*.safetensors."""
    chosen = experiment(name)
    root = material(dict(chosen.needs))
    key = hashlib.sha256(
        repr((name, rows, getattr(chosen.read, "args", ()), sorted(chosen.facts.items()))).encode()
    ).hexdigest()[:12]
    place = storage.join(to, f"data-{key}.safetensors")
    try:
        found = safetensors.torch.load(storage.read(place))
    except storage.NotFound:
        made = chosen.read(root, rows)
        found = {f"{split}/{field}": x.contiguous() for split, fields in made.items() for field, x in fields.items()}
        storage.write(place, safetensors.torch.save(found))
    return {split: Rows(_of(split, found), chosen.view) for split in ("train", "validation", "test")}


def _of(split: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    start = f"{split}/"
    return {name.removeprefix(start): x for name, x in tensors.items() if name.startswith(start)}
