"""Preview a pretraining run."""

from pipelines.preview.locations import preview_corpus
from pipelines.preview.training import memory_gib, preview_resources
from pipelines.stages import pretrain
from xmodal.encoders.dual_encoder import DualEncoder
from xmodal.run.plain_config import to_plain


def preview_run(config: pretrain.PretrainConfig) -> dict[str, object]:
    """Return `config` with its defaults filled in, `resources`, `model` and `corpora`.

    Raises every error that the run would raise before a worker starts.
    """
    config, _, model = pretrain.check(config)
    data, held_out = config.data, config.validation.corpus
    return {
        "config": to_plain(config),
        "resources": preview_resources(config.resources, config.optim.batch_size),
        "model": _preview_model(model),
        "corpora": [preview_corpus(uri, data.index, data.storage) for uri in data.corpus],
        "validation": held_out and preview_corpus(held_out, data.index, data.storage),
    }


def _preview_model(model: DualEncoder) -> dict[str, object]:
    parameters = sum(p.numel() for p in model.parameters())
    towers = {m: sum(p.numel() for p in model.tower(m).parameters()) for m in model.modalities}
    return {
        "parameters": parameters,
        "towers": towers,
        "dim": model.dim,
        "gib_per_worker_without_activations": memory_gib(parameters),
    }
