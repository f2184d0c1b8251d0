"""A field map finds each field's raw value, or its error names the spec and the members that exist."""

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xmodal.data.decode.fields import (
    FieldMap,
    FieldSource,
    allocate_columns,
    available_members,
    parse_field_map,
    row_views,
)
from xmodal.data.decode.image import ImageField
from xmodal.errors import BadSample, ConfigError, CorpusError

keys = st.text("abcxyz_", min_size=1, max_size=6)
members = st.builds("{}{}".format, keys, st.sampled_from(("", ".png", ".a.b")))
sources = st.tuples(members, st.lists(keys, max_size=3).map(tuple))  # arguments of FieldSource


@given(st.dictionaries(keys, st.lists(sources, min_size=1, max_size=3), min_size=1, max_size=4))
@settings(deadline=None)
def test_a_field_map_round_trips_through_its_specs_and_pickle(arguments: dict) -> None:
    field_map = FieldMap({field: tuple(FieldSource(*source) for source in some) for field, some in arguments.items()})
    assert parse_field_map(field_map.specs) == field_map
    assert pickle.loads(pickle.dumps(field_map)) == field_map


def test_the_first_alternative_that_exists_is_picked() -> None:
    field_map = parse_field_map(("image=jpg|png", "text=json:a.b|txt"))
    assert field_map.pick("image", {"png": b"p", "txt": b"t"}) == b"p"
    assert field_map.pick("image", {"png": b"p", "jpg": b"j"}) == b"j"
    assert field_map.pick("text", {"json": b'{"a": {"b": "deep"}}', "txt": b"t"}) == "deep"
    assert field_map.pick("text", {"json": b'{"a": {"c": 1}}', "txt": b"t"}) == b"t"
    assert field_map.members == {"jpg", "png", "json", "txt"}


def test_parquet_values_are_picked_unchanged() -> None:
    row = {
        "caption": ["a", "b"],
        "meta": {"title": "t"},
        "json": '{"caption": "from a string"}',
        "image": b"i",
    }
    for spec, value in (
        ("text=caption", ["a", "b"]),
        ("text=meta:title", "t"),
        ("text=json:caption", "from a string"),
    ):
        assert parse_field_map((spec,)).pick("text", row) == value


def test_a_compound_extension_is_a_member_of_its_own() -> None:
    field_map = parse_field_map(("mask=seg.png", "image=png"))
    members = {"seg.png": b"mask", "jpg": b"photo"}
    assert field_map.pick("mask", members) == b"mask"
    with pytest.raises(BadSample, match=r"missing_member: no png; the sample has jpg, seg\.png"):
        field_map.pick("image", members)  # a mask must never be used as the image


def test_null_values_and_absent_keys_are_picked_as_none() -> None:
    field_map = parse_field_map(("text=caption|json:caption",))
    assert field_map.pick("text", {"caption": None}) is None
    assert field_map.pick("text", {"json": b"{}"}) is None
    assert field_map.pick("text", {"json": b"[1, 2]"}) is None
    assert field_map.pick("text", {"caption": None, "json": b'{"caption": "x"}'}) == "x"


@pytest.mark.parametrize("broken", [b"{", b"", b"\xff\xfe{\0}\0x", b'{"caption": "\xff"}', b"[" * 100_000, b"not json"])
def test_json_that_does_not_parse_is_bad_json(broken: bytes) -> None:
    with pytest.raises(BadSample) as caught:
        parse_field_map(("text=json:caption",)).pick("text", {"json": broken})
    assert caught.value.reason == "bad_json"


@pytest.mark.parametrize(
    "wrong",
    ["image", "=jpg", "image=", "image=jpg||png", "text=json:", "text=json:a..b", "a b=c", "image=../x"],
)
def test_the_error_names_a_spec_that_does_not_parse(wrong: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_field_map((wrong,))
    assert "field map" in str(caught.value) and repr(wrong) in str(caught.value)


def test_a_repeated_field_and_an_empty_map_are_rejected() -> None:
    with pytest.raises(ConfigError, match="twice"):
        parse_field_map(("image=jpg", "image=png"))
    with pytest.raises(ConfigError, match="empty"):
        parse_field_map(())


def test_check_names_the_field_the_nearest_member_and_all_members() -> None:
    field_map = parse_field_map(("image=jpg", "text=captoin"))
    field_map.check({"jpg", "captoin"})
    with pytest.raises(CorpusError, match=r"text=captoin .*did you mean 'caption'\? valid: caption, jpg"):
        field_map.check({"jpg", "caption"})


def test_check_uses_the_json_keys_of_a_sample() -> None:
    sampled = available_members({"jpg": b"", "json": b'{"title": "x"}'})
    assert sampled == {"jpg", "json", "json:title"}
    parse_field_map(("text=json:title",)).check(sampled)
    with pytest.raises(CorpusError, match="json:title"):
        parse_field_map(("text=json:titel",)).check(sampled)
    parse_field_map(("text=json:titel",)).check({"json"})  # without a sample, the keys are unknown
    assert available_members({"json": b"{broken"}) == {"json"}


@pytest.mark.parametrize(
    "format,available,specs",
    [
        ("tar", {"jpg", "txt", "json", "cls"}, ("image=jpg", "text=txt")),
        ("tar", {"png", "webp", "json"}, ("image=png|webp", "text=json:caption")),
        ("tar", {"jpg", "json", "json:text"}, ("image=jpg", "text=json:text")),
        ("parquet", {"image", "caption", "source"}, ("image=image", "text=caption")),
        ("parquet", {"jpg", "caption", "key", "json"}, ("image=jpg", "text=caption")),
    ],
)  # fmt: skip
def test_the_usual_layouts_are_guessed(format: str, available: set, specs: tuple) -> None:
    assert FieldMap.guess(available, format).specs == specs


def test_a_failed_guess_lists_the_members_that_exist() -> None:
    with pytest.raises(CorpusError, match=r"text of this parquet corpus .* has image, label, none of txt, text"):
        FieldMap.guess({"image", "label"}, "parquet")


def test_row_views_write_into_the_block_even_for_scalar_columns() -> None:
    block = {"a": np.zeros((3, 2)), "n": np.zeros(3, np.int64)}
    row = row_views(block, 1)
    row["a"][...], row["n"][...] = 5, 7
    assert block["a"].tolist() == [[0, 0], [5, 5], [0, 0]] and block["n"].tolist() == [0, 7, 0]
    assert {k: (v.shape, v.dtype) for k, v in allocate_columns([ImageField(size=8)], 3).items()} == {
        "image": ((3, 8, 8, 3), np.uint8)
    }
