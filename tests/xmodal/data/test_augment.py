"""Sampled augmentations lie in their ranges, and applying them changes pixels as specified."""

import colorsys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xmodal.data.decode.augment import Augment, ColorJitter, Crop, ImageTransform, apply_transform, central_crop
from xmodal.errors import ConfigError

sides = st.integers(1, 2000)


@given(width=sides, height=sides, low=st.floats(0.01, 1), seed=st.integers(0, 2**32))
@settings(max_examples=200, deadline=None)
def test_a_crop_is_inside_the_image_and_has_the_sampled_area(width: int, height: int, low: float, seed: int) -> None:
    crop = Augment(scale=(low, 1.0)).sample(np.random.default_rng(seed), width, height).crop
    assert crop.width >= 1 and crop.height >= 1 and crop.x >= 0 and crop.y >= 0
    assert crop.x + crop.width <= width and crop.y + crop.height <= height
    if 0.75 <= width / height <= 4 / 3 and min(width, height) > 50:
        assert crop.width * crop.height >= (low - 0.05) * width * height
        assert 0.7 < crop.width / crop.height < 1.4


def test_the_central_crop_is_the_largest_with_its_ratio() -> None:
    assert central_crop(500, 340) == Crop(80, 0, 340, 340)
    assert central_crop(10, 100, (0.5, 2.0)) == Crop(0, 40, 10, 20)
    assert central_crop(1, 1) == Crop(0, 0, 1, 1)


def test_probability_0_means_never_and_1_means_always() -> None:
    rng = np.random.default_rng(0)
    default = [Augment().sample(rng, 100, 100) for _ in range(50)]
    assert all(transform.is_crop_only for transform in default)
    strong = [Augment(mirror=1.0, greyscale=1.0, rotate=5.0, translate=0.1).sample(rng, 100, 100) for _ in range(50)]
    assert all(
        transform.hflip and transform.color_jitter and transform.color_jitter.saturation == 0 for transform in strong
    )
    assert max(abs(transform.angle) for transform in strong) <= 5
    assert max(max(map(abs, transform.shift)) for transform in strong) <= 0.1


def transform(**changes: object) -> ImageTransform:
    return ImageTransform(crop=Crop(0, 0, 8, 8), **changes)


def random_image() -> np.ndarray:
    return np.random.default_rng(0).integers(40, 200, (16, 16, 3)).astype(np.uint8)


def test_flipping_swaps_left_and_right_and_flipping_twice_is_the_identity() -> None:
    x = random_image()
    once = apply_transform(transform(hflip=True), x)
    assert np.array_equal(once, x[:, ::-1]) and np.array_equal(apply_transform(transform(hflip=True), once), x)


def test_neutral_color_jitter_changes_nothing() -> None:
    x = random_image()
    assert np.abs(apply_transform(transform(color_jitter=ColorJitter()), x).astype(int) - x).max() <= 1


def test_color_jitter_scales_brightness_saturation_and_contrast() -> None:
    x = random_image()
    assert np.allclose(apply_transform(transform(color_jitter=ColorJitter(brightness=0.5)), x), x * 0.5, atol=1)
    luma = x @ [0.299, 0.587, 0.114]
    grey = apply_transform(transform(color_jitter=ColorJitter(saturation=0.0)), x)
    assert np.allclose(grey, luma[..., None], atol=1)
    flat = apply_transform(transform(color_jitter=ColorJitter(contrast=0.0)), x)
    assert np.allclose(flat, luma.mean(), atol=2)


def test_hue_rotates_colours_and_keeps_grey() -> None:
    red = np.full((4, 4, 3), (180, 60, 60), np.uint8)
    shifted = apply_transform(transform(color_jitter=ColorJitter(hue=1 / 3)), red)[0, 0] / 255
    assert abs(colorsys.rgb_to_hsv(*shifted)[0] - 1 / 3) < 0.12 or abs(colorsys.rgb_to_hsv(*shifted)[0] - 2 / 3) < 0.12
    grey = np.full((4, 4, 3), 128, np.uint8)
    assert np.abs(apply_transform(transform(color_jitter=ColorJitter(hue=0.3)), grey).astype(int) - 128).max() <= 1


def test_shift_and_rotation_fill_with_white() -> None:
    black = np.zeros((20, 20, 3), np.uint8)
    right = apply_transform(transform(shift=(0.5, 0.0)), black)
    assert (right[:, :10] == 255).all() and (right[:, 10:] == 0).all()
    rotated = apply_transform(transform(angle=45.0), black)
    assert (rotated[0, 0] == 255).all() and (rotated[10, 10] == 0).all()


@pytest.mark.parametrize(
    "wrong",
    [{"scale": (0.0, 1.0)}, {"scale": (0.5, 1.5)}, {"ratio": (2.0, 1.0)}, {"mirror": 2.0}, {"hue": 0.7}],
)
def test_impossible_ranges_are_rejected(wrong: dict) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        Augment(**wrong)
