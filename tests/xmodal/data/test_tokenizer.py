"""One tokenizer JSON gives the same ids here and in transformers, and suits CLIP's pooling."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from xmodal.data.decode.fields import allocate_columns, row_views
from xmodal.data.decode.text import TextField, clean_caption
from xmodal.data.decode.tokenizer import (
    MIN_VOCAB_SIZE,
    load_directory,
    save_tokenizer,
    special_ids,
    train_tokenizer,
)
from xmodal.encoders.hub_tokenizer import load_tokenizer
from xmodal.errors import ConfigError

NOUNS, COLOURS = ("house", "bird", "café", "mountain", "山"), ("red", "blue", "Green", "yellow")
CAPTIONS = [f"a {c} {n} beside the {d} {m}'s {i}" for i, (c, n, d, m) in enumerate(
    (c, n, d, m) for c in COLOURS for n in NOUNS for d in COLOURS for m in NOUNS)]  # fmt: skip
TOKENIZER = train_tokenizer(CAPTIONS, 540)
HARD = [
    *CAPTIONS[:40], "It's 1,234 dogs' don't!!!", "Ünïcode Straße", "日本語のテスト", "👩‍👩‍👧 🏳️‍🌈", "مرحبا", "x" * 300,
    "<|endoftext|> in the middle", "<pad> <|startoftext|>", "a\u200bb", "word " * 200,
]  # fmt: skip


def ids(caption: str, tokenizer_json: str = TOKENIZER, length: int = 24) -> list[int]:
    field = TextField(tokenizer_json=tokenizer_json, length=length)
    block = allocate_columns([field], 1)
    field.decode(caption, np.random.default_rng(0), row_views(block, 0))
    return block["text"][0].tolist()


def test_training_does_not_depend_on_the_order_of_the_captions() -> None:
    shuffled = random.Random(0).sample(CAPTIONS, len(CAPTIONS))
    assert train_tokenizer(shuffled, 540) == TOKENIZER
    assert train_tokenizer(iter(CAPTIONS), 540) == TOKENIZER


def test_the_vocabulary_has_the_requested_size_and_ends_with_the_end_token() -> None:
    special = special_ids(TOKENIZER)
    assert (special.pad, special.begin, special.end, special.vocab_size) == (537, 538, 539, 540)
    assert special_ids(train_tokenizer([], 5000)).vocab_size == MIN_VOCAB_SIZE
    with pytest.raises(ConfigError, match=str(MIN_VOCAB_SIZE)):
        train_tokenizer(CAPTIONS, 300)


def test_frequent_words_become_one_token() -> None:
    large = train_tokenizer(CAPTIONS, 700)
    assert ids("a yellow mountain", large).index(special_ids(large).end) == 4


@given(st.text(min_size=1, max_size=50))
@settings(max_examples=200, deadline=None)
def test_every_text_can_be_decoded_from_its_tokens(text: str) -> None:
    """There is no unknown token: decoding returns the lower-cased text, except for spaces (words end in `</w>`)."""
    tokenizer = Tokenizer.from_str(TOKENIZER)
    tokenizer.encode_special_tokens = True
    special = special_ids(TOKENIZER)
    content = [i for i in tokenizer.encode(text).ids[1:-1]]
    assert not {special.begin, special.end, special.pad} & set(content)
    back = tokenizer.decode(content).replace("</w>", "")
    plain = tokenizer.normalizer.normalize_str(text)
    assert "".join(back.split()) == "".join(plain.split())


@pytest.mark.parametrize("name", ["AutoTokenizer", "PreTrainedTokenizerFast", "CLIPTokenizer", "CLIPTokenizerFast"])
def test_transformers_gives_the_same_ids(tmp_path: Path, name: str) -> None:
    transformers = pytest.importorskip("transformers")
    save_tokenizer(TOKENIZER, tmp_path, length=24)
    theirs = getattr(transformers, name).from_pretrained(tmp_path)
    for caption in HARD:
        clean = clean_caption(caption)
        expected = theirs(clean, padding="max_length", max_length=24, truncation=True)["input_ids"]
        assert ids(caption) == expected, caption
    special = special_ids(TOKENIZER)
    assert (theirs.bos_token_id, theirs.eos_token_id, theirs.pad_token_id) == (
        special.begin,
        special.end,
        special.pad,
    )
    assert len(theirs) == special.vocab_size and theirs.model_max_length == 24


def test_both_pooling_rules_of_clip_find_the_end_token() -> None:
    """The rules are eos_token_id and, for configurations before transformers 4.31 (eos_token_id 2), the largest id."""
    special = special_ids(TOKENIZER)
    assert special.end != 2
    for caption in HARD:
        row = ids(caption)
        assert row.index(special.end) == int(np.argmax(row))


def test_a_saved_tokenizer_loads_unchanged(tmp_path: Path) -> None:
    save_tokenizer(TOKENIZER, tmp_path)
    assert [ids(c, load_tokenizer(str(tmp_path))) for c in HARD] == [ids(c) for c in HARD]
    assert special_ids(load_directory(tmp_path)) == special_ids(TOKENIZER)


def write_bert_like(directory: Path, pad: object) -> None:
    """Write a BERT-like tokenizer whose JSON names no padding, as on the Hub."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "red", "house"]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]"])
    tokenizer.enable_truncation(4)
    (directory / "tokenizer.json").write_text(tokenizer.to_str())
    (directory / "tokenizer_config.json").write_text(json.dumps({"pad_token": pad} if pad else {}))


@pytest.mark.parametrize("pad", ["[PAD]", {"content": "[PAD]", "special": True}, None])
def test_a_tokenizer_of_another_family_keeps_its_special_tokens(tmp_path: Path, pad: object) -> None:
    write_bert_like(tmp_path, pad)
    padding = 0 if pad else 3
    assert ids("a red house", load_tokenizer(str(tmp_path)), length=8) == [2, 4, 5, 6, 3, *[padding] * 3]
    assert ids("a red house a red", load_tokenizer(str(tmp_path)), length=4) == [2, 4, 5, 3]


def test_a_tokenizer_of_another_family_is_saved_for_transformers(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    write_bert_like(tmp_path, "[PAD]")
    ours = load_tokenizer(str(tmp_path))
    save_tokenizer(ours, tmp_path / "saved", length=8)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert theirs("a red house", padding="max_length")["input_ids"] == ids("a red house", ours, length=8)


def test_errors_name_the_tokenizer_that_cannot_be_loaded(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere.*tokenizer\.json does not exist"):
        load_directory(tmp_path / "nowhere")
    (tmp_path / "tokenizer.json").write_text("{broken")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_tokenizer(str(tmp_path))
    write_bert_like(tmp_path, "<missing>")
    with pytest.raises(ConfigError, match="'<missing>' is not in its vocabulary"):
        load_tokenizer(str(tmp_path))
    with pytest.raises(ConfigError, match="names no pad token"):
        special_ids((tmp_path / "tokenizer.json").read_text())


def test_the_error_for_an_unknown_name_names_the_alternatives(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    with pytest.raises(ConfigError, match="neither a directory with a tokenizer nor a Hub repository"):
        load_tokenizer(str(tmp_path / "no-such-directory"))
