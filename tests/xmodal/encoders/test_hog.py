"""The fixed description of a picture: which way edges run, where, and what colours there are; and nothing of others."""

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.xmodal.encoders.test_dual_encoder_files import assert_same, perturbed
from tests.xmodal.encoders.test_encoders import batch_of
from xmodal.encoders import DualEncoder
from xmodal.encoders.hog import HogConfig, HogModel, colours, oriented
from xmodal.errors import ConfigError

SPECIAL = {"vocab_size": 100, "bos_id": 98, "eos_id": 99, "pad_id": 0}
SMALL = SPECIAL | {"image_size": 16, "context": 8, "grids": (2, 4), "hidden_size": 16, "dim": 8, "text_width": 16}


def ramp(degrees: float, side: int = 16) -> torch.Tensor:
    """A picture whose brightness rises in one direction, by one hundredth a pixel."""
    y, x = torch.meshgrid(torch.arange(side).float(), torch.arange(side).float(), indexing="ij")
    angle = math.radians(degrees)
    return (0.5 + 0.01 * (x * math.cos(angle) + y * math.sin(angle)))[None, None].expand(1, 3, side, side)


@given(st.floats(0, 360))
def test_a_slope_votes_for_its_direction_and_the_opposite_slope_for_the_same(degrees: float) -> None:
    votes = oriented(ramp(degrees), 9)[0, :, 2:-2, 2:-2].mean((1, 2))
    assert votes.sum().item() == pytest.approx(0.01, rel=1e-3), "the strength of the slope, split and not lost"
    middle = torch.exp(2j * torch.arange(9) * math.pi / 9) @ votes.to(torch.complex64)
    off = (math.degrees(torch.angle(middle).item()) - 2 * degrees + 180) % 360 - 180
    assert abs(off) < 3, "twice the angle, so that opposite slopes are one"
    assert (votes > 1e-6).sum() <= 2
    torch.testing.assert_close(
        oriented(ramp(degrees + 180), 9)[0, :, 2:-2, 2:-2].mean((1, 2)), votes, atol=1e-6, rtol=0
    )


def test_colours_are_the_shares_of_the_picture() -> None:
    picture = torch.zeros(1, 3, 8, 8)
    picture[0, 0, :2] = 1.0  # two of eight rows red, the rest black
    shares = colours(picture, 4)
    assert shares.shape == (1, 64) and shares[0, 3 * 16].item() == 0.25 and shares[0, 0].item() == 0.75


def test_a_blank_picture_is_finite_and_so_is_its_gradient() -> None:
    torch.manual_seed(0)
    model = HogModel(HogConfig(grids=[2], hidden_size=8)).train()
    model(torch.zeros(2, 3, 16, 16)).pooler_output.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_the_description_has_the_size_that_its_configuration_says() -> None:
    config = HogConfig(grids=[2, 8], hidden_size=5)
    model = HogModel(config).eval()
    pixels = torch.rand(3, 3, 32, 32)
    assert model.describe(pixels).shape == (3, config.fixed_size) == (3, 9 * 68 + 3 * 64 + 64)
    assert model(pixels).pooler_output.shape == (3, config.feature_size) == (3, config.fixed_size + 5)


def test_each_row_is_embedded_alone_and_the_pixels_are_not_normalised_as_those_of_clip() -> None:
    model, batch = DualEncoder.create("hog-tiny", **SMALL).eval(), batch_of(6)
    parts = torch.cat([model.encode("image", part) for part in batch.chunks(2)])
    torch.testing.assert_close(model.encode("image", batch), parts)
    pixels = model.tower("image").intake(batch)["pixel_values"]
    assert pixels.min() >= 0 and pixels.max() <= 1


def test_it_comes_back_from_a_directory_as_it_was(tmp_path: Path) -> None:
    model = perturbed(DualEncoder.create("hog-tiny", **SMALL)).eval()
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
def test_sizes_that_do_not_fit_are_refused(change: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        DualEncoder.create("hog-tiny", **SMALL | change)
