"""An image that cannot or must not be decoded is a BadSample with its reason, in bounded time and memory."""

import ctypes
import functools
import io
import re
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile

from support.encoded_images import bomb_png, encode, jpeg, photograph, png_chunk
from xmodal.data.decode.augment import Augment
from xmodal.data.decode.fields import allocate_columns, row_views
from xmodal.data.decode.image import ImageField
from xmodal.data.decode.image_limits import ImageLimits
from xmodal.errors import BadSample

FIELD = ImageField(size=32)
VALID = jpeg(300, 200)


def reason(raw: object, field: ImageField = FIELD) -> str:
    """Return why the image is rejected, and assert that nothing was written."""
    block = allocate_columns([field], 1)
    with pytest.raises(BadSample) as caught:
        field.decode(raw, np.random.default_rng(0), row_views(block, 0))
    assert not block["image"].any()
    return caught.value.reason


@pytest.mark.parametrize("cut", [2, 100, len(VALID) // 2, len(VALID) - 2, len(VALID) - 1])
def test_a_jpeg_cut_anywhere_is_decode_truncated(cut: int) -> None:
    assert reason(VALID[:cut]) == "decode_truncated"


@pytest.mark.parametrize("format", ["PNG", "GIF", "BMP", "TIFF"])
def test_other_formats_cut_in_half_are_decode_truncated(format: str) -> None:
    encoded = encode(photograph(200, 100), format)
    assert reason(encoded[: len(encoded) // 2]) == "decode_truncated"


def test_a_webp_cut_in_half_is_rejected() -> None:
    encoded = encode(photograph(200, 100), "WEBP")
    assert reason(encoded[: len(encoded) // 2]) in {"decode_truncated", "decode_corrupt", "not_an_image"}


def test_damage_that_libjpeg_would_fill_with_grey_is_rejected() -> None:
    """Half of the scan followed by an end marker: lenient decoders return an image whose lower half is grey."""
    assert reason(VALID[: len(VALID) // 2] + b"\xff\xd9") == "decode_corrupt"
    assert reason(VALID[:-2] + bytes(50) + VALID[-2:]) == "decode_corrupt"


NOT_IMAGES = {
    "html": b"<!DOCTYPE html><html><body>404 Not Found</body></html>",
    "text": b"a red house",
    "svg": b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg" width="10" height="10"/>',
    "pdf": b"%PDF-1.7\n1 0 obj\n<< /Type /Catalog >>\nendobj\n",
    "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n",
    "psd": b"8BPS\0\1" + bytes(6) + b"\0\3\0\0\0\x0a\0\0\0\x0a\0\x08\0\3" + bytes(400),
    "zeros": bytes(1000),
    "empty": b"",
}


@pytest.mark.parametrize("kind", NOT_IMAGES)
def test_other_file_types_are_not_an_image(kind: str) -> None:
    assert reason(NOT_IMAGES[kind]) == "not_an_image"


@pytest.mark.parametrize("raw", ["a string", 3, {"bytes": b""}, [VALID]])
def test_a_value_that_is_not_bytes_is_not_an_image(raw: object) -> None:
    assert reason(raw) == "not_an_image"


def test_a_null_image_is_a_missing_member() -> None:
    assert reason(None) == "missing_member"


def peak_memory() -> float:
    """Return the peak of this process's resident memory in MiB, since the last `reset_peak_memory`."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1024  # type: ignore[index]


def reset_peak_memory() -> None:
    ctypes.CDLL(None).malloc_trim(0)  # memory that earlier tests freed may still be resident and hide growth
    Path("/proc/self/clear_refs").write_text("5")


def measure_cost(decode: Callable[[], object]) -> tuple[float, float]:
    """Return the best of three times in seconds, and the growth of the resident memory in MiB."""
    reset_peak_memory()
    before = peak_memory()
    times = []
    for _ in range(3):
        start = time.process_time()
        decode()
        times.append(time.process_time() - start)
    return min(times), peak_memory() - before


def test_the_memory_measurement_detects_a_decoded_bomb() -> None:
    bomb = bomb_png(9_000, 9_000)
    assert measure_cost(lambda: Image.open(io.BytesIO(bomb)).load())[1] > 50


@pytest.mark.parametrize(
    "width,height", [(13_300, 13_300), (14_000, 14_000), (60_000, 60_000), (9_000, 9_000), (5_001, 5_000)]
)
def test_a_decompression_bomb_is_rejected_by_its_header(width: int, height: int) -> None:
    """Pillow's own limit only warns at 177 megapixels, and accepts 25 silently."""
    bomb = bomb_png(width, height)
    assert reason(bomb) == "too_large"
    seconds, growth = measure_cost(lambda: reason(bomb))
    assert seconds < 0.010 and growth < 5


def test_huge_webp_gif_bmp_and_tiff_headers_allocate_nothing() -> None:
    small = {format: bytearray(encode(Image.new("RGB", (8, 8)), format)) for format in ("GIF", "BMP")}
    small["GIF"][6:10] = (16_000).to_bytes(2, "little") * 2
    small["BMP"][18:26] = (16_000).to_bytes(4, "little") * 2
    webp = (
        b"VP8X\x0a\0\0\0\0\0\0\0" + (16_000).to_bytes(3, "little") * 2 + encode(Image.new("RGB", (8, 8)), "WEBP")[12:]
    )
    small["WEBP"] = bytearray(b"RIFF" + (len(webp) + 4).to_bytes(4, "little") + b"WEBP" + webp)
    for format, encoded in small.items():
        hostile = bytes(encoded)
        assert reason(hostile) in {"too_large", "not_an_image", "decode_corrupt"}, format
        seconds, growth = measure_cost(functools.partial(reason, hostile))
        assert seconds < 0.010 and growth < 5, (format, seconds, growth)


def test_a_jpeg_header_that_promises_a_billion_pixels_is_too_large() -> None:
    position = VALID.index(b"\xff\xc0") + 5
    assert reason(VALID[:position] + b"\x7f\xff\x7f\xff" + VALID[position + 4 :]) == "too_large"


def test_a_jpeg_of_thousands_of_scans_is_too_large() -> None:
    progressive = jpeg(300, 200, progressive=True)
    scan = progressive.rindex(b"\xff\xda")
    assert reason(progressive[:scan] + progressive[scan:-2] * 2000 + b"\xff\xd9") == "too_large"


def test_more_bytes_than_the_limit_are_too_large() -> None:
    assert reason(VALID, ImageField(size=32, limits=ImageLimits(max_bytes=1000))) == "too_large"
    assert reason(VALID + bytes(32 * 2**20)) == "too_large"


def test_a_png_with_a_compressed_text_bomb_is_rejected_cheaply() -> None:
    valid = encode(Image.new("RGB", (8, 8)), "PNG")
    text = png_chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(60 * 2**20), 9))
    bomb = valid[:33] + text + valid[33:]
    assert reason(bomb) == "decode_corrupt"
    seconds, growth = measure_cost(lambda: reason(bomb))
    assert seconds < 0.050 and growth < 16


@pytest.mark.parametrize("format", ["PNG", "JPEG"])
@pytest.mark.parametrize("augment", [None, Augment()])
def test_extreme_shapes_follow_the_limits_and_never_crash(format: str, augment: Augment | None) -> None:
    field = ImageField(size=32, augment=augment)
    assert reason(encode(Image.new("RGB", (1, 20_000)), format), field) == "too_large"
    assert reason(encode(Image.new("RGB", (300, 1)), format), field) == "bad_aspect"
    for size in ((1, 1), (1, 2), (200, 1), (1, 200)):
        block = allocate_columns([field], 1)
        field.decode(encode(Image.new("RGB", size, "white"), format), np.random.default_rng(0), row_views(block, 0))
        assert (block["image"] >= 250).all()


def test_grey_without_a_fixed_range_is_rejected() -> None:
    assert reason(encode(Image.new("F", (8, 8), 0.5), "TIFF")) == "decode_corrupt"
    assert reason(encode(Image.new("I", (8, 8), 2**20), "TIFF")) == "decode_corrupt"


SEEDS = {
    "JPEG": VALID,
    "progressive": jpeg(64, 48, progressive=True),
    "CMYK": encode(photograph(64, 48).convert("CMYK"), "JPEG"),
    **{f: encode(photograph(64, 48), f) for f in ("PNG", "WEBP", "GIF", "BMP", "TIFF")},
}


@given(
    kind=st.sampled_from(sorted(SEEDS)),
    changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=8),
    keep=st.floats(0, 1),
)
@settings(max_examples=300, deadline=None)
def test_any_damage_gives_an_image_or_a_bad_sample(kind: str, changes: list, keep: float) -> None:
    encoded = bytearray(SEEDS[kind])
    for position, value in changes:
        encoded[int(position * len(encoded))] = value
    block = allocate_columns([FIELD], 1)
    try:
        FIELD.decode(bytes(encoded[: int(keep * len(encoded)) + 1]), np.random.default_rng(0), row_views(block, 0))
    except BadSample as bad:
        assert bad.reason in {"not_an_image", "too_large", "bad_aspect", "decode_truncated", "decode_corrupt"}
        assert not block["image"].any()


def test_no_global_state_of_pillow_changes() -> None:
    before = (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES)
    for encoded in SEEDS.values():
        FIELD.decode(encoded, np.random.default_rng(0), row_views(allocate_columns([FIELD], 1), 0))
    assert before == (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES)
