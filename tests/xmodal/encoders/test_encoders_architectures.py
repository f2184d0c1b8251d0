"""The named architectures have the published sizes; the small ones fit a laptop."""

import pytest
import torch

from tests.xmodal.encoders.test_encoders import batch_of
from xmodal.encoders import DualEncoder
from xmodal.encoders.architectures import ARCHITECTURES
from xmodal.errors import ConfigError

OPENAI = {"vocab_size": 49408, "bos_id": 49406, "eos_id": 49407, "pad_id": 49407}
BERT = {"vocab_size": 30522, "bos_id": 101, "eos_id": 102, "pad_id": 0, "context": 512}
# Counted in OpenAI's released state dicts.
PUBLISHED = {"vit-b-32": 151_277_313, "vit-b-16": 149_620_737, "vit-l-14": 427_616_513}


def parameter_count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("architecture", PUBLISHED)
def test_clip_has_the_published_number_of_parameters(architecture: str) -> None:
    with torch.device("meta"):
        model = DualEncoder.create(architecture, **OPENAI)
    assert parameter_count(model) == PUBLISHED[architecture]
    assert all(model.tower(m).backbone.config._attn_implementation == "sdpa" for m in model.modalities)


def test_resnet50_and_bert_have_the_published_number_of_parameters() -> None:
    with torch.device("meta"):
        model = DualEncoder.create("resnet50-bert", **BERT)
    assert parameter_count(model.tower("image").backbone) == 25_557_032 - 2_049_000, "ResNet-50 without its classifier"
    assert parameter_count(model.tower("text").backbone) == 109_482_240 - 590_592, "BERT base without its pooler"
    assert model.tower("image").projection.in_features == 2048


@pytest.mark.parametrize("architecture", ["vit-tiny", "conv-tiny", "hog-tiny"])
def test_small_architectures_fit_a_laptop(architecture: str) -> None:
    torch.manual_seed(0)
    model = DualEncoder.create(architecture, vocab_size=4000, bos_id=3998, eos_id=3999, pad_id=0).eval()
    assert 1_000_000 < parameter_count(model) < 6_000_000
    batch = batch_of(4, size=64, context=32)
    batch.fields["text"][batch.fields["text"] >= 98] += 3900
    assert model(batch)["image"].shape == model(batch)["text"].shape == (4, 256)


@pytest.mark.parametrize("architecture", ["vit-tiny", "conv-tiny", "hog-tiny"])
def test_initial_embeddings_of_different_images_differ(architecture: str) -> None:
    """A black, a white and a striped image must not be embedded as one point."""
    torch.manual_seed(0)
    model = DualEncoder.create(architecture, vocab_size=100, bos_id=98, eos_id=99, pad_id=0).eval()
    batch = batch_of(3, size=64, context=32)
    batch.fields["image"][0], batch.fields["image"][1], batch.fields["image"][2] = 0, 255, 0
    batch.fields["image"][2, ::2] = 255
    embedding = model.encode("image", batch)
    assert (embedding @ embedding.T).fill_diagonal_(-1).max() < 0.98


def test_an_unknown_argument_raises_with_the_valid_ones() -> None:
    for architecture in ARCHITECTURES:
        with pytest.raises(ConfigError, match=f"{architecture} has no argument 'colour'; .*valid: "):
            DualEncoder.create(architecture, colour=1)
