"""The preview of a pretraining run."""

import os
from collections.abc import Mapping
from typing import Any

import torch

from pipelines import pretrain
from pipelines.cluster import Cluster, share_of
from pipelines.config.resources import Resources
from pipelines.preview.places import address_of, corpus, where
from pipelines.source import CPUS_PER_READ
from xmodal.encoders.dual_encoder import DualEncoder
from xmodal.run.plain import to_plain

TRAINING_BYTES = 16  # a parameter in float32: its value, its gradient and two moments


def of(config: pretrain.Config) -> dict[str, Any]:
    """`config` with its defaults filled in, `resources`, `model` and `corpora`.

    Raises whatever would be refused before a worker starts.
    """
    config, _, model = pretrain.check(config)
    data, held_out = config.data, config.validation.corpus
    return {
        "config": to_plain(config),
        "resources": _resources(config),
        "model": _model(model),
        "corpora": [corpus(uri, data.index, data.storage) for uri in data.corpus],
        "validation": held_out and corpus(held_out, data.index, data.storage),
    }


def _resources(config: pretrain.Config) -> dict[str, Any]:
    asked = config.resources
    address = address_of(asked.address)
    local = address is None
    have = {"CPU": (os.cpu_count() or 1) + 1.0, "GPU": float(torch.cuda.device_count())}
    share = share_of(asked, have, local=True) if local else _asked(asked)
    sizes = Cluster(tuple(asked.sizes), {}, local).fitting([config.optim.batch_size]).sizes
    return {
        "where": where(address),
        "workers": list(sizes),
        "per_worker": share,
        "pairs_per_worker": [config.optim.batch_size // size for size in sizes],
        "reading": f"tasks of {CPUS_PER_READ} CPU on all CPUs that the workers leave",
    }


def _asked(asked: Resources) -> Mapping[str, Any]:
    cpus = "1, or less where the cluster would have none left to read"
    gpus = "1 where the cluster has one for each worker, else 0"
    return {
        "CPU": cpus if asked.cpus_per_worker is None else asked.cpus_per_worker,
        "GPU": gpus if asked.gpus_per_worker is None else asked.gpus_per_worker,
    }


def _model(model: DualEncoder) -> dict[str, Any]:
    parameters = sum(p.numel() for p in model.parameters())
    towers = {m: sum(p.numel() for p in model.tower(m).parameters()) for m in model.modalities}
    return {
        "parameters": parameters,
        "towers": towers,
        "dim": model.dim,
        "gib_per_worker_without_activations": round(parameters * TRAINING_BYTES / 2**30, 3),
    }
