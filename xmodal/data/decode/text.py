"""Decode a caption into token ids of fixed length and a number that identifies its text."""

import functools
import hashlib
import unicodedata
from dataclasses import dataclass
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from xmodal.data.decode.fields import Column
from xmodal.data.decode.tokenizer import special_ids
from xmodal.errors import BadSample, ConfigError

MAX_CHARACTERS = 2048  # at most 8 KiB of UTF-8; byte-pair encoding is super-linear in a word's length
_MAX_RAW_CHARACTERS = 2 * MAX_CHARACTERS  # examined before white space collapses
_SPACES = set(range(0x1C, 0x20)) | set(b"\t\n\v\f\r") | {0x85}  # controls that `str.split` treats as white space
_CONTROLS = {code: None for code in (*range(0x20), *range(0x7F, 0xA0)) if code not in _SPACES} | {0xFEFF: None}


@dataclass(frozen=True, kw_only=True)
class TextField:
    """Decode a caption into token ids and an identity.

    Columns: `name` int32 [length] (token ids), `name_length` int32 (number of valid tokens), `name_id` int64
    (`caption_id`). Ids run from the begin to the end token and are padded with the tokenizer's pad id; a caption that
    is too long keeps its end token. Captions that differ only in case, white space or Unicode form share an identity.
    Of a list of captions, the row's generator chooses one. `tokenizer_json` comes from `train_tokenizer` or
    `load_tokenizer`; special tokens spelled out in a caption are ordinary text.

    BadSample: `no_caption` (missing, empty, not text), `bad_utf8`.
    """

    tokenizer_json: str
    length: int = 77
    name: str = "text"

    def __post_init__(self) -> None:
        if self.length < 3:
            raise ConfigError(f"text: length={self.length} must be at least 3: begin, one token, end")
        special_ids(self.tokenizer_json)  # ConfigError where it has no padding

    @property
    def columns(self) -> dict[str, Column]:
        return {
            self.name: Column(dtype="int32", shape=(self.length,)),
            f"{self.name}_length": Column(dtype="int32", shape=()),
            f"{self.name}_id": Column(dtype="int64", shape=()),
        }

    def decode(self, raw: Any, rng: np.random.Generator, out: dict[str, np.ndarray]) -> None:
        """Decode the caption in `raw` (bytes, str, or a list of them) into the three columns."""
        caption = clean_caption(choose_caption(raw, rng))
        encoding = _encoder(self.tokenizer_json, self.length).encode(caption)
        out[self.name][...] = encoding.ids
        out[f"{self.name}_length"][...] = sum(encoding.attention_mask)
        out[f"{self.name}_id"][...] = caption_id(caption)

    def tokenize(self, captions: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """Return ids int32 [M, length] and numbers of valid tokens int32 [M] of M clean captions."""
        encodings = _encoder(self.tokenizer_json, self.length).encode_batch(captions)
        ids = np.array([encoding.ids for encoding in encodings], np.int32).reshape(-1, self.length)
        return ids, np.array([sum(encoding.attention_mask) for encoding in encodings], np.int32)


def choose_caption(raw: object, rng: np.random.Generator) -> str | bytes:
    """Return the caption itself, or a random non-empty one of a list; BadSample `no_caption` where there is none."""
    captions = raw if isinstance(raw, list | tuple) else [raw]
    usable = [text for text in captions if isinstance(text, str | bytes) and text and not text.isspace()]
    if not usable:
        raise BadSample("no_caption", f"{type(raw).__name__} {str(raw)[:40]!r}")
    return usable[int(rng.integers(len(usable)))] if len(usable) > 1 else usable[0]


def clean_caption(text: str | bytes) -> str:
    r"""Return a caption in NFC with single spaces, no control characters and at most 2,048 characters.

    It is cut before the costly steps, so that a megabyte costs no more than a sentence. BadSample `bad_utf8`,
    `no_caption`.

    >>> clean_caption(b"  a red\n boat ")
    'a red boat'
    """
    try:
        whole = text.decode("utf-8") if isinstance(text, bytes) else text
        start = whole.lstrip()[:_MAX_RAW_CHARACTERS]
        start.encode("utf-8")  # a str from JSON may contain lone surrogates
    except UnicodeError as cause:
        raise BadSample("bad_utf8", str(cause)[:200]) from cause
    caption = " ".join(start.translate(_CONTROLS).split())[:MAX_CHARACTERS]
    caption = unicodedata.normalize("NFC", caption)[:MAX_CHARACTERS].strip()
    if not caption:
        raise BadSample("no_caption", "nothing but control characters and white space")
    return caption


def caption_id(caption: str) -> int:
    """Return a stable signed 64-bit hash (blake2b) of a clean caption that ignores case.

    >>> caption_id("A red boat") == caption_id("a red boat")
    True
    """
    folded = unicodedata.normalize("NFC", caption.casefold())
    digest = hashlib.blake2b(folded.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


@functools.lru_cache(maxsize=8)  # a string keeps its own hash, so the look-up is cheap for megabytes of JSON
def _encoder(tokenizer_json: str, length: int) -> Tokenizer:
    tokenizer = Tokenizer.from_str(tokenizer_json)
    special = special_ids(tokenizer_json)
    tokenizer.enable_truncation(length)
    tokenizer.enable_padding(length=length, pad_id=special.pad, pad_token=tokenizer.id_to_token(special.pad))
    tokenizer.encode_special_tokens = True  # "<|endoftext|>" inside a caption is ordinary text
    return tokenizer
