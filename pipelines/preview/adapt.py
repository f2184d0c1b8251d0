"""Preview an adaptation to a domain without pairs."""

from pipelines.config.adapt import AdaptConfig
from pipelines.preview.locations import preview_corpus
from pipelines.preview.training import memory_gib, preview_resources
from pipelines.stages import adapt
from xmodal.run.plain_config import to_plain


def preview_run(config: AdaptConfig) -> dict[str, object]:
    """Return `config` with its defaults filled in, `resources`, `model`, and the corpora of both domains.

    Raises every error that the run would raise before a worker starts.
    """
    config, start, model = adapt.check(config)
    data, held_out = config.data, config.validation.corpus
    parameters = sum(p.numel() for p in model.parameters())
    return {
        "config": to_plain(config),
        "resources": preview_resources(config.resources, config.optim.batch_size),
        "model": {"starts_from": start.uri, "parameters": parameters, "dim": model.dim,
                  "gib_per_worker_without_activations": memory_gib(parameters)},
        "corpora": [preview_corpus(uri, data.index, data.storage) for uri in data.corpus],
        "target": [preview_corpus(uri, data.index, data.storage) for uri in config.target.corpus],
        "target_texts": [preview_corpus(uri, data.index, data.storage) for uri in config.target.text_corpus],
        "validation": held_out and preview_corpus(held_out, data.index, data.storage),
    }  # fmt: skip
