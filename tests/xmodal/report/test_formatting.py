"""Numbers with units, and text of strangers that cannot break a line, a table or the direction of what follows."""

import math
import time
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xmodal.formatting import clean, cosine, moment, number, percent, seconds, size


@given(st.text(alphabet=st.characters(), max_size=400), st.integers(1, 200))
def test_foreign_text_becomes_one_short_visible_line(text: str, longest: int) -> None:
    shown = clean(text, longest)
    assert len(shown) <= longest + len(" … (1,000,000 characters)")
    assert not any(unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") for c in shown)
    assert not set(shown) & set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f\ufeff")
    shown.encode()  # raises at a lone surrogate


def test_a_megabyte_costs_what_a_sentence_costs_and_says_how_long_it_was() -> None:
    began = time.perf_counter()
    shown = clean("word " * 2_000_000)
    assert time.perf_counter() - began < 0.5
    assert shown.startswith("word word") and shown.endswith("… (10,000,000 characters)")


def test_what_is_ordinary_stays() -> None:
    for text in (
        "a red house",
        "صورة",
        "תמונה",
        "图片",
        "a \U0001f468\u200d\U0001f469\u200d\U0001f467 family",
        "naïve",
    ):
        assert clean(text) == text
    assert clean("e" + "\u0301" * 50) == "e" + "\u0301" * 3  # towers of accents reach into the lines above


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0, "0"), (1234567, "1,234,567"), (0.07, "0.0700"), (3.14159, "3.14"), (123.4, "123"), (1234.5, "1,234"),
     (1e-6, "1e\u22126"), (5e-4, "5e\u22124"), (-2.5, "\u22122.50"), (math.nan, "nan"), (math.inf, "inf"),
     (True, "True"), ("a\x00b", "ab")],
)  # fmt: skip
def test_numbers(value: object, shown: str) -> None:
    assert number(value) == shown


@pytest.mark.parametrize(
    ("made", "shown"),
    [(percent(0.4234), "42.3 %"), (percent(0.00234), "0.23 %"), (percent(0), "0.0 %"), (seconds(3.25), "3.2 s"),
     (seconds(245), "4 min 05 s"), (seconds(7800), "2 h 10 min"), (size(512), "512 B"), (size(3.4 * 2**20), "3.4 MiB"),
     (size(2**60), "1,024 PiB"), (cosine(-0.5), "\u22120.50"),
     (moment("2026-11-21T12:30:00+00:00"), "2026-11-21 12:30 UTC"), (moment("not a time"), "not a time")],
)  # fmt: skip
def test_units(made: str, shown: str) -> None:
    assert made == shown
