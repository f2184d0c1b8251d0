"""The fixed description of an image: directions and positions of edges, and colours, of each image independently."""

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.xmodal.encoders.test_dual_encoder_files import assert_same, perturb
from tests.xmodal.encoders.test_encoders import batch_of
from xmodal.encoders import DualEncoder
from xmodal.encoders.hog import HogConfig, HogModel, colour_histogram, oriented_gradients
from xmodal.errors import ConfigError

SPECIAL = {"vocab_size": 100, "bos_id": 98, "eos_id": 99, "pad_id": 0}
SMALL = SPECIAL | {"image_size": 16, "context": 8, "grids": (2, 4), "hidden_size": 16, "dim": 8, "text_width": 16}


def slope(degrees: float, side: int = 16) -> torch.Tensor:
    """Return an image whose brightness rises in one direction, by one hundredth per pixel."""
    y, x = torch.meshgrid(torch.arange(side).float(), torch.arange(side).float(), indexing="ij")
    angle = math.radians(degrees)
    return (0.5 + 0.01 * (x * math.cos(angle) + y * math.sin(angle)))[None, None].expand(1, 3, side, side)


@given(st.floats(0, 360))
def test_a_slope_and_its_opposite_have_the_same_orientation(degrees: float) -> None:
    shares = oriented_gradients(slope(degrees), 9)[0, :, 2:-2, 2:-2].mean((1, 2))
    assert shares.sum().item() == pytest.approx(0.01, rel=1e-3), "the strength of the slope, split and not lost"
    mean_direction = torch.exp(2j * torch.arange(9) * math.pi / 9) @ shares.to(torch.complex64)
    error = (math.degrees(torch.angle(mean_direction).item()) - 2 * degrees + 180) % 360 - 180
    assert abs(error) < 3, "twice the angle, so that opposite slopes are one"
    assert (shares > 1e-6).sum() <= 2
    torch.testing.assert_close(
        oriented_gradients(slope(degrees + 180), 9)[0, :, 2:-2, 2:-2].mean((1, 2)), shares, atol=1e-6, rtol=0
    )


def test_the_colour_histogram_holds_shares_of_the_image() -> None:
    image = torch.zeros(1, 3, 8, 8)
    image[0, 0, :2] = 1.0  # two of eight rows red, the rest black
    shares = colour_histogram(image, 4)
    assert shares.shape == (1, 64) and shares[0, 3 * 16].item() == 0.25 and shares[0, 0].item() == 0.75


def test_a_blank_image_has_finite_gradients() -> None:
    torch.manual_seed(0)
    model = HogModel(HogConfig(grids=[2], hidden_size=8)).train()
    model(torch.zeros(2, 3, 16, 16)).pooler_output.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_the_description_has_the_configured_size() -> None:
    config = HogConfig(grids=[2, 8], hidden_size=5)
    model = HogModel(config).eval()
    pixels = torch.rand(3, 3, 32, 32)
    assert model.describe(pixels).shape == (3, config.fixed_size) == (3, 9 * 68 + 3 * 64 + 64)
    assert model(pixels).pooler_output.shape == (3, config.feature_size) == (3, config.fixed_size + 5)


def test_rows_are_independent_and_pixels_lie_in_0_1() -> None:
    model, batch = DualEncoder.create("hog-tiny", **SMALL).eval(), batch_of(6)
    parts = torch.cat([model.encode("image", part) for part in batch.chunks(2)])
    torch.testing.assert_close(model.encode("image", batch), parts)
    pixels = model.tower("image").input_adapter(batch)["pixel_values"]
    assert pixels.min() >= 0 and pixels.max() <= 1


def test_a_round_trip_through_a_directory_is_exact(tmp_path: Path) -> None:
    model = perturb(DualEncoder.create("hog-tiny", **SMALL)).eval()
    model.save_pretrained(tmp_path)
    assert_same(model, DualEncoder.from_pretrained(tmp_path).eval())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"grids": (3,)}, "image_size=16 is no multiple of 3"),
        ({"grids": 5}, "image_size=16 is no multiple of 5"),
        ({"image_size": 12}, "image_size=12 is no multiple of 8"),
        ({"dropout": 1}, r"dropout=1.0 must lie in \[0, 1\)"),
        ({"dropout": "much"}, "dropout='much' must be a number"),
        ({"grids": (2, 0)}, "must be whole numbers with commas between, at least 1"),
    ],
)
def test_invalid_sizes_raise_a_config_error(change: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        DualEncoder.create("hog-tiny", **SMALL | change)
