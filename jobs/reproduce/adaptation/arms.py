"""Methods with the strengths that each is tried at in, the arms of an experiment on adaptation out.

An arm is one method at one strength; which strength and which checkpoint count is chosen afterwards, without labels of
the target. `source-only` sees no target, `oracle` trains on the target's labels or pairs and is a ceiling, no method.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

SOURCE_ONLY, ORACLE = "source-only", "oracle"
OWN, PAIRS, MATCHING = "own", "pairs", "matching"
CONTROLS = ("source-inverted",)  # no target either: what such a one wins is not won by adaptation
ABOUT = {
    "dann": "a critic behind gradient reversal",
    "mmd": "unbiased MMD",
    "coral": "equal covariances",
    "cdan": "a critic that reads features x predictions",
    "mcc": "minimum class confusion",
    "bnm": "nuclear norm of the predictions",
    "dann+mcc": "a critic, and minimum class confusion",
    "source-inverted": "labels of moved, recoloured and inverted views of the source too; no target",
    "views": "moved and recoloured views of the target agree with what is sure of the pictures as they are",
    "inverted": "the same, and half of the views are negatives",
    "own": "each domain's pictures by statistics of its own",
    "pairs": "concepts guessed by mutual nearest neighbours",
    "matching": "concepts guessed by the best assignment of all pictures to different ones",
    "dann+matching": "a critic, and the same",
    "dann+mmpareto": "a critic at each encoder, added after MMPareto",
    "mmd+mmpareto": "unbiased MMD at each encoder, added after MMPareto",
}


@dataclass(frozen=True, kw_only=True)
class Arm:
    """`method` is a key of `ABOUT`, `source-only` or `oracle`; `strength` the final weight of its domain loss."""

    summary: str
    method: str
    strength: float = 0.0


def arms(strengths: Mapping[str, Sequence[float]], *, oracle: str) -> dict[str, Arm]:
    """METHOD-STRENGTH for each, between source-only and oracle; `oracle` says what that one trains on."""
    found = {SOURCE_ONLY: Arm(summary="no adaptation", method=SOURCE_ONLY)}
    for method, grid in strengths.items():
        for strength in grid:
            summary = f"{ABOUT[method]}, strength {strength:g}"
            found[f"{method}-{strength:g}"] = Arm(summary=summary, method=method, strength=strength)
    found[ORACLE] = Arm(summary=oracle, method=ORACLE)
    return found
