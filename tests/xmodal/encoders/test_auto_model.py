"""Dual encoders that are no CLIP in transformers' own classes: equal vectors, and the zero-shot pipeline."""

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModel, AutoModelForZeroShotImageClassification, pipeline
from transformers.utils import logging as transformers_logging

from support.export_fixtures import KINDS, model_of, tokenizer
from xmodal.encoders import DualEncoder, DualEncoderModel
from xmodal.export.probe import probe_batch

OTHERS = [kind for kind in KINDS if kind != "vit-tiny"]


@pytest.mark.parametrize("kind", OTHERS)
def test_auto_model_gives_the_vectors_and_logits_of_the_dual_encoder(tmp_path: Path, kind: str) -> None:
    model = model_of(kind, tmp_path)
    model.save_pretrained(tmp_path / "model", tokenizer_json=tokenizer())
    loaded, report = AutoModel.from_pretrained(tmp_path / "model", output_loading_info=True)
    assert isinstance(loaded, DualEncoderModel) and not any(report.values()), "nothing missing, nothing left over"
    given = probe_batch(model)
    with torch.no_grad():
        out = loaded.eval()(
            input_ids=given.input_ids, attention_mask=given.attention_mask, pixel_values=given.pixel_values
        )
        expected = given.image @ given.text.T * model.log_scale.exp()
    torch.testing.assert_close(out.image_embeds, given.image, atol=1e-6, rtol=0)
    torch.testing.assert_close(out.text_embeds, given.text, atol=1e-6, rtol=0)
    torch.testing.assert_close(out.logits_per_image, expected, atol=1e-4, rtol=0)
    assert torch.equal(out.logits_per_text, out.logits_per_image.T)


def test_a_directory_saved_by_transformers_loads_as_dual_encoder(tmp_path: Path) -> None:
    model = model_of("conv-bag", tmp_path)
    model.save_pretrained(tmp_path / "ours", tokenizer_json=tokenizer())
    AutoModel.from_pretrained(tmp_path / "ours").save_pretrained(tmp_path / "theirs")
    loaded = DualEncoder.from_pretrained(tmp_path / "theirs").eval()
    assert torch.equal(loaded.encode("image", probe_batch(model).batch), probe_batch(model).image)


def test_the_sigmoid_bias_is_in_the_logits(tmp_path: Path) -> None:
    model = model_of("conv-tiny", tmp_path)
    biased = DualEncoder(dict(model.towers.items()), logit_bias=-3.0).eval()
    biased.save_pretrained(tmp_path / "model")
    loaded = AutoModelForZeroShotImageClassification.from_pretrained(tmp_path / "model").eval()
    given = probe_batch(biased)
    with torch.no_grad():
        out = loaded(input_ids=given.input_ids, attention_mask=given.attention_mask, pixel_values=given.pixel_values)
        expected = given.image @ given.text.T * biased.log_scale.exp() - 3
    torch.testing.assert_close(out.logits_per_image, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", ["vit-tiny", "conv-bag", "resnet50-bert"])
def test_the_zero_shot_pipeline_works(tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    model_of(kind, tmp_path).save_pretrained(tmp_path / "model", tokenizer_json=tokenizer())
    transformers_logging.enable_propagation()
    try:
        with caplog.at_level(logging.ERROR, logger="transformers"):
            classify = pipeline("zero-shot-image-classification", model=str(tmp_path / "model"))
            image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 60, 3), dtype=np.uint8))
            answers = classify(image, candidate_labels=["circle", "square"], hypothesis_template="a {}")
    finally:
        transformers_logging.disable_propagation()
    assert {answer["label"] for answer in answers} == {"circle", "square"}
    assert sum(answer["score"] for answer in answers) == pytest.approx(1)
    assert not caplog.records, "no message about an unsupported model"
