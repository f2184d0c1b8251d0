"""Both towers in, `onnx/image.onnx` and `onnx/text.onnx` out, each run by onnxruntime and compared with its tower.

    image.onnx  pixel_values [batch, 3, size, size] float32                     -> image_embeds [batch, D]
    text.onnx   input_ids, attention_mask [batch, tokens] int64, tokens <= context -> text_embeds [batch, D]

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
from xmodal.export.probe import Probe, probe

FOLDER = "onnx"
NEEDED = ("onnx", "onnxscript", "onnxruntime")
LARGEST_DIFFERENCE = 1e-4  # of a number in a unit vector
LARGEST_SINGLE_FILE = 1 << 30  # bytes of weights; above it they lie beside the graph, which protobuf limits to 2 GiB
INPUTS = {"image": ("pixel_values",), "text": ("input_ids", "attention_mask")}
AXES = {"image": {0: "batch"}, "text": {0: "batch", 1: "tokens"}}


@dataclass(frozen=True, kw_only=True)
class Checked:
    """A written file, by its path in the directory, and how far onnxruntime's output is from the tower's at most."""

    path: str
    difference: float


def check_extra() -> None:
    """ConfigError where a package of the extra is not installed."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(f"ONNX export needs {', '.join(missing)}: pip install 'xmodal[onnx]'")


def write(model: DualEncoder, directory: Path, about: Mapping[str, str]) -> tuple[Checked, ...]:
    """Write both files below `directory`, with `about` in their metadata.

    XmodalError for a tower that cannot be expressed in ONNX, and for one whose output differs.
    """
    check_extra()
    (directory / FOLDER).mkdir(parents=True, exist_ok=True)
    return tuple(_write_tower(model, modality, directory, about) for modality in INPUTS)


class _Exported(nn.Module):
    """A tower with its named inputs as arguments and the normalised embedding as result."""

    def __init__(self, tower: Tower, names: tuple[str, ...]) -> None:
        super().__init__()
        self.tower, self.names = tower, names

    def forward(self, *inputs: Tensor) -> Tensor:
        features = self.tower.features(dict(zip(self.names, inputs, strict=True)))
        return F.normalize(features.float(), dim=-1, eps=SMALLEST_NORM)


def _write_tower(model: DualEncoder, modality: str, directory: Path, about: Mapping[str, str]) -> Checked:
    tower, names, path = model.tower(modality), INPUTS[modality], f"{FOLDER}/{modality}.onnx"
    given = probe(model)
    with _quiet():
        try:
            program: Any = torch.onnx.export(
                _Exported(tower, names).eval(),
                tuple(getattr(given, name) for name in names),
                input_names=names,
                output_names=(f"{modality}_embeds",),
                dynamic_shapes=(tuple(AXES[modality] for _ in names),),
                dynamo=True,
                verbose=False,
            )
        except Exception as error:  # the exporter raises many kinds, all of them for a graph it cannot make
            reason = str(error).strip().splitlines()[0]
            kind = tower.backbone.config.model_type
            raise XmodalError(f"the {modality} tower ({kind}) cannot be written as ONNX: {reason}") from error
        program.model.metadata_props.update(_metadata(model, modality) | dict(about))
        program.save(str(directory / path), external_data=_bytes(tower) > LARGEST_SINGLE_FILE)
    difference = max(_difference(directory / path, modality, probe(model, rows)) for rows in (1, 3, 5))
    if not difference <= LARGEST_DIFFERENCE:
        raise XmodalError(
            f"{path} differs from the {modality} tower by {difference:.2g} (allowed {LARGEST_DIFFERENCE:g}): it is "
            "not written; leave --onnx out"
        )
    return Checked(path=path, difference=difference)


def _metadata(model: DualEncoder, modality: str) -> dict[str, str]:
    """What a user of the file must know to prepare its inputs and to compare its outputs, as strings."""
    intake: Any = model.tower(modality).intake
    bias = model.logit_bias
    shared = {
        "logit_scale": repr(model.log_scale.exp().item()),
        "logit_bias": repr(0.0 if bias is None else bias.item()),
        "embedding_dim": str(model.dim),
    }
    if modality == "text":
        return shared | {"context_length": str(intake.size)}
    mean, std = json.dumps(intake.mean), json.dumps(intake.std)
    return shared | {"image_size": str(intake.size), "image_mean": mean, "image_std": std}


def _difference(path: Path, modality: str, given: Probe) -> float:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {name: getattr(given, name).numpy() for name in INPUTS[modality]})
    return (torch.from_numpy(found) - getattr(given, modality)).abs().max().item()


def _bytes(tower: Tower) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tower.state_dict().values())


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter's remarks on optional packages and on axes that share a name help nobody here."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
