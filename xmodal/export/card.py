"""A model and its origin in, the README of its directory out: a model card as the Hugging Face Hub reads it."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from huggingface_hub import EvalResult, ModelCardData
from jinja2 import Environment, PackageLoader, StrictUndefined

from xmodal.encoders.clip import is_clip_shaped
from xmodal.encoders.dual_encoder import DualEncoder
from xmodal.export.onnx import Checked
from xmodal.export.origin import Measured, cell, code, facts, measured, other_steps, settings
from xmodal.formatting import clean
from xmodal.run.run_record import Evaluated

PIPELINE = "zero-shot-image-classification"


@dataclass(frozen=True, kw_only=True)
class Material:
    """All that a card is made from; `record` is `run.json`, empty where there is none."""

    name: str
    version: str  # of xmodal
    model: DualEncoder
    step: int
    weights: str  # SHA-256 of model.safetensors
    record: Mapping[str, Any]
    at: Mapping[str, Any]  # metrics at the exported step
    evaluations: Sequence[Evaluated]
    onnx: tuple[Checked, ...]


def write_card(material: Material) -> str:
    """The text of README.md."""
    environment = Environment(
        loader=PackageLoader("xmodal.export", "templates"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"cell": cell, "code": code}
    clips = "text" not in material.model.modalities
    return environment.get_template("clips.md" if clips else "card.md").render(_values(material))


def is_clip(model: DualEncoder) -> bool:
    """Whether transformers alone loads the model, as a CLIPModel."""
    return is_clip_shaped({modality: model.tower(modality) for modality in model.modalities})


def what_loads(model: DualEncoder, *, onnx: bool) -> str:
    """One sentence: which tools load the directory, and what they need."""
    files = "onnxruntime runs onnx/image.onnx and onnx/text.onnx" if onnx else ""
    if "text" not in model.modalities:
        return "xmodal.encoders.DualEncoder.from_pretrained(directory), where xmodal is installed"
    if is_clip(model):
        return f"transformers loads all of it as a CLIP, pipeline('{PIPELINE}') included{files and f'; {files}'}"
    kinds = " and ".join(model.tower(modality).backbone.config.model_type for modality in model.modalities)
    without = "the image processor, the tokenizer and the ONNX files need no xmodal" if onnx else (
        "the image processor and the tokenizer need no xmodal"
    )  # fmt: skip
    return (
        f"its towers ({kinds}) are no CLIP, so transformers' AutoModel and pipeline('{PIPELINE}') load them where "
        f"xmodal is installed, after `import xmodal.encoders`; {without}"
    )


def _values(material: Material) -> dict[str, Any]:
    model = material.model
    found = measured(material.evaluations, material.step)
    return {
        **_sizes(model),
        "header": _header(material, found),
        "title": cell(material.name),
        "clip": is_clip(model),
        "loads": what_loads(model, onnx=bool(material.onnx)),
        "kinds": [cell(model.tower(modality).backbone.config.model_type) for modality in model.modalities],
        "parameters": f"{sum(p.numel() for p in model.parameters()):,}",
        "dim": model.dim,
        "scale": f"{model.log_scale.exp().item():.4g}",
        "bias": None if model.logit_bias is None else f"{model.logit_bias.item():.4g}",
        "step": material.step,
        "weights": material.weights,
        "version": material.version,
        "measured": found,
        "others": other_steps(material.evaluations, material.step),
        "facts": facts(material.record, material.at),
        "settings": json.dumps(settings(material.record), indent=2, ensure_ascii=False) if material.record else "",
        "onnx": material.onnx,
    }


def _sizes(model: DualEncoder) -> dict[str, Any]:
    """Of what the towers take."""
    intakes = {name: model.tower(name).intake for name in model.modalities}
    return intakes if "text" not in intakes else {"size": intakes["image"].size, "context": intakes["text"].size}


def _header(material: Material, found: Sequence[Measured]) -> str:
    """The YAML between the dashes."""
    name = clean(material.name)
    text = "text" in material.model.modalities
    data = ModelCardData(
        library_name="transformers" if is_clip(material.model) else "xmodal",
        pipeline_tag=PIPELINE if text else None,
        tags=["xmodal", "dual-encoder", "contrastive", *(["clip"] if is_clip(material.model) else [])]
        + (["onnx"] if material.onnx else []),
        model_name=name,
        eval_results=list(_results(found)) or None,
    )
    return data.to_yaml().strip()


def _results(found: Sequence[Measured]) -> Iterator[EvalResult]:
    for one in found:
        for figure in one.figures:
            pair = "audio-video" if "audio" in figure.name else "image-text"
            kind = PIPELINE if figure.name.startswith("zero_shot") else f"{pair}-retrieval"
            yield EvalResult(
                task_type="image-classification" if figure.name.startswith("linear_probe") else kind,
                dataset_type="custom",
                dataset_name=one.corpus,
                dataset_revision=one.fingerprint,
                metric_type=figure.name.partition("/")[2] or figure.name,
                metric_name=figure.label,
                metric_value=round(figure.value, 6),
            )
