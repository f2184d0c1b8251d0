"""The preview of an adaptation to a domain without pairs."""

from typing import Any

from pipelines.config.adapt import Config
from pipelines.preview.locations import corpus
from pipelines.preview.training import memory_gib, resources
from pipelines.stages import adapt
from xmodal.run.plain_config import to_plain


def of(config: Config) -> dict[str, Any]:
    """`config` with its defaults filled in, `resources`, `model`, and the corpora of both domains.

    Raises whatever would be refused before a worker starts.
    """
    config, start, model = adapt.check(config)
    data, held_out = config.data, config.validation.corpus
    parameters = sum(p.numel() for p in model.parameters())
    return {
        "config": to_plain(config),
        "resources": resources(config.resources, config.optim.batch_size),
        "model": {"starts_from": start.uri, "parameters": parameters, "dim": model.dim,
                  "gib_per_worker_without_activations": memory_gib(parameters)},
        "corpora": [corpus(uri, data.index, data.storage) for uri in data.corpus],
        "target": [corpus(uri, data.index, data.storage) for uri in config.target.corpus],
        "target_texts": [corpus(uri, data.index, data.storage) for uri in config.target.text_corpus],
        "validation": held_out and corpus(held_out, data.index, data.storage),
    }  # fmt: skip
