"""Embedded pairs in, retrieval both ways beside chance with bootstrap intervals out: for a page whose run has none."""

import numpy as np
from jaxtyping import Int64

from xmodal.metrics.retrieval import ranks, retrieve_both_ways
from xmodal.report.pairs import Embedded, Pairs
from xmodal.report.recorded import Evaluated

RESAMPLES = 1000
KS = (1, 5, 10)


def measure(pairs: Pairs, embedded: Embedded, step: int) -> Evaluated:
    """Retrieval over the pairs of the page; equal captions are right answers of each other."""
    ids = pairs.ids
    metrics: dict[str, float] = {}
    chance: dict[str, float] = {}
    interval: dict[str, tuple[float, float]] = {}
    both = retrieve_both_ways(embedded.image, embedded.text, ids, ids, ks=KS)
    sides = (("image_to_text", embedded.image, embedded.text), ("text_to_image", embedded.text, embedded.image))
    for found, (name, queries, items) in zip(both, sides, strict=True):
        metrics |= {f"{name}/recall@{k}": found.recall[k] for k in KS} | {f"{name}/median_rank": found.median_rank}
        chance |= {f"{name}/recall@{k}": found.chance_recall[k] for k in KS}
        chance[f"{name}/median_rank"] = found.chance_median_rank
        interval |= _intervals(name, ranks(queries, items, ids, ids).numpy())
    return Evaluated(
        name="this page",
        step=step,
        corpus=pairs.uri,
        fingerprint=pairs.fingerprint,
        rows=len(pairs),
        skipped=pairs.skipped,
        metrics=metrics,
        interval=interval,
        chance=chance,
    )


def _intervals(name: str, rank: Int64[np.ndarray, "Q"]) -> dict[str, tuple[float, float]]:
    """95 % bootstrap intervals over queries (Efron 1979, percentile method)."""
    draw = np.random.default_rng(0)
    samples = [rank[draw.integers(len(rank), size=len(rank))] for _ in range(RESAMPLES)]
    figures = {f"{name}/recall@{k}": [float((one <= k).mean()) for one in samples] for k in KS}
    figures[f"{name}/median_rank"] = [float(np.median(one)) for one in samples]
    return {key: (float(np.quantile(v, 0.025)), float(np.quantile(v, 0.975))) for key, v in figures.items()}
