"""Train, load and save tokenizers, each as one JSON string that `tokenizers` and transformers both read.

The trained tokenizer is CLIP's (Radford et al. 2021): lower case, NFC, byte-level BPE whose words end in `</w>`. The
string names the pad token, so that it alone is enough to decode captions.
"""

import functools
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer

from xmodal.errors import ConfigError

BEGIN, END, PAD = "<|startoftext|>", "<|endoftext|>", "<pad>"
WORD_END = "</w>"
_WORDS = r"""<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"""
_BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())  # 256 printable characters that represent the bytes
MIN_VOCAB_SIZE = 2 * len(_BYTES) + 3  # each byte inside and at the end of a word, and the special tokens

# In training, the last byte of a word is one private character instead of byte + "</w>": the trainer numbers
# characters by code point but suffixed ones by hash order, and ties between merges are broken by number.
_LAST = {byte: chr(0xE000 + i) for i, byte in enumerate(_BYTES)}
_SUFFIXED = {last: byte + WORD_END for byte, last in _LAST.items()}


@dataclass(frozen=True, kw_only=True)
class SpecialIds:
    """The special token ids that a model needs; begin and end are None where the tokenizer does not add them."""

    begin: int | None
    end: int | None
    pad: int
    vocab_size: int


def train_tokenizer(captions: Iterable[str], vocab_size: int) -> str:
    """Train a tokenizer of at most `vocab_size` tokens; the same captions in any order give the same JSON.

    The special tokens come last and the end token has the highest id: CLIP's text tower pools at the end token, which
    it finds by the configured id or, in old configurations, as the largest id of the row.

    >>> special_ids(train_tokenizer(["a red boat", "a blue boat"], vocab_size=600)).vocab_size
    518
    """
    if vocab_size < MIN_VOCAB_SIZE:
        raise ConfigError(f"tokenizer: vocab_size={vocab_size} must be at least {MIN_VOCAB_SIZE}")
    merges = _train_merges(captions, vocab_size - MIN_VOCAB_SIZE)
    tokens = [*_BYTES, *(byte + WORD_END for byte in _BYTES)]
    tokens += dict.fromkeys(left + right for left, right in merges)  # two merges may spell one token
    tokens += [PAD, BEGIN, END]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    tokenizer = _text_pipeline(BPE(vocabulary, merges, end_of_word_suffix=WORD_END, unk_token=END))
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.RobertaProcessing(
        (END, vocabulary[END]), (BEGIN, vocabulary[BEGIN]), trim_offsets=False, add_prefix_space=False
    )
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in (PAD, BEGIN, END)])
    tokenizer.enable_padding(pad_id=vocabulary[PAD], pad_token=PAD)
    return tokenizer.to_str()


def _text_pipeline(model: BPE) -> Tokenizer:
    """Return a tokenizer with CLIP's normalisation and splitting into byte-level words, as transformers builds it."""
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    return tokenizer


def _train_merges(captions: Iterable[str], max_merges: int) -> list[tuple[str, str]]:
    alphabet = [*_BYTES, *_LAST.values()]
    learner = Tokenizer(BPE())
    learner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = BpeTrainer(
        vocab_size=len(alphabet) + max_merges, initial_alphabet=alphabet, min_frequency=2, show_progress=False
    )
    learner.train_from_iterator(_marked_words(captions), trainer)
    merges = json.loads(learner.to_str())["model"]["merges"]
    return [(_with_word_end(left), _with_word_end(right)) for left, right in merges]


def _marked_words(captions: Iterable[str]) -> Iterator[str]:
    """Yield each caption's byte-level words, separated by spaces, with the last byte as its private character."""
    pipeline = _text_pipeline(BPE())
    for caption in captions:
        text = pipeline.normalizer.normalize_str(caption)
        words = (word for word, _ in pipeline.pre_tokenizer.pre_tokenize_str(text))
        yield " ".join(word[:-1] + _LAST[word[-1]] for word in words)


def _with_word_end(token: str) -> str:
    return token[:-1] + _SUFFIXED.get(token[-1], token[-1])


@functools.lru_cache(maxsize=8)
def special_ids(tokenizer_json: str) -> SpecialIds:
    """Return the special ids of a tokenizer, from the tokens that it adds around a word; ConfigError without a pad."""
    tokenizer = Tokenizer.from_str(tokenizer_json)
    if tokenizer.padding is None:
        raise ConfigError("tokenizer: its JSON names no pad token; read it by load_tokenizer or train_tokenizer")
    pad = tokenizer.padding["pad_id"]
    tokenizer.no_padding()
    encoding = tokenizer.encode("a")
    tokens = list(zip(encoding.ids, encoding.special_tokens_mask, strict=True)) or [(pad, False)]
    begin, end = tokens[0], tokens[-1]
    return SpecialIds(
        begin=begin[0] if begin[1] else None,
        end=end[0] if end[1] else None,
        pad=pad,
        vocab_size=max(tokenizer.get_vocab().values()) + 1,
    )


def save_tokenizer(tokenizer_json: str, directory: str | Path, length: int = 77) -> None:
    """Write `tokenizer.json` and `tokenizer_config.json`, with which transformers' AutoTokenizer gives equal ids."""
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "tokenizer.json").write_text(tokenizer_json, encoding="utf-8")
    config = json.dumps(_transformers_config(tokenizer_json, length), indent=2, ensure_ascii=False)
    (directory / "tokenizer_config.json").write_text(config + "\n", encoding="utf-8")


def _transformers_config(tokenizer_json: str, length: int) -> dict[str, object]:
    special, tokenizer = special_ids(tokenizer_json), Tokenizer.from_str(tokenizer_json)
    model = json.loads(tokenizer_json)["model"]
    ids = {"bos_token": special.begin, "eos_token": special.end, "pad_token": special.pad}
    config = {name: tokenizer.id_to_token(i) for name, i in ids.items() if i is not None}
    if isinstance(model.get("unk_token"), str):
        config["unk_token"] = model["unk_token"]
    return {
        "tokenizer_class": "CLIPTokenizer" if _is_clip(tokenizer_json) else "PreTrainedTokenizerFast",
        **config,
        "model_max_length": length,
        "split_special_tokens": True,  # as in TextField: a special token spelled out in a caption is text
        "clean_up_tokenization_spaces": False,
    }


def _is_clip(tokenizer_json: str) -> bool:
    steps = (json.loads(tokenizer_json).get("pre_tokenizer") or {}).get("pretokenizers", [])
    return any(step.get("pattern") == {"Regex": _WORDS} for step in steps)


def load_directory(directory: str | Path) -> str:
    """Load the `tokenizer.json` of a local directory, with its pad token filled in; ConfigError without one."""
    path = Path(directory) / "tokenizer.json"
    try:
        tokenizer = Tokenizer.from_str(path.read_text(encoding="utf-8"))
    except FileNotFoundError as cause:
        raise ConfigError(f"tokenizer: {path} does not exist; give a directory that holds one") from cause
    except Exception as cause:  # tokenizers raises bare Exception on a JSON it cannot read
        raise ConfigError(f"tokenizer: {path} cannot be read: {cause}") from cause
    return with_padding(tokenizer, _pad_token(path.parent))


def with_padding(tokenizer: Tokenizer, pad_token: str | None) -> str:
    """Return the tokenizer as JSON with a pad token: `pad_token`, else the tokenizer's own, else its end token."""
    tokenizer.no_truncation()
    own_pad_token = tokenizer.padding["pad_token"] if tokenizer.padding else None
    tokenizer.no_padding()
    name = pad_token or own_pad_token or tokenizer.encode("a").tokens[-1]
    pad = tokenizer.token_to_id(name)
    if pad is None:
        raise ConfigError(f"tokenizer: its pad token {name!r} is not in its vocabulary")
    tokenizer.enable_padding(pad_id=pad, pad_token=name)
    return tokenizer.to_str()


def _pad_token(directory: Path) -> str | None:
    """Return the pad token that transformers would use: of `tokenizer_config.json`, then `special_tokens_map.json`."""
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        path = directory / name
        token = json.loads(path.read_text(encoding="utf-8")).get("pad_token") if path.exists() else None
        if token:
            return str(token["content"] if isinstance(token, dict) else token)
    return None
