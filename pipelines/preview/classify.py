"""Preview a run that trains a classifier."""

from pipelines.config.classify import ClassifyConfig
from pipelines.preview.locations import preview_corpus
from pipelines.preview.training import memory_gib, preview_resources
from pipelines.stages import classify
from xmodal.run.plain_config import to_plain


def preview_run(config: ClassifyConfig) -> dict[str, object]:
    """Return `config` with its defaults filled in, `resources`, `model`, `corpora` and `target`.

    Raises every error that the run would raise before a worker starts.
    """
    config, parameters = classify.check(config)
    return {
        "config": to_plain(config),
        "resources": preview_resources(config.resources, config.optim.batch_size),
        "model": {"parameters": parameters, "gib_per_worker_without_activations": memory_gib(parameters)},
        "corpora": [preview_corpus(uri, config.data.index, config.data.storage) for uri in config.data.corpus],
        "target": [preview_corpus(uri, config.data.index, config.data.storage) for uri in config.target.corpus],
    }
