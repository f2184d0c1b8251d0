"""Write the README.md of an exported model: a model card as the Hugging Face Hub reads it."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from huggingface_hub import EvalResult, ModelCardData
from jinja2 import Environment, PackageLoader, StrictUndefined

from xmodal.encoders.clip import is_clip_shaped
from xmodal.encoders.dual_encoder import DualEncoder
from xmodal.export.onnx import OnnxFile
from xmodal.export.origin import (
    CardResults,
    markdown_code,
    markdown_text,
    other_evaluated_steps,
    public_settings,
    results_at_step,
    training_facts,
)
from xmodal.formatting import clean_text
from xmodal.run.run_record import EvaluationRecord

PIPELINE = "zero-shot-image-classification"


@dataclass(frozen=True, kw_only=True)
class CardContent:
    """What a card is written from."""

    name: str
    version: str  # of xmodal
    model: DualEncoder
    step: int
    weights: str  # SHA-256 of model.safetensors
    record: Mapping[str, Any]  # content of run.json; empty where there is none
    metrics: Mapping[str, Any]  # of training, at the exported step
    evaluations: Sequence[EvaluationRecord]
    onnx: tuple[OnnxFile, ...]


def render_card(content: CardContent) -> str:
    """Return the text of README.md."""
    environment = Environment(
        loader=PackageLoader("xmodal.export", "templates"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"text": markdown_text, "code": markdown_code}
    template = "card.md" if "text" in content.model.modalities else "clips.md"
    return environment.get_template(template).render(_template_values(content))


def loads_as_clip(model: DualEncoder) -> bool:
    """Return whether transformers alone loads the model, as a CLIPModel."""
    return is_clip_shaped({modality: model.tower(modality) for modality in model.modalities})


def loading_note(model: DualEncoder, *, onnx: bool) -> str:
    """Return one sentence: which tools load the directory, and what they need."""
    files = "onnxruntime runs onnx/image.onnx and onnx/text.onnx" if onnx else ""
    if "text" not in model.modalities:
        return "xmodal.encoders.DualEncoder.from_pretrained(directory), where xmodal is installed"
    if loads_as_clip(model):
        return f"transformers loads all of it as a CLIP, pipeline('{PIPELINE}') included{files and f'; {files}'}"
    kinds = " and ".join(_tower_kinds(model))
    parts = "the image processor, the tokenizer and the ONNX files" if onnx else "the image processor and the tokenizer"
    return (
        f"its towers ({kinds}) are no CLIP, so transformers' AutoModel and pipeline('{PIPELINE}') load them where "
        f"xmodal is installed, after `import xmodal.encoders`; {parts} need no xmodal"
    )


def _tower_kinds(model: DualEncoder) -> list[str]:
    return [model.tower(modality).backbone.config.model_type for modality in model.modalities]


def _template_values(content: CardContent) -> dict[str, object]:
    model = content.model
    results = results_at_step(content.evaluations, content.step)
    return {
        **_input_sizes(model),
        "header": _yaml_header(content, results),
        "title": markdown_text(content.name),
        "clip": loads_as_clip(model),
        "loads": loading_note(model, onnx=bool(content.onnx)),
        "kinds": [markdown_text(kind) for kind in _tower_kinds(model)],
        "parameters": f"{sum(p.numel() for p in model.parameters()):,}",
        "dim": model.dim,
        "scale": f"{model.log_scale.exp().item():.4g}",
        "bias": None if model.logit_bias is None else f"{model.logit_bias.item():.4g}",
        "step": content.step,
        "weights": content.weights,
        "version": content.version,
        "results": results,
        "other_steps": other_evaluated_steps(content.evaluations, content.step),
        "facts": training_facts(content.record, content.metrics),
        "settings": json.dumps(public_settings(content.record), indent=2, ensure_ascii=False) if content.record else "",
        "onnx": content.onnx,
    }


def _input_sizes(model: DualEncoder) -> dict[str, object]:
    """Return the size of the inputs: image size and context length, or the input adapters of video and audio."""
    adapters = {name: model.tower(name).input_adapter for name in model.modalities}
    return adapters if "text" not in adapters else {"size": adapters["image"].size, "context": adapters["text"].size}


def _yaml_header(content: CardContent, results: Sequence[CardResults]) -> str:
    """Return the metadata that stands between `---` at the top of the card."""
    clip = loads_as_clip(content.model)
    tags = ["xmodal", "dual-encoder", "contrastive", *(["clip"] if clip else []), *(["onnx"] if content.onnx else [])]
    data = ModelCardData(
        library_name="transformers" if clip else "xmodal",
        pipeline_tag=PIPELINE if "text" in content.model.modalities else None,
        tags=tags,
        model_name=clean_text(content.name),
        eval_results=list(_eval_results(results)) or None,
    )
    return data.to_yaml().strip()


def _eval_results(results: Sequence[CardResults]) -> Iterator[EvalResult]:
    for result in results:
        for metric in result.metrics:
            yield EvalResult(
                task_type=_task_type(metric.name),
                dataset_type="custom",
                dataset_name=result.corpus,
                dataset_revision=result.fingerprint,
                metric_type=metric.name.partition("/")[2] or metric.name,
                metric_name=metric.label,
                metric_value=round(metric.value, 6),
            )


def _task_type(metric: str) -> str:
    """Return the Hub's name for the task that a metric belongs to."""
    if metric.startswith("linear_probe"):
        return "image-classification"
    if metric.startswith("zero_shot"):
        return PIPELINE
    return "audio-video-retrieval" if "audio" in metric else "image-text-retrieval"
