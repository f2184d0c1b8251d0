"""Preview an embedding or an evaluation: the checkpoint is looked up, its weights are not loaded."""

import os

import torch

from pipelines.config import embed, evaluate
from pipelines.preview.locations import cluster_address, preview_checkpoint, preview_corpus, ray_in_words
from pipelines.runtime.cluster import CPUS_PER_READ
from xmodal import storage
from xmodal.data.index.listing import folder_before_pattern
from xmodal.run.plain_config import to_plain


def preview_embedding(config: embed.EmbedConfig) -> dict[str, object]:
    """Return `config` with its checkpoint, corpus and resources. Raises what is wrong with any of these."""
    storage.check(config.to, writable=True, options=config.storage)
    address = cluster_address(config.address)
    return {
        "config": to_plain(config),
        "checkpoint": preview_checkpoint(config.checkpoint, config.storage),
        "corpora": [_preview_corpus(config, config.corpus)],
        "resources": _preview_resources(config, address),
    }


def preview_evaluation(config: evaluate.EvaluateConfig) -> dict[str, object]:
    """Return `config` with its checkpoint, corpora and resources; `figures` are the kinds of metrics to be measured."""
    address = cluster_address(config.address)
    shared = address is not None if config.workers is None else config.workers > 0
    here = {"where": "this process"}
    there = _preview_resources(config, address)
    if config.workers is None and shared:
        there["unless"] = "the corpus is small: then this process"
    tasks = {"retrieval": config.retrieval, "zero-shot": config.label, "linear probe": config.probe_train}
    return {
        "config": to_plain(config),
        "checkpoint": preview_checkpoint(config.checkpoint, config.storage),
        "corpora": [_preview_corpus(config, uri) for uri in filter(None, (config.corpus, config.probe_train))],
        "figures": [name for name, wanted in tasks.items() if wanted],
        "resources": there if shared else here,
    }


def _preview_corpus(config: embed.EmbedConfig | evaluate.EvaluateConfig, uri: str) -> dict[str, object]:
    storage.check(folder_before_pattern(uri), writable=False, options=config.storage)
    return preview_corpus(uri, config.index, config.storage)


def _preview_resources(config: embed.EmbedConfig | evaluate.EvaluateConfig, address: str | None) -> dict[str, object]:
    encoders = config.workers or _default_encoders(address)
    return {"where": ray_in_words(address), "encoders": encoders, **_per_encoder(config)}


def _default_encoders(address: str | None) -> int | str:
    """Return the number of encoders where the configuration leaves it open."""
    if address is None:
        return torch.cuda.device_count() or os.cpu_count() or 1
    return "one for each GPU, or for every second CPU where there is none"


def _per_encoder(config: embed.EmbedConfig | evaluate.EvaluateConfig) -> dict[str, object]:
    gpus, cpus = config.gpus_per_worker, config.cpus_per_worker
    return {
        "per_encoder": {
            "GPU": "1 where there is one for each, else 0" if gpus is None else gpus,
            "CPU": "1, or less where too few would be left to read" if cpus is None else cpus,
        },
        "reading": f"tasks of {CPUS_PER_READ} CPU on all CPUs that the encoders leave",
    }
