"""A dual encoder of clips: what its towers see and hear, in which order, and its directory."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel

from tests.xmodal.encoders.test_dual_encoder_files import perturbed
from xmodal.batch import Batch
from xmodal.data.decode.augment import Augment
from xmodal.data.media.audio import AudioField
from xmodal.data.media.video import VideoField
from xmodal.data.synthetic.clips import clip_samples
from xmodal.encoders import DualEncoder
from xmodal.encoders.input_fields import decoded, field_of, fields_of
from xmodal.encoders.small_resnet import ConvConfig, ConvModel
from xmodal.encoders.tower import freeze_unused
from xmodal.errors import CheckpointError, ConfigError
from xmodal.training.objective import ContrastiveObjective

SMALL = {"seconds": 0.5, "frames": 3, "size": 32, "bands": 16, "widths": [8, 16], "dim": 12}


def model_of(**changes) -> DualEncoder:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return DualEncoder.create("av-tiny", **SMALL | changes)


def clips(rows: int, model: DualEncoder) -> Batch:
    """Synthetic clips as the model takes them."""
    encoded = [members["mp4"] for _, members in clip_samples(rows, 0, seconds=1.0, size=32)]
    return decoded(fields_of(model), [{"video": clip, "audio": clip} for clip in encoded])


def same_vectors(model: DualEncoder, other: DualEncoder) -> None:
    batch = clips(3, model)
    torch.testing.assert_close(model(batch), other(batch))
    torch.testing.assert_close(model.log_scale, other.log_scale)


def test_both_towers_give_unit_vectors_of_each_row_alone() -> None:
    model = model_of()
    batch = clips(5, model)
    found = model(batch)
    assert list(found) == ["video", "audio"] and found["audio"].shape == (5, 12)
    for name, vectors in found.items():
        torch.testing.assert_close(vectors.norm(dim=1), torch.ones(5))
        torch.testing.assert_close(torch.cat([model.encode(name, part) for part in batch.chunks(2)]), vectors)


def test_the_order_of_frames_is_seen_and_the_order_of_sounds_heard() -> None:
    model = model_of()
    batch = clips(4, model)
    backwards = {"video": batch.fields["video"].flip(1), "audio": batch.fields["audio"].flip(1)}
    turned = replace(batch, fields=batch.fields | backwards)
    for name in model.modalities:
        assert (model.encode(name, batch) - model.encode(name, turned)).norm(dim=1).min() > 1e-3


def test_a_frame_that_is_not_there_counts_nothing() -> None:
    model = model_of()
    batch = clips(2, model)
    batch.fields["video_mask"][0, 2] = False
    noisy = {"video": batch.fields["video"].clone()}
    noisy["video"][0, 2] = 255
    same = replace(batch, fields=batch.fields | noisy)
    torch.testing.assert_close(model.encode("video", batch), model.encode("video", same))


def test_a_window_is_drawn_in_training_alike_for_both_and_lies_in_the_middle_elsewhere() -> None:
    model = model_of()
    video, audio = (field_of(model.tower(name).intake, None, Augment()) for name in model.modalities)
    assert isinstance(video, VideoField) and isinstance(audio, AudioField)
    assert video.window == audio.window and video.window.place == "random" and video.window.seconds == 0.5
    plain = field_of(model.tower("audio").intake, None)
    assert isinstance(plain, AudioField) and plain.window.place == "centre"
    assert plain.columns["audio"].shape == (model.tower("audio").intake.frames, 16)


@pytest.mark.parametrize(("rows", "columns", "high", "wide"), [(4, 8, 4, 13), (2, 3, 5, 7), (4, 4, 3, 2)])
def test_cells_that_do_not_divide_the_map_share_its_edges(rows: int, columns: int, high: int, wide: int) -> None:
    from xmodal.encoders.small_resnet import _means

    hidden = torch.randn(2, 3, high, wide)
    found = _means(hidden, rows, columns).unflatten(1, (3, rows, columns))
    fine = hidden.repeat_interleave(rows, 2).repeat_interleave(columns, 3)  # each cell is now whole places
    expected = torch.nn.functional.avg_pool2d(fine, (high, wide))
    torch.testing.assert_close(found, expected)


def test_one_step_reaches_every_parameter_and_clips_can_be_learned() -> None:
    """A few steps on eight clips: the loss falls far below that of guessing."""
    model = model_of()
    batch = clips(8, model)
    objective = ContrastiveObjective(model, mask_duplicates=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(30):
        optimizer.zero_grad()
        loss = objective(batch).sum
        loss.backward()
        assert all(p.grad is not None for p in model.parameters())
        optimizer.step()
    assert loss.item() < 0.3 < np.log(8)


def test_a_directory_describes_all_that_it_takes(tmp_path: Path) -> None:
    model = perturbed(model_of(margin=0.1, level=-3.5))
    model.save_pretrained(tmp_path)
    read = DualEncoder.from_pretrained(tmp_path)
    same_vectors(model, read)
    assert [field_of(read.tower(m).intake, None) for m in read.modalities] == [
        field_of(model.tower(m).intake, None) for m in model.modalities
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
    assert [freeze_unused(read.tower(name)) for name in read.modalities] == [[], []]
    with pytest.raises(CheckpointError, match="another model"):
        model_of(frames=4).load_weights(tmp_path)
    with pytest.raises(CheckpointError, match=r"audio\.intake\.seconds is 0\.5, expected 0\.6"):
        model_of(margin=0.1, level=-3.5, seconds=0.6).load_weights(tmp_path)
    with pytest.raises(ValueError, match=r"pairs video and audio: load it with xmodal\.encoders\.DualEncoder"):
        AutoModel.from_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["towers"]["audio"]["intake"]["kind"] = "smell"
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="'smell' is not known"):
        DualEncoder.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"secnds": 1.0}, "did you mean 'seconds'"),
        ({"seconds": 0.0}, "seconds=0.0 must lie above 0"),
        ({"frames": 0}, "frames=0 must be"),
        ({"level_spread": 0.0}, "level_spread=0.0 must be positive"),
        ({"video_grid": [2, 2, 2]}, "a grid is its rows and its columns"),
        ({"bands": 2000}, "bands=2000"),
        ({"size": 0}, "size=0"),
    ],
)
def test_sizes_that_are_none_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        model_of(**arguments)


def test_pictures_of_clips_have_no_patches_to_drop() -> None:
    with pytest.raises(ConfigError, match="patch_dropout is for pictures, not for video and audio"):
        model_of().drop_patches(0.5)


def test_a_network_of_one_cell_keeps_its_description() -> None:
    """Checkpoints of before say `grid: 1`."""
    assert ConvModel(ConvConfig(hidden_sizes=[8], depths=[1], grid=1)).config.grid == 1
