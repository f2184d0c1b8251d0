"""Fusions and the classifier on them: absent tokens are ignored, and every parameter takes part."""

from pathlib import Path

import pytest
import torch

from support.clip_batches import BANDS, CLASSES, FRAMES, LENGTH, SIDE, classifier, clip_batch
from xmodal.encoders.av_inputs import AudioInput, VideoInput
from xmodal.encoders.av_transformers import frame_transformer, spectrogram_transformer
from xmodal.encoders.classifier_files import load_classifier, load_weights, save_classifier
from xmodal.encoders.fusion import FUSIONS, build_fusion
from xmodal.encoders.multimodal_classifier import ModalityEncoder, MultimodalClassifier
from xmodal.errors import CheckpointError, ConfigError
from xmodal.training.objectives.classification import ClassificationObjective

WIDTHS = {"audio": 6, "video": 4, "touch": 3}


def tokens_and_masks(rows: int = 3):
    draw = torch.Generator().manual_seed(0)
    counts = {"audio": 5, "video": 2, "touch": 1}
    tokens = {name: torch.randn(rows, counts[name], width, generator=draw) for name, width in WIDTHS.items()}
    masks = {name: torch.ones(rows, counts[name], dtype=torch.bool) for name in WIDTHS}
    masks["audio"][0, 3:] = False
    masks["video"][1] = False
    return tokens, masks


@pytest.mark.parametrize("name", FUSIONS)
def test_absent_tokens_are_ignored(name: str) -> None:
    torch.manual_seed(0)
    module = build_fusion(name, WIDTHS, 8).eval()
    tokens, masks = tokens_and_masks()
    before = module(tokens, masks)
    assert before.shape == (3, module.dim) and before.isfinite().all()
    tokens["audio"][0, 3:] = 1e3
    tokens["video"][1] = -1e3
    torch.testing.assert_close(module(tokens, masks), before)
    tokens["audio"][0, 2] += 1
    assert not torch.allclose(module(tokens, masks)[0], before[0])


@pytest.mark.parametrize("name", FUSIONS)
def test_every_modality_and_every_parameter_takes_part(name: str) -> None:
    torch.manual_seed(0)
    module = build_fusion(name, WIDTHS, 8)
    tokens, masks = tokens_and_masks()
    for x in tokens.values():
        x.requires_grad_()
    module(tokens, masks).square().sum().backward()
    assert all(x.grad.abs().sum() > 0 for x in tokens.values())
    assert all(p.grad is not None for p in module.parameters())


@pytest.mark.parametrize(("rows", "first"), [(6, 0), (6, 3)])
def test_rows_are_scored_independently(rows: int, first: int) -> None:
    for fusion_name in FUSIONS:
        model, batch = classifier(fusion_name).eval(), clip_batch(rows)
        whole, part = model.scores(batch), model.scores(batch[first : first + 3])
        assert set(whole) == {"multimodal", "audio", "video"}
        for score_name in whole:
            assert whole[score_name].shape == (rows, CLASSES)
            torch.testing.assert_close(whole[score_name][first : first + 3], part[score_name])


def test_padding_frames_and_audio_are_ignored() -> None:
    model, batch = classifier().eval(), clip_batch(4)
    before = model.scores(batch)
    batch.fields["video"][2, 1:] = 255
    batch.fields["audio"][1] = 1e4
    after = model.scores(batch)
    for name in before:
        torch.testing.assert_close(after[name], before[name])
    silent = before["audio"][1]
    torch.testing.assert_close(silent, model.heads["audio"].bias.detach())  # without audio only the bias remains


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: build_fusion("concat", WIDTHS, 8), "unknown fusion 'concat'; did you mean 'concatenation'"),
        (lambda: build_fusion("film", {"audio": 4}, 8), "two modalities or more, not audio"),
        (lambda: build_fusion("transformer", WIDTHS, 6), "heads=4 does not divide dim=6"),
        (lambda: classifier().encoder("vidio"), "no encoder for 'vidio'; did you mean 'video'"),
    ],
)
def test_invalid_arguments_raise_a_config_error(make, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


@pytest.mark.parametrize("name", FUSIONS)
def test_a_round_trip_through_a_directory_is_exact(name: str, tmp_path: Path) -> None:
    model, batch = classifier(name).eval(), clip_batch(4)
    names = tuple(f"class {i}" for i in range(CLASSES))
    save_classifier(model, names, tmp_path)
    loaded, classes = load_classifier(tmp_path)
    assert classes == names and loaded.modalities == model.modalities
    for score_name, scores in model.scores(batch).items():
        assert torch.equal(loaded.scores(batch)[score_name], scores)


def test_a_directory_of_another_model_raises(tmp_path: Path) -> None:
    save_classifier(classifier(), tuple("abcde"), tmp_path)
    with pytest.raises(CheckpointError, match=r"another model: classifier.weight is \[5, 28\], expected \[5, 16\]"):
        load_weights(classifier("summation"), tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "clip"}')
    with pytest.raises(CheckpointError, match="of type 'clip', not xmodal-multimodal-classifier"):
        load_classifier(tmp_path)
    with pytest.raises(CheckpointError, match="cannot read a model from"):
        load_classifier(tmp_path / "nothing")


@pytest.mark.parametrize("fusion_name", ["concatenation", "transformer"])
def test_transformers_are_encoders_of_frames_and_spectrograms(fusion_name: str, tmp_path: Path) -> None:
    """Every parameter takes part, rows are independent, absent tokens are ignored, and a round trip is exact."""
    torch.manual_seed(0)
    sizes = {"width": 16, "depth": 1, "heads": 2, "patch": 8}
    encoders = {
        "audio": ModalityEncoder(
            AudioInput("audio", bands=BANDS, frames=LENGTH), spectrogram_transformer(BANDS, LENGTH, **sizes)
        ),
        "video": ModalityEncoder(VideoInput("video", size=SIDE, frames=FRAMES), frame_transformer(SIDE, **sizes)),
    }
    model = MultimodalClassifier(encoders, classes=CLASSES, fusion_name=fusion_name, dim=16)
    batch = clip_batch(4)
    tokens, masks = model.encode(batch)
    assert tokens["audio"].shape == (4, 2 + 2 * 3, 16)  # two tokens of AST's own, 16 x 24 in patches of 8
    assert tokens["video"].shape == (4, FRAMES * (1 + 4), 16)
    assert not masks["audio"][1].any() and masks["audio"][0].all() and masks["video"][2].sum() == 1 + 4
    losses = ClassificationObjective(model)(batch)
    losses.sum.backward()
    assert all(p.grad is not None for p in model.parameters())
    model.eval()
    torch.testing.assert_close(model.scores(batch[1:3])["audio"], model.scores(batch)["audio"][1:3])
    save_classifier(model, tuple("abcde"), tmp_path)
    torch.testing.assert_close(load_classifier(tmp_path)[0].scores(batch), model.scores(batch))


def test_patches_that_do_not_fit_raise() -> None:
    sizes = {"width": 16, "depth": 1, "heads": 2}
    with pytest.raises(ConfigError, match="size=20 is not a multiple of patch=8"):
        frame_transformer(20, **sizes, patch=8)
    with pytest.raises(ConfigError, match="16 bands and 24 frames has no patch of 32"):
        spectrogram_transformer(16, 24, **sizes, patch=32)
    with pytest.raises(ConfigError, match="width=16 cannot be divided among heads=3"):
        frame_transformer(16, width=16, depth=1, heads=3, patch=8)
