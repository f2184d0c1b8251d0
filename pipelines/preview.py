"""A pretraining configuration in, what its run will be and what it will ask of the cluster out, without a cluster."""

import os
from collections.abc import Mapping
from typing import Any

import torch

from pipelines import corpora, pretrain
from pipelines.cluster import Cluster, share_of
from pipelines.config.resources import Resources
from pipelines.source import CPUS_PER_READ
from xmodal.data import index as stored_index
from xmodal.data.corpus import index_uri
from xmodal.data.listing import list_shards
from xmodal.encoders.dual_encoder import DualEncoder
from xmodal.run.plain import to_plain

TRAINING_BYTES = 16  # a parameter in float32: its value, its gradient and two moments


def of(config: pretrain.Config) -> dict[str, Any]:
    """`config` with its defaults filled in, `resources`, `model` and `corpora`, as plain JSON.

    Raises whatever would be refused before a worker starts.
    """
    config, _, model = pretrain.check(config)
    return {
        "config": to_plain(config),
        "resources": _resources(config),
        "model": _model(model),
        "corpora": [_corpus(config.data, uri) for uri in config.data.corpus],
    }


def _resources(config: pretrain.Config) -> dict[str, Any]:
    asked = config.resources
    address = asked.address or os.environ.get("RAY_ADDRESS")
    local = address in (None, "local")
    cores = os.cpu_count() or 1
    have = {"CPU": cores + 1.0, "GPU": float(torch.cuda.device_count())}
    share = share_of(asked, have, local=True) if local else _asked(asked)
    sizes = Cluster(tuple(asked.sizes), {}, local).fitting([config.optim.batch_size]).sizes
    return {
        "where": "a Ray of its own on this machine" if local else f"the cluster at {address}",
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


def _corpus(data: corpora.Data, uri: str) -> dict[str, Any]:
    """What lies there; rows where an index is stored."""
    listing = list_shards(uri, data.storage)
    known = stored_index.load(index_uri(uri, listing, data.index), data.storage)
    return {
        "uri": uri,
        "format": listing.format,
        "shards": len(listing.entries),
        "bytes": sum(entry.size for entry in listing.entries),
        "rows": int(known.extents.rows.sum()) if known else "not indexed yet: the run does it first",
    }
