"""Augmentation is numbers drawn from a generator; each does what its name says."""

import colorsys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xmodal.data.decode.augment import Augment, Crop, Tint, View, apply, central_crop
from xmodal.errors import ConfigError

sides = st.integers(1, 2000)


@given(width=sides, height=sides, low=st.floats(0.01, 1), seed=st.integers(0, 2**32))
@settings(max_examples=200, deadline=None)
def test_a_crop_lies_inside_and_has_the_drawn_area(width: int, height: int, low: float, seed: int) -> None:
    crop = Augment(scale=(low, 1.0)).draw(np.random.default_rng(seed), width, height).crop
    assert crop.width >= 1 and crop.height >= 1 and crop.x >= 0 and crop.y >= 0
    assert crop.x + crop.width <= width and crop.y + crop.height <= height
    if 0.75 <= width / height <= 4 / 3 and min(width, height) > 50:
        assert crop.width * crop.height >= (low - 0.05) * width * height
        assert 0.7 < crop.width / crop.height < 1.4


def test_the_central_crop_is_the_largest_of_its_ratio() -> None:
    assert central_crop(500, 340) == Crop(80, 0, 340, 340)
    assert central_crop(10, 100, (0.5, 2.0)) == Crop(0, 40, 10, 20)
    assert central_crop(1, 1) == Crop(0, 0, 1, 1)


def test_probabilities_of_0_and_1_are_never_and_always() -> None:
    rng = np.random.default_rng(0)
    calm = [Augment().draw(rng, 100, 100) for _ in range(50)]
    assert all(view.plain for view in calm)
    wild = [Augment(mirror=1.0, greyscale=1.0, rotate=5.0, translate=0.1).draw(rng, 100, 100) for _ in range(50)]
    assert all(view.mirror and view.tint and view.tint.saturation == 0 for view in wild)
    assert max(abs(view.angle) for view in wild) <= 5
    assert max(max(map(abs, view.shift)) for view in wild) <= 0.1


def view(**changes: object) -> View:
    return View(crop=Crop(0, 0, 8, 8), **changes)


def picture() -> np.ndarray:
    return np.random.default_rng(0).integers(40, 200, (16, 16, 3)).astype(np.uint8)


def test_mirroring_twice_is_the_identity_and_once_swaps_left_and_right() -> None:
    x = picture()
    once = apply(view(mirror=True), x)
    assert np.array_equal(once, x[:, ::-1]) and np.array_equal(apply(view(mirror=True), once), x)


def test_the_neutral_tint_changes_nothing() -> None:
    x = picture()
    assert np.abs(apply(view(tint=Tint()), x).astype(int) - x).max() <= 1


def test_tints_are_what_their_names_say() -> None:
    x = picture()
    assert np.allclose(apply(view(tint=Tint(brightness=0.5)), x), x * 0.5, atol=1)
    luma = x @ [0.299, 0.587, 0.114]
    grey = apply(view(tint=Tint(saturation=0.0)), x)
    assert np.allclose(grey, luma[..., None], atol=1)
    flat = apply(view(tint=Tint(contrast=0.0)), x)
    assert np.allclose(flat, luma.mean(), atol=2)


def test_hue_turns_the_colour_circle_and_keeps_grey() -> None:
    red = np.full((4, 4, 3), (180, 60, 60), np.uint8)
    turned = apply(view(tint=Tint(hue=1 / 3)), red)[0, 0] / 255
    assert abs(colorsys.rgb_to_hsv(*turned)[0] - 1 / 3) < 0.12 or abs(colorsys.rgb_to_hsv(*turned)[0] - 2 / 3) < 0.12
    grey = np.full((4, 4, 3), 128, np.uint8)
    assert np.abs(apply(view(tint=Tint(hue=0.3)), grey).astype(int) - 128).max() <= 1


def test_what_moves_in_from_outside_is_white() -> None:
    black = np.zeros((20, 20, 3), np.uint8)
    right = apply(view(shift=(0.5, 0.0)), black)
    assert (right[:, :10] == 255).all() and (right[:, 10:] == 0).all()
    turned = apply(view(angle=45.0), black)
    assert (turned[0, 0] == 255).all() and (turned[10, 10] == 0).all()


@pytest.mark.parametrize(
    "wrong",
    [{"scale": (0.0, 1.0)}, {"scale": (0.5, 1.5)}, {"ratio": (2.0, 1.0)}, {"mirror": 2.0}, {"hue": 0.7}],
)
def test_impossible_ranges_are_refused(wrong: dict) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        Augment(**wrong)
