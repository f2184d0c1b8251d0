"""A valid image of any format becomes the same RGB square as with the reference transform."""

import io
import itertools
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from support.encoded_images import encode, jpeg, photograph, png_16_bit_colour, png_16_bit_grey
from xmodal.data.decode import jpeg as jpeg_codec
from xmodal.data.decode.augment import Augment
from xmodal.data.decode.fields import allocate_columns, row_views
from xmodal.data.decode.image import ImageField
from xmodal.errors import ConfigError


def decode(encoded: bytes, field: ImageField, seed: int = 0) -> np.ndarray:
    block = allocate_columns([field], 1)
    field.decode(encoded, np.random.default_rng(seed), row_views(block, 0))
    return block["image"][0]


def reference(image: Image.Image, size: int, fit: str = "crop") -> np.ndarray:
    """Return Pillow's antialiased bicubic: CLIP's own preprocessing, and the same for `squash` and `pad`."""
    image = ImageOps.exif_transpose(image).convert("RGB")
    if fit == "crop":
        image = ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC)
    elif fit == "squash":
        image = image.resize((size, size), Image.Resampling.BICUBIC)
    else:
        image = ImageOps.pad(image, (size, size), Image.Resampling.BICUBIC, color="white")
    return np.asarray(image)


def distance(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a.astype(float) - b).mean())


@pytest.mark.parametrize("fit", ["crop", "squash", "pad"])
@pytest.mark.parametrize("width,height", [(500, 340), (340, 500), (1600, 1200), (1201, 453), (160, 120), (224, 224)])
def test_jpeg_equals_the_pillow_reference_within_3_of_255(width: int, height: int, fit: str) -> None:
    encoded = jpeg(width, height)
    ours = decode(encoded, ImageField(size=224, fit=fit))
    assert distance(ours, reference(Image.open(io.BytesIO(encoded)), 224, fit)) < 3.0


@pytest.mark.parametrize("format", ["PNG", "WEBP", "BMP", "TIFF", "PPM", "GIF"])
def test_every_other_format_equals_the_reference(format: str) -> None:
    encoded = encode(photograph(300, 200), format, **({"lossless": True} if format == "WEBP" else {}))
    ours = decode(encoded, ImageField(size=96))
    assert distance(ours, reference(Image.open(io.BytesIO(encoded)), 96)) < 3.0


@pytest.mark.parametrize(
    "options", [{"progressive": True}, {"subsampling": 0}, {"optimize": True}, {"restart_marker_rows": 1}]
)
def test_each_kind_of_jpeg_decodes(options: dict) -> None:
    encoded = jpeg(400, 300, **options)
    assert distance(decode(encoded, ImageField(size=96)), reference(Image.open(io.BytesIO(encoded)), 96)) < 3.0


def test_jpeg_is_decoded_at_the_smallest_sufficient_scale() -> None:
    encoded = jpeg(1600, 1200)
    header = jpeg_codec.read_header(encoded)
    assert header is not None
    assert jpeg_codec.decode(encoded, header, 299, 224).shape == (300, 400, 3)
    assert jpeg_codec.decode(encoded, header, 299, 301).shape == (450, 600, 3)
    assert jpeg_codec.decode(encoded, header, 900, 100).shape == (1200, 1600, 3)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_orientation_is_applied(orientation: int, format: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    encoded = encode(photograph(600, 300), format, exif=exif.tobytes())
    for fit in ("crop", "pad"):
        ours = decode(encoded, ImageField(size=64, fit=fit))
        assert distance(ours, reference(Image.open(io.BytesIO(encoded)), 64, fit)) < 4.0


def test_big_endian_and_little_endian_exif_give_the_same_orientation() -> None:
    little = b"II*\0" + (8).to_bytes(4, "little") + b"\1\0\x12\1\3\0\1\0\0\0\6\0\0\0"
    big = b"MM\0*" + (8).to_bytes(4, "big") + b"\0\1\1\x12\0\3\0\0\0\1\0\6\0\0"
    for tiff in (little, big):
        body = b"Exif\0\0" + tiff
        assert jpeg_codec.exif_orientation(b"\xff\xd8\xff\xe1" + (len(body) + 2).to_bytes(2, "big") + body) == 6


@given(st.binary(max_size=200))
@settings(max_examples=200, deadline=None)
def test_any_exif_gives_an_orientation_between_1_and_8(junk: bytes) -> None:
    for body in (junk, b"Exif\0\0" + junk, b"Exif\0\0II*\0\x08\0\0\0" + junk):
        assert 1 <= jpeg_codec.exif_orientation(b"\xff\xd8\xff\xe1" + (len(body) + 2).to_bytes(2, "big") + body) <= 8


def test_transparency_is_composited_on_white() -> None:
    layer = Image.new("RGBA", (40, 40), (255, 0, 0, 0))
    layer.paste((0, 0, 255, 128), (0, 0, 20, 40))
    clear_palette = Image.new("P", (40, 40), 0)
    clear_palette.putpalette([255, 0, 0, 0, 255, 0])
    field = ImageField(size=40)
    square = decode(encode(layer, "PNG"), field)
    assert square[20, 35].tolist() == [255, 255, 255]
    assert np.abs(square[20, 5].astype(int) - [127, 127, 255]).max() <= 1
    assert (decode(encode(clear_palette, "PNG", transparency=0), field) == 255).all()
    assert (decode(encode(layer.convert("LA"), "PNG"), field)[:, 25:] == 255).all()
    assert (decode(encode(layer, "WEBP", lossless=True), field)[:, 25:] == 255).all()


def test_sixteen_bits_are_scaled_not_clipped() -> None:
    ramp = np.tile(np.linspace(0, 65535, 64).astype(np.uint16), (64, 1))
    expected = np.repeat((ramp >> 8)[..., None], 3, axis=2)
    field = ImageField(size=64)
    assert distance(decode(png_16_bit_grey(ramp), field), expected) == 0
    colour = np.stack([ramp, ramp[:, ::-1], np.zeros_like(ramp)], axis=-1)
    assert distance(decode(png_16_bit_colour(colour), field), colour >> 8) <= 1


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK"])
def test_grey_bilevel_palette_and_cmyk_become_rgb(mode: str) -> None:
    image = photograph(120, 80).convert(mode, dither=Image.Dither.NONE)
    format = "JPEG" if mode in ("L", "CMYK") else "PNG"
    encoded = encode(image, format)
    assert distance(decode(encoded, ImageField(size=32)), reference(Image.open(io.BytesIO(encoded)), 32)) < 3.0


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG", "TIFF"])
def test_the_first_frame_of_an_animation_is_used(format: str) -> None:
    red, blue, green = (Image.new("RGB", (32, 32), colour) for colour in ("red", "blue", "green"))
    options = {"lossless": True} if format == "WEBP" else {}
    encoded = encode(red, format, save_all=True, append_images=[blue, green], **options)
    assert Image.open(io.BytesIO(encoded)).n_frames == 3
    assert (decode(encoded, ImageField(size=16)) == [255, 0, 0]).all()


sizes = st.integers(1, 300)


@given(
    width=sizes,
    height=sizes,
    fit=st.sampled_from(["crop", "squash", "pad"]),
    random=st.booleans(),
    seed=sizes,
)
@settings(max_examples=60, deadline=None)
def test_any_image_within_the_limits_fills_the_whole_square(
    width: int, height: int, fit: str, random: bool, seed: int
) -> None:
    all_augmentations = Augment(
        scale=(0.05, 1.0),
        mirror=0.5,
        rotate=20.0,
        translate=0.1,
        jitter=0.8,
        hue=0.1,
        contrast=0.4,
        greyscale=0.2,
    )
    field = ImageField(size=33, fit=fit, augment=all_augmentations if random else None)
    white = encode(Image.new("RGB", (width, height), "white"), "JPEG" if seed % 2 else "PNG")
    block = {"image": np.zeros((2, 33, 33, 3), np.uint8)}
    if max(width, height) <= 200 * min(width, height):
        field.decode(white, np.random.default_rng(seed), row_views(block, 0))
        assert block["image"][0].min() >= 250  # white everywhere: every pixel was written
    assert not block["image"][1].any()  # and no other row changed


def test_augmentation_depends_on_the_generator_alone() -> None:
    encoded = jpeg(640, 480)
    field = ImageField(size=64, augment=Augment(scale=(0.1, 1.0), mirror=0.5, jitter=1.0, brightness=0.4, rotate=10.0))
    copy = pickle.loads(pickle.dumps(field))
    squares = [decode(encoded, field, seed) for seed in range(6)]
    assert all(np.array_equal(a, decode(encoded, copy, seed)) for seed, a in enumerate(squares))
    assert all(distance(a, b) > 1 for a, b in itertools.pairwise(squares))


def test_a_random_crop_shows_the_same_region_at_any_decode_scale() -> None:
    """Red is x and green is y, so the colour gives the position of a pixel: within half a pixel of a 1/8 decode."""
    y, x = np.mgrid[:1200, :1600]
    ramps = Image.fromarray(np.round(255 * np.stack([x / 1599, y / 1199, 0 * x], axis=-1)).astype(np.uint8))
    as_jpeg, as_png = encode(ramps, "JPEG", quality=98), encode(ramps, "PNG", compress_level=1)
    half_a_pixel = 4 / 1200 * 255
    field = ImageField(size=64, augment=Augment(scale=(0.3, 0.5)))
    for seed in range(5):
        difference = decode(as_jpeg, field, seed).astype(float) - decode(as_png, field, seed)
        assert np.abs(difference.mean(axis=(0, 1))).max() < half_a_pixel + 0.5  # 0.5: rounding to 8 bits


def test_bytearray_and_memoryview_are_read_like_bytes() -> None:
    encoded, field = jpeg(100, 80), ImageField(size=32)
    expected = decode(encoded, field)
    assert np.array_equal(decode(bytearray(encoded), field), expected)
    assert np.array_equal(decode(memoryview(encoded), field), expected)


def test_the_error_for_an_unknown_fit_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'squash'"):
        ImageField(fit="sqash")
