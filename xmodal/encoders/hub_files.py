"""A directory or Hub name in, its files out, and one clear error where they cannot be read."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError
from transformers.utils import cached_file
from transformers.utils import logging as transformers_logging

from xmodal.errors import CheckpointError


def file_of(source: str, name: str) -> Path:
    """A file of a directory, or of a Hub name (downloaded, or from the cache when offline)."""
    return Path(str(cached_file(source, name)))  # raises OSError where there is none


@contextmanager
def explained(source: str) -> Iterator[None]:
    """What reading a checkpoint may raise, as one CheckpointError."""
    try:
        yield
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        cause = str(error).strip().splitlines()[0]
        raise CheckpointError(f"cannot read a model from {source}: {cause}") from error


@contextmanager
def quiet(source: str) -> Iterator[None]:
    """No progress bar for a local directory; downloads keep theirs."""
    if not Path(source).is_dir() or not transformers_logging.is_progress_bar_enabled():
        yield
        return
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.enable_progress_bar()
