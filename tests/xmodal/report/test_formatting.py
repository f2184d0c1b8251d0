"""Tests of number and duration formatting, and of the cleaning of untrusted text."""

import math
import time
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xmodal.formatting import (
    clean_text,
    format_bytes,
    format_cosine,
    format_duration,
    format_number,
    format_percent,
    format_timestamp,
    pluralize,
)


@given(st.text(alphabet=st.characters(), max_size=400), st.integers(1, 200))
def test_cleaned_text_is_one_short_line_of_visible_characters(text: str, max_length: int) -> None:
    cleaned = clean_text(text, max_length)
    assert len(cleaned) <= max_length + len(" … (1,000,000 characters)")
    assert not any(unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") for c in cleaned)
    assert not set(cleaned) & set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f\ufeff")
    cleaned.encode()  # raises at a lone surrogate


def test_cleaning_ten_megabytes_is_fast_and_reports_the_length() -> None:
    began = time.perf_counter()
    cleaned = clean_text("word " * 2_000_000)
    assert time.perf_counter() - began < 0.5
    assert cleaned.startswith("word word") and cleaned.endswith("… (10,000,000 characters)")


def test_ordinary_text_of_any_script_is_unchanged() -> None:
    for text in (
        "a red house",
        "صورة",
        "תמונה",
        "图片",
        "a \U0001f468\u200d\U0001f469\u200d\U0001f467 family",
        "naïve",
    ):
        assert clean_text(text) == text
    assert clean_text("e" + "\u0301" * 50) == "e" + "\u0301" * 3  # stacked accents would reach into the lines above


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (1234567, "1,234,567"), (0.07, "0.0700"), (3.14159, "3.14"), (123.4, "123"), (1234.5, "1,234"),
     (1e-6, "1e\u22126"), (5e-4, "5e\u22124"), (-2.5, "\u22122.50"), (math.nan, "nan"), (math.inf, "inf"),
     (True, "True"), ("a\x00b", "ab")],
)  # fmt: skip
def test_format_number(value: object, text: str) -> None:
    assert format_number(value) == text


@pytest.mark.parametrize(
    ("formatted", "text"),
    [
        (format_percent(0.4234), "42.3 %"),
        (format_percent(0.00234), "0.23 %"),
        (format_percent(0), "0.0 %"),
        (format_duration(3.25), "3.2 s"),
        (format_duration(245), "4 min 05 s"),
        (format_duration(7800), "2 h 10 min"),
        (format_bytes(512), "512 B"),
        (format_bytes(3.4 * 2**20), "3.4 MiB"),
        (format_bytes(2**60), "1,024 PiB"),
        (format_cosine(-0.5), "\u22120.50"),
        (format_timestamp("2026-11-21T12:30:00+00:00"), "2026-11-21 12:30 UTC"),
        (format_timestamp("not a time"), "not a time"),
        (pluralize(1, "row"), "1 row"),
        (pluralize(2000, "row"), "2,000 rows"),
    ],
)
def test_values_with_units(formatted: str, text: str) -> None:
    assert formatted == text
