"""The encoders of a classifier start with the towers of a pretrained checkpoint. No Ray is needed."""

from dataclasses import replace

import pytest
import torch

from jobs.classify import parse
from pipelines.config.classifier import ClassifierConfig
from pipelines.models.classifier import build_classifier, initial_encoder_weights
from pipelines.stages import classify
from xmodal.checkpoint import commit
from xmodal.encoders.dual_encoder import DualEncoder
from xmodal.errors import CheckpointError, StorageError
from xmodal.storage import StorageOptions

SIZES = {"frames": 2, "size": 32, "bands": 16, "widths": (8, 16), "seconds": 0.5}
CHOSEN = ClassifierConfig(classes=("a", "b", "c"), **SIZES)


def run_of(folder, **changes) -> str:
    torch.manual_seed(1)
    model = DualEncoder.create("av-tiny", **SIZES | {"dim": 8} | changes)
    model.save_pretrained(folder / "files")
    commit(folder / "files", str(folder / "run" / "checkpoints"), step=3, attempt=1, run_id="a")
    return str(folder / "run")


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """Write a checkpoint for other seconds and another number of frames, which convolutions do not depend on."""
    return run_of(tmp_path_factory.mktemp("pretrained"), seconds=0.8, frames=3, audio_grid=(2, 2))


def start(uri, **changes):
    return initial_encoder_weights(replace(CHOSEN, start_from=uri, **changes), StorageOptions())


def test_encoders_start_with_the_weights_of_the_towers_and_the_rest_from_the_seed(pretrained):
    weights = start(pretrained)
    towers = DualEncoder.from_pretrained(f"{pretrained}/../files")
    fresh, model = build_classifier(CHOSEN, 0), build_classifier(CHOSEN, 0, weights)
    for name in ("audio", "video"):
        expected = towers.tower(name).backbone.state_dict()
        for key, value in model.encoder(name).backbone.state_dict().items():
            torch.testing.assert_close(value, expected[key], rtol=0, atol=0)
    others = [key for key in fresh.state_dict() if ".backbone." not in key]
    assert others and all(torch.equal(fresh.state_dict()[key], model.state_dict()[key]) for key in others)
    assert {key for key in model.state_dict() if ".backbone." in key} == set(weights)


def test_without_a_checkpoint_nothing_is_loaded():
    assert start(None) is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"widths": (8, 24)}, r"audio widths is \[8, 16\], here \[8, 24\]"),
        ({"bands": 24}, "audio bands is 16, here 24"),
        ({"level": -3.0}, r"audio level is -4\.0, here -3\.0"),
        ({"rate": 8000}, "audio rate is 16000, here 8000"),
    ],
)
def test_a_tower_of_other_sizes_is_rejected(changes, message, pretrained):
    with pytest.raises(CheckpointError, match=message) as refusal:
        start(pretrained, **changes)
    assert "Give the same sizes to both" in str(refusal.value)


def test_a_checkpoint_of_images_and_captions_is_rejected(untrained):
    with pytest.raises(CheckpointError, match="pairs image and text: it has no tower for audio and video"):
        start(untrained)


def test_the_job_rejects_weights_before_it_starts(pretrained, tmp_path):
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / "0.tar").touch()
    words = ["clips", "--corpus", str(tmp_path / "clips"), "--runs", str(tmp_path / "runs"), "--classes", "a", "b", "c"]
    asked = parse([*words, "--start-from", pretrained])
    assert asked.model.start_from == pretrained
    with pytest.raises(
        CheckpointError, match=r"audio bands is 16, here 64; audio widths is \[8, 16\], here \[32, 64, 128\]"
    ):
        classify.check(asked)


def test_a_location_without_a_checkpoint_is_rejected(tmp_path):
    with pytest.raises((CheckpointError, StorageError), match="nothing"):
        start(str(tmp_path / "nothing"))
