"""Data of the experiments: colours that give the class away, views of clips, and splits that share no recording."""

from pathlib import Path

import numpy as np
import pytest
import torch

from jobs.bench.real_data import BESIDE_THE_CHECKOUT
from jobs.reproduce import av_mnist, cg_mnist, grid, multi_mnist
from jobs.reproduce.arms import ARMS
from jobs.reproduce.experiment import BalanceExperiment
from jobs.reproduce.row_batches import RowDataset
from jobs.reproduce.trial import train_and_test

WORD = grid.Word(name="letter", classes=3, place=4, pictures=8, seen=5, rate=25.0, hop_ms=10.0)
real = pytest.mark.skipif(
    not (BESIDE_THE_CHECKOUT / "grid_s1").is_dir(), reason="no public data sets beside the checkout"
)


def test_the_colour_gives_the_class_away_in_training_only() -> None:
    label = np.arange(1000) % 10
    grey = np.full((1000, 28, 28), 255, np.uint8)
    for by_class in (True, False):
        fields = cg_mnist.colour_digits(grey, label, by_class=by_class, seed=0)
        tint = fields["colour"][:, 0, 0].float().numpy() / 255
        nearest = np.linalg.norm(tint[:, None] - cg_mnist.COLOURS, axis=2).argmin(1)
        share = (nearest == label).mean()
        assert share > 0.6 if by_class else 0.05 < share < 0.2
    assert torch.equal(fields["grey"][..., 0], torch.from_numpy(grey))


def clips(rows: int) -> dict[str, torch.Tensor]:
    """Return clips in which video frame t and its four spectrogram frames hold the number t."""
    when = torch.arange(WORD.pictures)
    video = when.to(torch.uint8).expand(rows, 44, 48, -1).clone()
    audio = when.repeat_interleave(4).half()[None, :, None].expand(rows, -1, grid.BANDS).clone()
    return {"video": video, "audio": audio, "label": torch.arange(rows) % 3}


def test_a_view_shows_the_same_seconds_of_video_and_audio() -> None:
    fields = clips(6)
    for rng in (None, np.random.default_rng(0)):
        view = grid.view(WORD, fields, rng)
        assert view["video"].shape == (6, grid.CROP, grid.CROP, 6) and view["audio"].shape == (6, 20, grid.BANDS)
        mean, *moments = view["video"][:, 0, 0].unbind(1)
        assert torch.equal(torch.stack(moments, 1) + mean[:, None], mean[:, None] + torch.arange(-2, 3))
        first = [int(start) for start in mean + moments[0]]
        audio_values = [sound.unique().tolist() for sound in view["audio"]]
        assert all(
            set(range(start, start + 5)) & set(map(int, values))
            for start, values in zip(first, audio_values, strict=True)
        )
    again = [grid.view(WORD, fields, np.random.default_rng(1))["audio"] for _ in range(2)]
    assert torch.equal(*again) and len(set(first)) > 1


def test_masks_cover_at_most_one_run_of_frames_and_one_of_bands() -> None:
    spectrograms = torch.randn(50, 40, grid.BANDS, generator=torch.Generator().manual_seed(0))
    masked = grid._mask_spectrograms(spectrograms, np.random.default_rng(0))
    changed = masked != spectrograms
    bands, frames = changed.all(1), changed.all(2)
    assert bands.sum(1).max() <= grid.BAND_MASK and frames.sum(1).max() <= round(grid.TIME_MASK * 40)
    assert torch.equal(changed, bands[:, None, :] | frames[:, :, None]) and changed.any()


def test_a_classifier_of_clips_can_be_trained() -> None:
    fields = clips(12)
    fields["audio"] += 10 * fields["label"][:, None, None]
    rows = {
        split: RowDataset(fields, lambda x, rng: grid.view(WORD, x, rng)) for split in ("train", "validation", "test")
    }
    settings = grid.LETTER.settings.__class__(epochs=2, batch_size=4, sgd_rate=0.02, adamw_rate=1e-3, cosine=True)
    result = train_and_test(ARMS["mmpareto"], 0, rows, grid.build_model(WORD, ARMS["mmpareto"], fields, 0), settings)
    assert result["steps"] == 6 and set(result["probe"]) == {"audio", "video"}


def test_the_components_are_the_fewest_with_a_quarter_of_the_variance() -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (200, 28, 28)).astype(np.uint8)
    mean, directions = av_mnist.principal_components(images)
    flat = images.reshape(200, -1) - mean
    share = [(flat @ directions[:k].T).var(0).sum() / flat.var(0).sum() for k in (len(directions) - 1, len(directions))]
    assert share[0] < av_mnist.VARIANCE_SHARE <= share[1] + 1e-9
    np.testing.assert_allclose(directions @ directions.T, np.eye(len(directions)), atol=1e-9)


def test_every_recording_has_its_own_noise() -> None:
    tone = np.sin(np.arange(5120) / 3).astype(np.float32)
    rng = np.random.default_rng(0)
    first, second = (av_mnist.noisy_log_mel(tone, rng) for _ in range(2))
    assert first.shape == (av_mnist.FRAMES, 32) and np.isfinite(first).all() and not np.array_equal(first, second)


def test_the_easy_digit_covers_a_hard_one_of_another_row() -> None:
    rng = np.random.default_rng(0)
    images = np.zeros((50, 28, 28), np.uint8)
    images[:, 8:20, 8:20] = 200
    label = rng.integers(0, 10, 50)
    fields = multi_mnist.overlay_digits(images, label, seed=0)
    assert torch.equal(fields["easy_label"], torch.from_numpy(label))
    assert sorted(fields["hard_label"].tolist()) == sorted(label.tolist())
    upper, lower = fields["image"][:, :16, :16].float().mean(), fields["image"][:, 16:, 16:].float().mean()
    assert upper > 1.5 * lower > 0


@real
def test_test_recordings_are_in_no_other_split() -> None:
    recordings = av_mnist.read_recordings(BESIDE_THE_CHECKOUT)
    assert {name: sum(map(len, spoken.values())) for name, spoken in recordings.items()} == {
        "train": 2400, "validation": 300, "test": 300,
    }  # fmt: skip
    train_waveforms = {waveform.tobytes() for spoken in recordings["train"].values() for waveform in spoken}
    assert not train_waveforms & {waveform.tobytes() for spoken in recordings["test"].values() for waveform in spoken}


@real
@pytest.mark.parametrize("experiment", [grid.LETTER, grid.DIGIT])
def test_real_clips_are_split_as_documented(experiment: BalanceExperiment, tmp_path: Path) -> None:
    for split in ("train", "test"):
        (tmp_path / "grid_s1").mkdir(exist_ok=True)
        (tmp_path / "grid_s1" / f"{split}-00000.tar").symlink_to(BESIDE_THE_CHECKOUT / "grid_s1" / f"{split}-00000.tar")
    splits = experiment.read(tmp_path, None)
    assert [len(splits[split]["label"]) for split in ("train", "validation", "test")] == [88, 12, 100]
    fields = experiment.view(splits["test"], None)
    assert fields["video"][..., 0].std() > 20 and fields["video"][..., 1:].std() > 1 and fields["audio"].std() > 1
