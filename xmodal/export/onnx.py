"""Write both towers of a dual encoder as ONNX files; onnxruntime runs each and its output is compared with the tower's.

    onnx/image.onnx  pixel_values [batch, 3, size, size] float32                     -> image_embeds [batch, D]
    onnx/text.onnx   input_ids, attention_mask [batch, tokens] int64, tokens <= context -> text_embeds [batch, D]

The outputs have unit length. The metadata of both files holds `logit_scale`, the factor on their cosine similarity.
"""

import importlib.util
import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xmodal.encoders.dual_encoder import SMALLEST_NORM, DualEncoder
from xmodal.encoders.tower import Tower
from xmodal.errors import ConfigError, XmodalError
from xmodal.export.probe import ProbeBatch, probe_batch

FOLDER = "onnx"
REQUIRED_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
MAX_DIFFERENCE = 1e-4  # of an element of a unit vector
MAX_SINGLE_FILE_BYTES = 1 << 30  # larger weights get a file of their own: protobuf limits the graph's to 2 GiB
INPUTS = {"image": ("pixel_values",), "text": ("input_ids", "attention_mask")}
DYNAMIC_AXES = {"image": {0: "batch"}, "text": {0: "batch", 1: "tokens"}}


@dataclass(frozen=True, kw_only=True)
class OnnxFile:
    """A written file, by its path in the directory, with the largest difference of its output from the tower's."""

    path: str
    difference: float


def require_onnx_packages() -> None:
    """Raise ConfigError where a package of the extra `onnx` is not installed."""
    missing = [name for name in REQUIRED_PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(f"ONNX export needs {', '.join(missing)}: pip install 'xmodal[onnx]'")


def write_onnx(model: DualEncoder, directory: Path, metadata: Mapping[str, str]) -> tuple[OnnxFile, ...]:
    """Write both files below `directory`, with `metadata` in each.

    XmodalError for a tower that cannot be expressed in ONNX, or whose output differs.
    """
    require_onnx_packages()
    (directory / FOLDER).mkdir(parents=True, exist_ok=True)
    return tuple(_write_tower(model, modality, directory, metadata) for modality in INPUTS)


class _EmbeddingModule(nn.Module):
    """A tower as a module of positional inputs that returns unit vectors."""

    def __init__(self, tower: Tower, input_names: tuple[str, ...]) -> None:
        super().__init__()
        self.tower, self.input_names = tower, input_names

    def forward(self, *inputs: Tensor) -> Tensor:
        features = self.tower.features(dict(zip(self.input_names, inputs, strict=True)))
        return F.normalize(features.float(), dim=-1, eps=SMALLEST_NORM)


def _write_tower(model: DualEncoder, modality: str, directory: Path, metadata: Mapping[str, str]) -> OnnxFile:
    tower, path = model.tower(modality), f"{FOLDER}/{modality}.onnx"
    with _without_exporter_warnings():
        program = _export_tower(model, modality)
        program.model.metadata_props.update(_model_metadata(model, modality) | dict(metadata))
        program.save(str(directory / path), external_data=_weight_bytes(tower) > MAX_SINGLE_FILE_BYTES)
    difference = max(_difference(directory / path, modality, probe_batch(model, rows)) for rows in (1, 3, 5))
    if not difference <= MAX_DIFFERENCE:
        raise XmodalError(
            f"{path} differs from the {modality} tower by {difference:.2g} (allowed {MAX_DIFFERENCE:g}): it is "
            "not written; leave --onnx out"
        )
    return OnnxFile(path=path, difference=difference)


def _export_tower(model: DualEncoder, modality: str) -> Any:
    """Return the tower's ONNX program; XmodalError where torch cannot express it."""
    tower, names, probe = model.tower(modality), INPUTS[modality], probe_batch(model)
    try:
        return torch.onnx.export(
            _EmbeddingModule(tower, names).eval(),
            tuple(getattr(probe, name) for name in names),
            input_names=names,
            output_names=(f"{modality}_embeds",),
            dynamic_shapes=(tuple(DYNAMIC_AXES[modality] for _ in names),),
            dynamo=True,
            verbose=False,
        )
    except Exception as error:  # the exporter raises many kinds, all of them for a graph it cannot make
        reason = str(error).strip().splitlines()[0]
        kind = tower.backbone.config.model_type
        raise XmodalError(f"the {modality} tower ({kind}) cannot be written as ONNX: {reason}") from error


def _model_metadata(model: DualEncoder, modality: str) -> dict[str, str]:
    """Return what a user of the file needs to prepare its inputs and to compare its outputs, as strings."""
    input_adapter: Any = model.tower(modality).input_adapter
    bias = model.logit_bias
    shared = {
        "logit_scale": repr(model.log_scale.exp().item()),
        "logit_bias": repr(0.0 if bias is None else bias.item()),
        "embedding_dim": str(model.dim),
    }
    if modality == "text":
        return shared | {"context_length": str(input_adapter.size)}
    mean, std = json.dumps(input_adapter.mean), json.dumps(input_adapter.std)
    return shared | {"image_size": str(input_adapter.size), "image_mean": mean, "image_std": std}


def _difference(path: Path, modality: str, probe: ProbeBatch) -> float:
    """Return the largest difference between onnxruntime's output and the model's embeddings."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    (output,) = session.run(None, {name: getattr(probe, name).numpy() for name in INPUTS[modality]})
    difference: float = (torch.from_numpy(output) - getattr(probe, modality)).abs().max().item()
    return difference


def _weight_bytes(tower: Tower) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tower.state_dict().values())


@contextmanager
def _without_exporter_warnings() -> Iterator[None]:
    """Silence the exporter's warnings on optional packages and on axes that share a name."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
