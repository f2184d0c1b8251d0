"""The grid of the small convolutional network keeps the features of image parts apart."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.xmodal.encoders.test_dual_encoder_files import CONV, assert_same, perturb
from tests.xmodal.encoders.test_encoders import batch_of
from xmodal.encoders import DualEncoder
from xmodal.encoders.small_resnet import ConvConfig, ConvModel
from xmodal.errors import CheckpointError, ConfigError

SIZES = {"hidden_sizes": [8, 16], "depths": [1, 1]}


def network(grid: int) -> ConvModel:
    torch.manual_seed(0)
    return ConvModel(ConvConfig(**SIZES, grid=grid)).eval()


@pytest.mark.parametrize("grid", [2, 4])
def test_the_cells_of_a_grid_average_to_the_features_without_one(grid: int) -> None:
    pixels = torch.randn(3, 3, 32, 32)
    whole = network(1)(pixels).pooler_output
    cells = network(grid)(pixels).pooler_output
    assert cells.shape == (3, 16 * grid**2) == (3, ConvConfig(**SIZES, grid=grid).feature_size)
    torch.testing.assert_close(cells.unflatten(1, (16, grid**2)).mean(2), whole)


def test_narrow_networks_survive_several_threads() -> None:
    """Runs in another process, because a crash in torch's narrow convolutions would end it."""
    script = """
import torch
from xmodal.encoders.small_resnet import ConvConfig, ConvModel
torch.set_num_threads(2)
network = ConvModel(ConvConfig(hidden_sizes=[8, 12], depths=[1, 1], stem_size=8))
pixels = torch.randn(3, 3, 32, 32).contiguous(memory_format=torch.channels_last)
for _ in range(20):
    network(pixels).pooler_output.sum().backward()
"""
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_each_cell_holds_its_part_of_the_image() -> None:
    """A spot in the lower left changes the lower left cell most."""
    blank = torch.zeros(1, 3, 64, 64)
    spot = blank.clone()
    spot[:, :, 44:56, 8:20] = 3.0
    change = (network(2)(spot).pooler_output - network(2)(blank).pooler_output).unflatten(1, (16, 4))
    assert change.square().sum((0, 1)).argmax() == 2


def test_a_grid_survives_a_round_trip_and_is_part_of_the_architecture(tmp_path: Path) -> None:
    model = perturb(DualEncoder.create("conv-tiny", **CONV | {"grid": 2}))
    model.save_pretrained(tmp_path)
    assert_same(model, DualEncoder.from_pretrained(tmp_path))
    assert model.tower("image").projection.in_features == 4 * 16
    with pytest.raises(CheckpointError, match="another model"):
        DualEncoder.create("conv-tiny", **CONV).load_weights(tmp_path)


def test_rows_are_independent_with_a_grid() -> None:
    model, batch = DualEncoder.create("conv-tiny", **CONV | {"grid": 2}), batch_of(6)
    parts = torch.cat([model.encode("image", part) for part in batch.chunks(2)])
    torch.testing.assert_close(model.encode("image", batch), parts)


@pytest.mark.parametrize("grid", [3, 4])
def test_a_grid_that_does_not_divide_the_last_map_raises(grid: int) -> None:
    with pytest.raises(ConfigError, match=f"grid={grid} does not divide the last map of 2 x 2"):
        DualEncoder.create("conv-tiny", **CONV | {"grid": grid})
