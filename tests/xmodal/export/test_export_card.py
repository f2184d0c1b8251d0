"""Tests of the model card: a valid header, results of these weights only, and no paths of the author's machine."""

import re
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from support.export_fixtures import model_of
from xmodal.export.card import CardContent, loading_note, render_card
from xmodal.export.onnx import OnnxFile
from xmodal.run.run_record import EvaluationRecord

RECORD: dict[str, Any] = {
    "name": "first",
    "created": "2026-11-21T12:00:00+00:00",
    "corpora": {"/home/alice/shards/train": "aa11", "s3://bucket/laion": "bb22"},
    "config": {
        "seed": 3,
        "runs": "/home/alice/runs",
        "data": {"corpus": ["/home/alice/shards/train"], "endpoint": "http://storage.internal:9000", "weights": []},
        "model": {"architecture": "hub", "arguments": ["image=/home/alice/vit", "text=bert-base"]},
        "optim": {"batch_size": 128, "precision": "bf16"},
        "resources": {"address": "ray://head:10001"},
    },
    "provenance": {
        "commit": "c0ffee",
        "python": "3.11.7",
        "packages": {"torch": "2.13.0"},
        "hardware": {"cores": 2, "memory_gib": 23.5, "gpus": []},
    },
}


def evaluation(step: int, **changes: Any) -> EvaluationRecord:
    values: dict[str, Any] = {
        "name": f"held-out-step-{step}", "step": step, "corpus": "/data/held-out", "fingerprint": "cc33", "rows": 512,
        "skipped": 2, "metrics": {"text_to_image/recall@10": 0.4219, "text_to_image/median_rank": 14.0},
        "interval": {"text_to_image/recall@10": (0.38, 0.46)}, "chance": {"text_to_image/recall@10": 0.0195},
    }  # fmt: skip
    return EvaluationRecord(**values | changes)


def content(tmp_path: Path, kind: str = "vit-tiny", **changes: Any) -> CardContent:
    values: dict[str, Any] = {
        "name": "first", "version": "0.1.0", "model": model_of(kind, tmp_path), "step": 7, "weights": "5a" * 32,
        "record": RECORD, "metrics": {"rows/delivered": 38400, "rows/quarantined": 5},
        "evaluations": (evaluation(7), evaluation(5, metrics={"zero_shot/accuracy@1": 0.99})), "onnx": (),
    }  # fmt: skip
    return CardContent(**values | changes)


def test_the_header_has_the_metadata_that_the_hub_reads(tmp_path: Path) -> None:
    card = ModelCard(render_card(content(tmp_path)))
    assert card.data.library_name == "transformers" and card.data.pipeline_tag == "zero-shot-image-classification"
    assert card.data.model_name == "first" and "clip" in card.data.tags and "onnx" not in card.data.tags
    metrics = {result.metric_type: result.metric_value for result in card.data.eval_results}
    assert metrics == {"recall@10": 0.4219, "median_rank": 14}
    assert {(result.dataset_name, result.dataset_revision) for result in card.data.eval_results} == {
        ("held-out", "cc33")
    }


def test_results_have_intervals_and_chance_levels_and_other_steps_are_left_out(tmp_path: Path) -> None:
    text = render_card(content(tmp_path))
    assert "| text → image R@10 | 42.2 % | 38.0 % to 46.0 % | 1.9 % |" in text.replace("1.95 %", "1.9 %")
    assert "On `held-out` (fingerprint `cc33`): 512 rows, 2 could not be read." in text
    assert "99.0 %" not in text and "Other steps of the run were evaluated (5); those results are not" in text
    assert "The model was not evaluated at this step" in render_card(content(tmp_path, evaluations=()))


def test_training_data_are_named_without_the_authors_private_paths(tmp_path: Path) -> None:
    text = render_card(content(tmp_path))
    for words in ("`train`, fingerprint `aa11`", "`s3://bucket/laion`, fingerprint `bb22`", "commit `c0ffee`", "5a5a",
                  "torch 2.13.0", '"image=vit"', "38,400 (5 more were quarantined)", "128 pairs, bf16"):  # fmt: skip
        assert words in text, words
    for words in ("alice", "storage.internal", "ray://", "/data/"):
        assert words not in text, words
    assert "its training data are unknown" in render_card(content(tmp_path, record={}, evaluations=()))


def test_markup_in_untrusted_text_is_escaped(tmp_path: Path) -> None:
    attack = "x\n---\n# <script>alert(1)</script> | `a` [b](javascript:c) \u202e"
    untrusted = evaluation(7, corpus=attack, metrics={f"{attack}/recall@1": 0.5}, interval={}, chance={})
    record = RECORD | {
        "corpora": {attack: attack},
        "provenance": {"commit": attack},
        "config": {"name": "```\n</details>"},
    }
    text = render_card(content(tmp_path, name=attack, record=record, evaluations=(untrusted,)))
    card = ModelCard(text)
    assert card.data.library_name == "transformers" and len(card.data.eval_results) == 1
    body = text.split("\n---\n", 1)[1]
    lines = [line for line in body.splitlines() if "script" in line]
    assert all("&lt;script" in line or "`" in line for line in lines) and "\u202e" not in body
    assert not any(line.startswith(("---", "</details> ")) for line in lines)
    assert sum(line.startswith("#") for line in body.splitlines()) == 5, "no heading but those of the template"


@pytest.mark.parametrize(
    ("kind", "onnx", "words"),
    [
        ("vit-tiny", False, "transformers loads all of it as a CLIP"),
        ("conv-bag", False, r"xmodal-conv and xmodal-bag\) are no CLIP.*where xmodal is installed, after `import"),
        ("resnet50-bert", True, "resnet and bert.*the ONNX files need no xmodal"),
    ],
)
def test_the_card_says_which_tools_load_the_model(tmp_path: Path, kind: str, onnx: bool, words: str) -> None:
    model = model_of(kind, tmp_path)
    assert re.search(words, loading_note(model, onnx=onnx))
    files = (OnnxFile(path="onnx/image.onnx", difference=1e-7), OnnxFile(path="onnx/text.onnx", difference=2e-7))
    text = render_card(content(tmp_path, kind, onnx=files if onnx else ()))
    assert loading_note(model, onnx=onnx) in text and ("import onnxruntime" in text) == onnx
    assert ("import xmodal.encoders" in text) == (kind != "vit-tiny")
