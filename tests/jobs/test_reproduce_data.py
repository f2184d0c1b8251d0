"""Data of the experiments: what betrays the class and what does not, views that agree, recordings that never meet."""

from pathlib import Path

import numpy as np
import pytest
import torch

from jobs.bench.real_data import BESIDE_THE_REPOSITORY
from jobs.reproduce import av_mnist, cg_mnist, grid, multi_mnist
from jobs.reproduce.arms import ARMS
from jobs.reproduce.experiment import Experiment
from jobs.reproduce.row_batches import Rows
from jobs.reproduce.trial import trial

WORD = grid.Word(name="letter", classes=3, place=4, pictures=8, seen=5, rate=25.0, hop_ms=10.0)
real = pytest.mark.skipif(not (BESIDE_THE_REPOSITORY / "grid_s1").is_dir(), reason="the shared data are not there")


def test_the_colour_betrays_the_class_in_training_only() -> None:
    label = np.arange(1000) % 10
    grey = np.full((1000, 28, 28), 255, np.uint8)
    for betrayed in (True, False):
        found = cg_mnist.coloured(grey, label, betrayed=betrayed, seed=0)
        tint = found["colour"][:, 0, 0].float().numpy() / 255
        nearest = np.linalg.norm(tint[:, None] - cg_mnist.COLOURS, axis=2).argmin(1)
        share = (nearest == label).mean()
        assert share > 0.6 if betrayed else 0.05 < share < 0.2
    assert torch.equal(found["grey"][..., 0], torch.from_numpy(grey))


def clips(rows: int) -> dict[str, torch.Tensor]:
    """Picture t and the four spectrogram frames beside it hold the number t."""
    when = torch.arange(WORD.pictures)
    video = when.to(torch.uint8).expand(rows, 44, 48, -1).clone()
    audio = when.repeat_interleave(4).half()[None, :, None].expand(rows, -1, grid.BANDS).clone()
    return {"video": video, "audio": audio, "label": torch.arange(rows) % 3}


def test_a_view_of_a_clip_is_of_the_same_seconds_in_sight_and_sound() -> None:
    fields = clips(6)
    for rng in (None, np.random.default_rng(0)):
        seen = grid.view(WORD, fields, rng)
        assert seen["video"].shape == (6, grid.CROP, grid.CROP, 6) and seen["audio"].shape == (6, 20, grid.BANDS)
        mean, *moments = seen["video"][:, 0, 0].unbind(1)
        assert torch.equal(torch.stack(moments, 1) + mean[:, None], mean[:, None] + torch.arange(-2, 3))
        first = [int(start) for start in mean + moments[0]]
        heard = [sound.unique().tolist() for sound in seen["audio"]]
        assert all(
            set(range(start, start + 5)) & set(map(int, values)) for start, values in zip(first, heard, strict=True)
        )
    again = [grid.view(WORD, fields, np.random.default_rng(1))["audio"] for _ in range(2)]
    assert torch.equal(*again) and len(set(first)) > 1


def test_masks_hide_a_run_of_frames_and_of_bands_at_most() -> None:
    sound = torch.randn(50, 40, grid.BANDS, generator=torch.Generator().manual_seed(0))
    masked = grid._masked(sound, np.random.default_rng(0))
    hidden = masked != sound
    bands, frames = hidden.all(1), hidden.all(2)
    assert bands.sum(1).max() <= grid.BAND_MASK and frames.sum(1).max() <= round(grid.TIME_MASK * 40)
    assert torch.equal(hidden, bands[:, None, :] | frames[:, :, None]) and hidden.any()


def test_a_clip_can_be_learned() -> None:
    fields = clips(12)
    fields["audio"] += 10 * fields["label"][:, None, None]
    rows = {split: Rows(fields, lambda x, rng: grid.view(WORD, x, rng)) for split in ("train", "validation", "test")}
    settings = grid.LETTER.settings.__class__(epochs=2, batch_size=4, sgd_rate=0.02, adamw_rate=1e-3, cosine=True)
    found = trial(ARMS["mmpareto"], 0, rows, grid.subject(WORD, ARMS["mmpareto"], fields, 0), settings)
    assert found["steps"] == 6 and set(found["probe"]) == {"audio", "video"}


def test_pictures_keep_a_quarter_of_their_variance_and_no_more_than_they_need() -> None:
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (200, 28, 28)).astype(np.uint8)
    mean, directions = av_mnist.principal(pictures)
    flat = pictures.reshape(200, -1) - mean
    share = [(flat @ directions[:k].T).var(0).sum() / flat.var(0).sum() for k in (len(directions) - 1, len(directions))]
    assert share[0] < av_mnist.KEPT <= share[1] + 1e-9
    np.testing.assert_allclose(directions @ directions.T, np.eye(len(directions)), atol=1e-9)


def test_a_recording_is_heard_in_noise_of_its_own() -> None:
    tone = np.sin(np.arange(5120) / 3).astype(np.float32)
    rng = np.random.default_rng(0)
    first, second = (av_mnist.heard(tone, rng) for _ in range(2))
    assert first.shape == (av_mnist.FRAMES, 32) and np.isfinite(first).all() and not np.array_equal(first, second)


def test_the_easy_digit_lies_over_the_hard_one_of_another_picture() -> None:
    rng = np.random.default_rng(0)
    pictures = np.zeros((50, 28, 28), np.uint8)
    pictures[:, 8:20, 8:20] = 200
    label = rng.integers(0, 10, 50)
    found = multi_mnist.overlaid(pictures, label, seed=0)
    assert torch.equal(found["easy_label"], torch.from_numpy(label))
    assert sorted(found["hard_label"].tolist()) == sorted(label.tolist())
    upper, lower = found["image"][:, :16, :16].float().mean(), found["image"][:, 16:, 16:].float().mean()
    assert upper > 1.5 * lower > 0


@real
def test_recordings_of_the_test_are_in_no_other_split() -> None:
    found = av_mnist.recordings(BESIDE_THE_REPOSITORY)
    assert {name: sum(map(len, spoken.values())) for name, spoken in found.items()} == {
        "train": 2400, "validation": 300, "test": 300,
    }  # fmt: skip
    known = {waveform.tobytes() for spoken in found["train"].values() for waveform in spoken}
    assert not known & {waveform.tobytes() for spoken in found["test"].values() for waveform in spoken}


@real
@pytest.mark.parametrize("experiment", [grid.LETTER, grid.DIGIT])
def test_real_clips_are_divided_as_announced(experiment: Experiment, tmp_path: Path) -> None:
    for split in ("train", "test"):
        (tmp_path / "grid_s1").mkdir(exist_ok=True)
        (tmp_path / "grid_s1" / f"{split}-00000.tar").symlink_to(
            BESIDE_THE_REPOSITORY / "grid_s1" / f"{split}-00000.tar"
        )
    found = experiment.read(tmp_path, None)
    assert [len(found[split]["label"]) for split in ("train", "validation", "test")] == [88, 12, 100]
    shown = experiment.view(found["test"], None)
    assert shown["video"][..., 0].std() > 20 and shown["video"][..., 1:].std() > 1 and shown["audio"].std() > 1
