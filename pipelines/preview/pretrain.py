"""The preview of a pretraining run."""

from typing import Any

from pipelines.preview.locations import corpus
from pipelines.preview.training import memory_gib, resources
from pipelines.stages import pretrain
from xmodal.encoders.dual_encoder import DualEncoder
from xmodal.run.plain_config import to_plain


def of(config: pretrain.Config) -> dict[str, Any]:
    """`config` with its defaults filled in, `resources`, `model` and `corpora`.

    Raises whatever would be refused before a worker starts.
    """
    config, _, model = pretrain.check(config)
    data, held_out = config.data, config.validation.corpus
    return {
        "config": to_plain(config),
        "resources": resources(config.resources, config.optim.batch_size),
        "model": _model(model),
        "corpora": [corpus(uri, data.index, data.storage) for uri in data.corpus],
        "validation": held_out and corpus(held_out, data.index, data.storage),
    }


def _model(model: DualEncoder) -> dict[str, Any]:
    parameters = sum(p.numel() for p in model.parameters())
    towers = {m: sum(p.numel() for p in model.tower(m).parameters()) for m in model.modalities}
    return {
        "parameters": parameters,
        "towers": towers,
        "dim": model.dim,
        "gib_per_worker_without_activations": memory_gib(parameters),
    }
