"""The errors a user may meet: each names the file, key or field, and the mend."""

import difflib
from collections.abc import Iterable


class XmodalError(Exception):
    """Something the user can mend; jobs print the message without a traceback and exit with `exit_code`."""

    exit_code = 2


class ConfigError(XmodalError):
    """A field, preset or combination of values that cannot work."""


class CorpusError(XmodalError):
    """A corpus that is empty, does not fit its field map, or cannot be indexed."""


class StorageError(XmodalError):
    """A URI that cannot be reached, read or written."""


class CheckpointError(XmodalError):
    """A checkpoint that is missing, damaged, or of another model or run."""


class TooManyBadRows(XmodalError):
    """The share of quarantined rows passed `max_bad_fraction`."""

    exit_code = 3


class NonFiniteLoss(XmodalError):
    """A loss or gradient became infinite or NaN; no optimizer moved."""

    exit_code = 4


class RanksDiverged(XmodalError):
    """Ranks hold different weights: they train different models and must not go on."""

    exit_code = 5


class NeverSynchronised(RanksDiverged):
    """Ranks hold different gradients after a backward: no reduction has touched them, nor would it after a restart."""


class BadSample(Exception):
    """One field of one sample that cannot be delivered; its row travels masked and is quarantined.

    `reason` is one of a small fixed vocabulary (`not_an_image`, `bad_utf8`, ...); `detail` is for a person.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail


def nearest(name: str, valid: Iterable[str]) -> str:
    """The tail of an unknown-name message: the closest valid name, then all of them."""
    names = sorted(valid)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    guess = f"did you mean {close[0]!r}? " if close else ""
    return f"{guess}valid: {', '.join(names) or '(none)'}"
