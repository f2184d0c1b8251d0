"""The arms of an experiment on adaptation: each is one method at one strength.

Which strength and which checkpoint count is chosen afterwards, without labels of the target. `source-only` sees no
target; `oracle` trains on the target's labels or pairs and is an upper bound, not a method.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

SOURCE_ONLY, ORACLE = "source-only", "oracle"
OWN_STATISTICS, PAIRS, MATCHING = "own", "pairs", "matching"
CONTROLS = ("source-inverted",)  # they see no target either: their gain is not one of adaptation
METHOD_SUMMARIES = {
    "dann": "a critic behind gradient reversal",
    "mmd": "unbiased MMD",
    "coral": "equal covariances",
    "cdan": "a critic that reads features x predictions",
    "mcc": "minimum class confusion",
    "bnm": "nuclear norm of the predictions",
    "dann+mcc": "a critic, and minimum class confusion",
    "source-inverted": "trained on moved, recoloured and inverted views of the source, too; no target",
    "views": "moved and recoloured views of the target agree with confident predictions on the images as they are",
    "inverted": "as views, and half of the views are negatives",
    "own": "each domain's images normalised by statistics of their own",
    "pairs": "concepts assigned by mutual nearest neighbours",
    "matching": "concepts assigned by the best matching of all images to different ones",
    "dann+matching": "a critic, and matching",
    "dann+mmpareto": "a critic at each encoder, added after MMPareto",
    "mmd+mmpareto": "unbiased MMD at each encoder, added after MMPareto",
}


@dataclass(frozen=True, kw_only=True)
class AdaptationArm:
    """One method at one strength.

    `method` is a key of `METHOD_SUMMARIES`, `source-only` or `oracle`; `strength` is the final weight of its domain
    loss.
    """

    summary: str
    method: str
    strength: float = 0.0


def build_arms(strengths: Mapping[str, Sequence[float]], *, oracle: str) -> dict[str, AdaptationArm]:
    """Return an arm METHOD-STRENGTH for every strength, between source-only and oracle.

    `oracle` is the summary of the oracle: what it trains on.
    """
    arms = {SOURCE_ONLY: AdaptationArm(summary="no adaptation", method=SOURCE_ONLY)}
    for method, grid in strengths.items():
        for strength in grid:
            summary = f"{METHOD_SUMMARIES[method]}, strength {strength:g}"
            arms[f"{method}-{strength:g}"] = AdaptationArm(summary=summary, method=method, strength=strength)
    arms[ORACLE] = AdaptationArm(summary=oracle, method=ORACLE)
    return arms
