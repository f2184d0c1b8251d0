"""Labels are classes by name or by number; everything else is a BadSample."""

import numpy as np
import pytest

from xmodal.data.decode.fields import Field, allocate_columns, row_views
from xmodal.data.decode.label import LabelField
from xmodal.errors import BadSample, ConfigError

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(
    ("raw", "number"),
    [("bus", 1), (b" bus\n", 1), (2, 2), (b"2", 2), ("0", 0), (np.int64(1).item(), 1)],
)
def test_a_class_is_given_by_name_or_by_number(raw: object, number: int) -> None:
    field = LabelField(classes=("tram", "bus", "ferry"))
    assert isinstance(field, Field)
    block = allocate_columns([field], 2)
    field.decode(raw, RNG, row_views(block, 1))
    assert block["label"].tolist() == [0, number] and block["label"].dtype == np.int64


def test_names_that_are_digits_are_names() -> None:
    field = LabelField(classes=("9", "1", "0"))
    assert [field.number(name) for name in ("9", "1", "0", 0)] == [0, 1, 2, 2]


@pytest.mark.parametrize(
    ("raw", "reason"),
    [(None, "no_label"), ("", "no_label"), (b" ", "no_label"), (1.0, "no_label"), (True, "no_label"), ([1], "no_label"),
     ("plane", "unknown_label"), (3, "unknown_label"), (-1, "unknown_label"), (b"\xff", "unknown_label")],
)  # fmt: skip
def test_anything_else_is_a_bad_sample(raw: object, reason: str) -> None:
    with pytest.raises(BadSample) as bad:
        LabelField(classes=("tram", "bus", "ferry")).number(raw)
    assert bad.value.reason == reason


@pytest.mark.parametrize("classes", [(), ("one",), ("one", "one")])
def test_fewer_than_two_classes_are_rejected(classes: tuple) -> None:
    with pytest.raises(ConfigError, match="at least two, each once"):
        LabelField(classes=classes)
