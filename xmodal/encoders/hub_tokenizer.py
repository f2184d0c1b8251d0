"""Tokenizers from a local directory or from the Hugging Face Hub, as JSON strings."""

from collections.abc import Collection
from pathlib import Path

from xmodal.data.decode.tokenizer import load_directory, with_padding
from xmodal.errors import ConfigError


def load_tokenizer(name_or_directory: str, *, called: str = "tokenizer") -> str:
    """Return the JSON of a local directory's or a Hub repository's tokenizer, with its pad token (see `special_ids`).

    A directory with a `tokenizer.json` needs neither transformers nor a network. ConfigError says what is missing;
    `called` is the name of the setting in its message.
    """
    if (Path(name_or_directory) / "tokenizer.json").exists():
        return load_directory(name_or_directory)
    from transformers import AutoTokenizer  # seconds to import, and only this branch needs it

    try:
        tokenizer = AutoTokenizer.from_pretrained(name_or_directory)
    except (OSError, ValueError) as cause:
        raise ConfigError(
            f"{called}: {name_or_directory!r} is neither a directory with a tokenizer nor a Hub repository "
            f"that can be reached: {str(cause).splitlines()[0]}"
        ) from cause
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise ConfigError(f"{called}: {name_or_directory!r} has no fast version; convert it to a tokenizer.json")
    return with_padding(backend, tokenizer.pad_token)


def read_tokenizer(modalities: Collection[str], source: str | Path) -> str | None:
    """Return the JSON of the tokenizer beside a model of these modalities; None for one that reads no text."""
    return load_tokenizer(str(source)) if "text" in modalities else None
