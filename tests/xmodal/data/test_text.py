"""Any caption becomes ids of fixed length and a stable identity, or a BadSample, at bounded cost."""

import pickle
import unicodedata
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xmodal.data.decode import text as text_module
from xmodal.data.decode.fields import allocate_columns, parse_field_map, row_views
from xmodal.data.decode.text import MAX_CHARACTERS, TextField, caption_id, choose_caption, clean_caption
from xmodal.data.decode.tokenizer import MIN_VOCAB_SIZE, special_ids, train_tokenizer
from xmodal.errors import BadSample, ConfigError

CAPTIONS = [
    "a small red house on a hill",
    "a blue house",
    "the red hill",
    "two small blue birds on a red house",
] * 5
TOKENIZER = train_tokenizer(CAPTIONS, MIN_VOCAB_SIZE + 60)
SPECIAL = special_ids(TOKENIZER)
FIELD = TextField(tokenizer_json=TOKENIZER, length=12)


def decode(raw: object, field: TextField = FIELD, seed: int = 0) -> dict[str, np.ndarray]:
    block = allocate_columns([field], 1)
    field.decode(raw, np.random.default_rng(seed), row_views(block, 0))
    return {name: column[0] for name, column in block.items()}


def reason(raw: object) -> str:
    block = allocate_columns([FIELD], 1)
    with pytest.raises(BadSample) as caught:
        FIELD.decode(raw, np.random.default_rng(0), row_views(block, 0))
    assert not any(column.any() for column in block.values())
    return caught.value.reason


@given(st.text(max_size=60) | st.text(alphabet="ab c", max_size=60))
@settings(max_examples=300, deadline=None)
def test_ids_are_begin_content_end_padding(text: str) -> None:
    try:
        row = decode(text)
    except BadSample as bad:
        assert bad.reason == "no_caption" and not clean_printable(text)
        return
    ids, length = row["text"].tolist(), int(row["text_length"])
    assert len(ids) == 12 and ids[0] == SPECIAL.begin and ids[length - 1] == SPECIAL.end
    assert ids[length:] == [SPECIAL.pad] * (12 - length)
    assert not {SPECIAL.begin, SPECIAL.end, SPECIAL.pad} & set(ids[1 : length - 1])


def clean_printable(text: str) -> str:
    """Remove white space and control characters from a text."""
    controls = {*range(0x20), *range(0x7F, 0xA0), 0xFEFF}
    return "".join(c for c in text if not c.isspace() and ord(c) not in controls)


def test_a_long_caption_keeps_its_end_token() -> None:
    row = decode("house " * 100)
    assert row["text"][-1] == SPECIAL.end and row["text_length"] == 12


def test_a_special_token_spelled_out_is_text() -> None:
    ids = decode("red <|endoftext|> house", TextField(tokenizer_json=TOKENIZER, length=40))["text"].tolist()
    assert ids.count(SPECIAL.end) == 1


def test_captions_that_differ_in_form_share_an_identity_and_others_do_not() -> None:
    same = [
        "Café au lait",
        "  cafe\u0301\tAU \n lait ",
        "CAFÉ AU LAIT\0",
        b"caf\xc3\xa9 au lait",
        "\ufeffcafé au lait",
    ]
    assert len({int(decode(text)["text_id"]) for text in same}) == 1
    assert len({caption_id(f"caption {i}") for i in range(10_000)}) == 10_000
    assert caption_id("a red house") == 4769182873481611815  # stable over processes and releases


EMPTY = [None, "", b"", "  \t\n", "\0\0", 3, 2.5, True, {"a": "b"}, [], [None, "", 3]]


@pytest.mark.parametrize("raw", EMPTY)
def test_no_caption(raw: object) -> None:
    assert reason(raw) == "no_caption"


NOT_UTF8 = [
    b"caf\xe9",
    "utf-16".encode("utf-16"),
    b"\xed\xa0\x80",
    "lone \ud800 surrogate",
    b"ok" + b" x" * 5000 + b"\xff",
]


@pytest.mark.parametrize("raw", NOT_UTF8)
def test_bad_utf8_is_rejected(raw: object) -> None:
    assert reason(raw) == "bad_utf8"


def test_a_lone_surrogate_from_json_is_bad_utf8() -> None:
    raw = parse_field_map(("text=json:caption",)).pick("text", {"json": rb'{"caption": "x \ud83d y"}'})
    assert reason(raw) == "bad_utf8"


HARD = {
    "right to left": "بيت أحمر צהוב",
    "bidi override": "a \u202e red house",
    "NUL": "a\0 red\0 house",
    "zero-width joiners": "👩‍👩‍👧‍👦 family",
    "combining marks": "a" + "\u0301\u0323" * 2500,
    "ANSI escape": "\x1b[31mred\x1b[0m",
    "noncharacters": "\uffff \U0010ffff",
}


@pytest.mark.parametrize("kind", HARD)
def test_hard_captions_tokenise(kind: str) -> None:
    clean = clean_caption(HARD[kind])
    assert not any(ord(c) < 0x20 for c in clean)
    assert decode(HARD[kind])["text_length"] > 2


LARGE = {
    "words": b"word " * 200_000,
    "no space": b"x" * 1_000_000,
    "white space first": b" " * 1_000_000 + b"house",
    "list": ["q " * 500_000] * 5,
}


@pytest.mark.parametrize("kind", LARGE)
def test_only_the_beginning_of_a_huge_caption_reaches_the_costly_steps(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, encoder, lengths = decode(LARGE[kind]), text_module._encoder(TOKENIZER, 12), []

    def record_length(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            lengths.append(len(arguments[-1]))
            return function(*arguments)

        return call

    monkeypatch.setattr(
        text_module, "_encoder", lambda *arguments: SimpleNamespace(encode=record_length(encoder.encode))
    )
    monkeypatch.setattr(text_module, "unicodedata", SimpleNamespace(normalize=record_length(unicodedata.normalize)))
    row = decode(LARGE[kind])
    assert all(np.array_equal(row[name], expected[name]) for name in expected)
    assert len(lengths) == 3 and max(lengths) <= MAX_CHARACTERS  # cleaned, encoded, hashed


@given(st.text(min_size=1, max_size=40), st.integers(1, 400))
@settings(max_examples=100, deadline=None)
def test_a_clean_caption_is_bounded_and_cleaning_is_idempotent(text: str, repeat: int) -> None:
    try:
        clean = clean_caption(text * repeat)
    except BadSample:
        return
    assert len(clean) <= MAX_CHARACTERS and len(clean.encode()) <= 8192
    assert clean_caption(clean) == clean


def test_each_non_empty_caption_of_a_list_is_chosen_equally_often() -> None:
    rng = np.random.default_rng(0)
    chosen = [choose_caption(["a", "", None, "b", " ", "c"], rng) for _ in range(3000)]
    assert {text: chosen.count(text) > 850 for text in set(chosen)} == {"a": True, "b": True, "c": True}


def test_the_chosen_caption_depends_on_the_generator_alone() -> None:
    captions = [f"caption {i}" for i in range(10)]
    copy = pickle.loads(pickle.dumps(FIELD))
    assert all(decode(captions, FIELD, s)["text_id"] == decode(captions, copy, s)["text_id"] for s in range(20))


def test_a_length_without_space_for_a_token_is_rejected() -> None:
    with pytest.raises(ConfigError, match="length=2"):
        TextField(tokenizer_json=TOKENIZER, length=2)
