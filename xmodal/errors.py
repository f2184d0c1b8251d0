"""The errors that a user may see; each message names the file, key or field, and the fix."""

import difflib
from collections.abc import Iterable


class XmodalError(Exception):
    """The base of errors that a user can fix; jobs print the message without a traceback and exit with `exit_code`."""

    exit_code = 2


class ConfigError(XmodalError):
    """A field, preset or combination of values that cannot work."""


class CorpusError(XmodalError):
    """A corpus that is empty, does not match its field map, or cannot be indexed."""


class StorageError(XmodalError):
    """A URI that cannot be reached, read or written."""


class CheckpointError(XmodalError):
    """A checkpoint that is missing, damaged, or of another model or run."""


class TooManyBadRows(XmodalError):
    """More rows were quarantined than `max_bad_fraction` allows."""

    exit_code = 3


class NonFiniteLoss(XmodalError):
    """A loss or gradient became infinite or NaN; no rank updated its weights."""

    exit_code = 4


class RanksDiverged(XmodalError):
    """Ranks have different weights: they train different models and must not continue."""

    exit_code = 5


class NeverSynchronised(RanksDiverged):
    """Ranks have different gradients after a backward: they were not reduced, and would not be after a restart."""


class BadSample(Exception):
    """One field of one sample cannot be decoded; its row stays in the batch, masked, and is quarantined.

    `reason` is one of a small fixed vocabulary (`not_an_image`, `bad_utf8`, ...); `detail` is for a person.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail


def nearest(name: str, valid: Iterable[str]) -> str:
    """Return the end of an error message about an unknown name: the closest valid name, then all of them.

    >>> nearest("adamv", ["adamw", "sgd"])
    "did you mean 'adamw'? valid: adamw, sgd"
    """
    names = sorted(valid)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    guess = f"did you mean {close[0]!r}? " if close else ""
    return f"{guess}valid: {', '.join(names) or '(none)'}"
