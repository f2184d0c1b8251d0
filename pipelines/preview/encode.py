"""The previews of embedding and of evaluation: a checkpoint is looked up, its weights are not loaded."""

import os
from typing import Any

import torch

from pipelines.config import embed, evaluate
from pipelines.preview.locations import address_of, corpus, stored_checkpoint, where
from pipelines.runtime.cluster import CPUS_PER_READ
from xmodal import storage
from xmodal.data.index.listing import folder_before_pattern
from xmodal.run.plain_config import to_plain


def embedding(config: embed.Config) -> dict[str, Any]:
    """`config` with its defaults, its checkpoint, corpus and resources. Raises what is wrong with any of these."""
    storage.check(config.to, writable=True, options=config.storage)
    address = address_of(config.address)
    return {
        "config": to_plain(config),
        "checkpoint": stored_checkpoint(config.checkpoint, config.storage),
        "corpora": [_corpus(config, config.corpus)],
        "resources": {"where": where(address), "encoders": config.workers or _one_for_each(address), **_each(config)},
    }


def evaluation(config: evaluate.Config) -> dict[str, Any]:
    """The same; `figures` are the kinds that will be measured."""
    address = address_of(config.address)
    shared = address is not None if config.workers is None else config.workers > 0
    here = {"where": "this process"}
    there = {"where": where(address), "encoders": config.workers or _one_for_each(address), **_each(config)}
    if config.workers is None and shared:
        there["unless"] = "the corpus is small: then this process"
    figures = {"retrieval": config.retrieval, "zero-shot": config.label, "linear probe": config.probe_train}
    return {
        "config": to_plain(config),
        "checkpoint": stored_checkpoint(config.checkpoint, config.storage),
        "corpora": [_corpus(config, uri) for uri in filter(None, (config.corpus, config.probe_train))],
        "figures": [name for name, asked in figures.items() if asked],
        "resources": there if shared else here,
    }


def _corpus(config: embed.Config | evaluate.Config, uri: str) -> dict[str, Any]:
    storage.check(folder_before_pattern(uri), writable=False, options=config.storage)
    return corpus(uri, config.index, config.storage)


def _one_for_each(address: str | None) -> int | str:
    """The encoders where their number is left open."""
    if address is None:
        return torch.cuda.device_count() or os.cpu_count() or 1
    return "one for each GPU, or for every second CPU where there is none"


def _each(config: embed.Config | evaluate.Config) -> dict[str, Any]:
    gpus, cpus = config.gpus_per_worker, config.cpus_per_worker
    return {
        "per_encoder": {
            "GPU": "1 where there is one for each, else 0" if gpus is None else gpus,
            "CPU": "1, or less where too few would be left to read" if cpus is None else cpus,
        },
        "reading": f"tasks of {CPUS_PER_READ} CPU on all CPUs that the encoders leave",
    }
