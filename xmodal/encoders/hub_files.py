"""Files of a model directory or Hub repository, with one clear error if they cannot be read."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError
from transformers.utils import logging as transformers_logging
from transformers.utils.hub import cached_file

from xmodal.errors import CheckpointError


def cached_path(source: str, name: str) -> Path:
    """Return a file of a directory or of a Hub name (downloaded, or from the cache); OSError if it is missing."""
    return Path(str(cached_file(source, name)))


@contextmanager
def reading_errors(source: str) -> Iterator[None]:
    """Turn whatever reading a checkpoint may raise into one CheckpointError."""
    try:
        yield
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        cause = str(error).strip().splitlines()[0]
        raise CheckpointError(f"cannot read a model from {source}: {cause}") from error


@contextmanager
def without_progress_bar(source: str) -> Iterator[None]:
    """Show no progress bar for a local directory; downloads keep theirs."""
    if not Path(source).is_dir() or not transformers_logging.is_progress_bar_enabled():
        yield
        return
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.enable_progress_bar()
