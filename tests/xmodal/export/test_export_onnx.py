"""Tests of the ONNX export: onnxruntime reproduces the towers for any number of rows and tokens, or it is refused."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from support.export_fixtures import model_of
from xmodal.encoders import DualEncoder
from xmodal.errors import ConfigError, XmodalError
from xmodal.export import onnx
from xmodal.export.probe import probe_batch


@pytest.mark.parametrize("kind", ["vit-tiny", "conv-bag", "resnet50-bert", "hog-tiny"])
def test_onnxruntime_reproduces_the_models_embeddings(tmp_path: Path, kind: str) -> None:
    model = model_of(kind, tmp_path)
    written = onnx.write_onnx(model, tmp_path, {"step": "7"})
    assert [file.path for file in written] == ["onnx/image.onnx", "onnx/text.onnx"]
    assert all(file.difference < 1e-5 for file in written)
    image, text = (onnxruntime.InferenceSession(tmp_path / file.path) for file in written)
    assert [put.name for put in image.get_inputs()] == ["pixel_values"]
    assert [put.name for put in text.get_inputs()] == ["input_ids", "attention_mask"]
    assert [file.get_outputs()[0].name for file in (image, text)] == ["image_embeds", "text_embeds"]
    for rows in (1, 2, 7):
        probe = probe_batch(model, rows)
        output = image.run(None, {"pixel_values": probe.pixel_values.numpy()})[0]
        assert output == pytest.approx(probe.image.numpy(), abs=1e-5)
        ids, mask = probe.input_ids.numpy(), probe.attention_mask.numpy()
        output = text.run(None, {"input_ids": ids, "attention_mask": mask})[0]
        assert output == pytest.approx(probe.text.numpy(), abs=1e-5)
        assert np.linalg.norm(output, axis=1) == pytest.approx(1, abs=1e-5)


def test_files_with_external_weights_carry_the_metadata_that_their_use_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx, "MAX_SINGLE_FILE_BYTES", 1000)
    model = model_of("conv-bag", tmp_path)
    biased = DualEncoder(dict(model.towers.items()), log_scale=2.5, logit_bias=-3.0).eval()
    onnx.write_onnx(biased, tmp_path, {"step": "7"})
    assert (tmp_path / "onnx/image.onnx.data").stat().st_size > (tmp_path / "onnx/image.onnx").stat().st_size
    about = onnxruntime.InferenceSession(tmp_path / "onnx/image.onnx").get_modelmeta().custom_metadata_map
    assert float(about["logit_scale"]) == pytest.approx(np.exp(2.5)) and float(about["logit_bias"]) == -3
    assert about["image_size"] == "32" and about["step"] == "7" and about["image_mean"].startswith("[0.48145466")
    about = onnxruntime.InferenceSession(tmp_path / "onnx/text.onnx").get_modelmeta().custom_metadata_map
    assert about["context_length"] == "32" and about["embedding_dim"] == "32"


def test_a_file_whose_output_differs_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx, "SMALLEST_NORM", 100.0)
    with pytest.raises(XmodalError, match=r"onnx/image.onnx differs from the image tower by 0\.\d+ \(allowed 0.0001\)"):
        onnx.write_onnx(model_of("conv-bag", tmp_path), tmp_path, {})


def test_a_tower_that_onnx_cannot_express_is_named_in_the_error(tmp_path: Path) -> None:
    model = model_of("conv-bag", tmp_path)
    norm = model.tower("text").backbone.norm1
    norm.register_forward_hook(lambda module, inputs, output: torch.fft.fft(output).real * float(output.sum().item()))
    with pytest.raises(XmodalError, match=r"the text tower \(xmodal-bag\) cannot be written as ONNX: .") as refused:
        onnx.write_onnx(model, tmp_path, {})
    assert "\n" not in str(refused.value)


def test_missing_packages_are_named_in_the_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx, "REQUIRED_PACKAGES", ("onnx", "no_such_package"))
    with pytest.raises(ConfigError, match=r"needs no_such_package: pip install 'xmodal\[onnx\]'"):
        onnx.write_onnx(model_of("conv-bag", tmp_path), tmp_path, {})
