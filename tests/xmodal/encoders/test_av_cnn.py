"""The dual encoder of clips: order of frames and audio, time spans, padding, and its directory."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel

from support.clip_shards import clip_samples
from tests.xmodal.encoders.test_dual_encoder_files import perturb
from xmodal.batch import Batch
from xmodal.data.decode.augment import Augment
from xmodal.data.media.audio import AudioField
from xmodal.data.media.video import VideoField
from xmodal.encoders import DualEncoder
from xmodal.encoders.input_fields import decode_batch, field_for_input, fields_for_model
from xmodal.encoders.small_resnet import ConvConfig, ConvModel
from xmodal.encoders.tower import freeze_unused_parameters
from xmodal.errors import CheckpointError, ConfigError
from xmodal.training.objectives.contrastive import ContrastiveObjective

SMALL = {"seconds": 0.5, "frames": 3, "size": 32, "bands": 16, "widths": [8, 16], "dim": 12}


def model_of(**changes) -> DualEncoder:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return DualEncoder.create("av-tiny", **SMALL | changes)


def clips(rows: int, model: DualEncoder) -> Batch:
    """Return synthetic clips as the model takes them."""
    encoded = [members["mp4"] for _, members in clip_samples(rows, 0, seconds=1.0, size=32)]
    return decode_batch(fields_for_model(model), [{"video": clip, "audio": clip} for clip in encoded])


def same_vectors(model: DualEncoder, other: DualEncoder) -> None:
    batch = clips(3, model)
    torch.testing.assert_close(model(batch), other(batch))
    torch.testing.assert_close(model.log_scale, other.log_scale)


def test_both_towers_embed_rows_independently_as_unit_vectors() -> None:
    model = model_of()
    batch = clips(5, model)
    embeddings = model(batch)
    assert list(embeddings) == ["video", "audio"] and embeddings["audio"].shape == (5, 12)
    for name, vectors in embeddings.items():
        torch.testing.assert_close(vectors.norm(dim=1), torch.ones(5))
        torch.testing.assert_close(torch.cat([model.encode(name, part) for part in batch.chunks(2)]), vectors)


def test_embeddings_depend_on_the_order_of_frames_and_audio() -> None:
    model = model_of()
    batch = clips(4, model)
    backwards = {"video": batch.fields["video"].flip(1), "audio": batch.fields["audio"].flip(1)}
    reversed_batch = replace(batch, fields=batch.fields | backwards)
    for name in model.modalities:
        assert (model.encode(name, batch) - model.encode(name, reversed_batch)).norm(dim=1).min() > 1e-3


def test_absent_frames_are_ignored() -> None:
    model = model_of()
    batch = clips(2, model)
    batch.fields["video_mask"][0, 2] = False
    noisy = {"video": batch.fields["video"].clone()}
    noisy["video"][0, 2] = 255
    same = replace(batch, fields=batch.fields | noisy)
    torch.testing.assert_close(model.encode("video", batch), model.encode("video", same))


def test_the_time_span_is_random_in_training_and_centred_otherwise() -> None:
    model = model_of()
    video, audio = (field_for_input(model.tower(name).input_adapter, None, Augment()) for name in model.modalities)
    assert isinstance(video, VideoField) and isinstance(audio, AudioField)
    assert video.window == audio.window and video.window.position == "random" and video.window.seconds == 0.5
    plain = field_for_input(model.tower("audio").input_adapter, None)
    assert isinstance(plain, AudioField) and plain.window.position == "centre"
    assert plain.columns["audio"].shape == (model.tower("audio").input_adapter.frames, 16)


@pytest.mark.parametrize(("rows", "columns", "height", "width"), [(4, 8, 4, 13), (2, 3, 5, 7), (4, 4, 3, 2)])
def test_cells_that_do_not_divide_the_map_share_its_edges(rows: int, columns: int, height: int, width: int) -> None:
    from xmodal.encoders.small_resnet import _means

    hidden = torch.randn(2, 3, height, width)
    actual = _means(hidden, rows, columns).unflatten(1, (3, rows, columns))
    fine = hidden.repeat_interleave(rows, 2).repeat_interleave(columns, 3)  # each cell now has whole positions
    expected = torch.nn.functional.avg_pool2d(fine, (height, width))
    torch.testing.assert_close(actual, expected)


def test_every_parameter_gets_a_gradient_and_the_model_learns_clips() -> None:
    """After some steps on eight clips the loss is far below that of guessing."""
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


def test_a_directory_records_all_input_settings(tmp_path: Path) -> None:
    model = perturb(model_of(margin=0.1, level=-3.5))
    model.save_pretrained(tmp_path)
    read = DualEncoder.from_pretrained(tmp_path)
    same_vectors(model, read)
    assert [field_for_input(read.tower(m).input_adapter, None) for m in read.modalities] == [
        field_for_input(model.tower(m).input_adapter, None) for m in model.modalities
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
    assert [freeze_unused_parameters(read.tower(name)) for name in read.modalities] == [[], []]
    with pytest.raises(CheckpointError, match="another model"):
        model_of(frames=4).load_weights(tmp_path)
    with pytest.raises(CheckpointError, match=r"audio\.intake\.seconds is 0\.5, expected 0\.6"):
        model_of(margin=0.1, level=-3.5, seconds=0.6).load_weights(tmp_path)
    with pytest.raises(ValueError, match=r"pairs video and audio: load it with xmodal\.encoders\.DualEncoder"):
        AutoModel.from_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["towers"]["audio"]["intake"]["kind"] = "unknown_kind"
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="takes 'unknown_kind'"):
        DualEncoder.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"secnds": 1.0}, "did you mean 'seconds'"),
        ({"seconds": 0.0}, "seconds=0.0 must lie above 0"),
        ({"frames": 0}, "frames=0 must be"),
        ({"level_spread": 0.0}, "level_spread=0.0 must be positive"),
        ({"video_grid": [2, 2, 2]}, "a grid needs rows and columns"),
        ({"bands": 2000}, "bands=2000"),
        ({"size": 0}, "size=0"),
    ],
)
def test_invalid_sizes_raise_a_config_error(arguments: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        model_of(**arguments)


def test_patch_dropout_raises_for_clips() -> None:
    with pytest.raises(ConfigError, match="patch_dropout is for images, not for video and audio"):
        model_of().drop_patches(0.5)


def test_a_grid_of_one_cell_is_described_as_1() -> None:
    """Older checkpoints have `grid: 1`."""
    assert ConvModel(ConvConfig(hidden_sizes=[8], depths=[1], grid=1)).config.grid == 1
