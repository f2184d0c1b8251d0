"""The preview of a run of the second stage."""

from typing import Any

from pipelines.config.classify import Config
from pipelines.preview.locations import corpus
from pipelines.preview.training import memory_gib, resources
from pipelines.stages import classify
from xmodal.run.plain_config import to_plain


def of(config: Config) -> dict[str, Any]:
    """`config` with its defaults filled in, `resources`, `model`, `corpora` and `target`.

    Raises whatever would be refused before a worker starts.
    """
    config, parameters = classify.check(config)
    return {
        "config": to_plain(config),
        "resources": resources(config.resources, config.optim.batch_size),
        "model": {"parameters": parameters, "gib_per_worker_without_activations": memory_gib(parameters)},
        "corpora": [corpus(uri, config.data.index, config.data.storage) for uri in config.data.corpus],
        "target": [corpus(uri, config.data.index, config.data.storage) for uri in config.target.corpus],
    }
