"""Embedded pairs in, retrieval both ways beside chance with bootstrap intervals out: for a page whose run has none."""

from xmodal.metrics.retrieval import retrieve_both_ways
from xmodal.report.held_out_pairs import Embedded, Pairs
from xmodal.run.run_record import Evaluated

DRAWS, SEED = 1000, 0  # of the bootstrap
CHANCE = "/chance/"


def measure(pairs: Pairs, embedded: Embedded, step: int) -> Evaluated:
    """Retrieval over the pairs of the page; equal captions are right answers of each other."""
    ids = pairs.ids
    forth, back = retrieve_both_ways(embedded.image, embedded.text, ids, ids)
    first, second = pairs.modalities
    sides = {f"{first}_to_{second}": forth, f"{second}_to_{first}": back}
    figures = {name: value for side, found in sides.items() for name, value in found.as_metrics(side).items()}
    return Evaluated(
        name="this page",
        step=step,
        corpus=pairs.uri,
        fingerprint=pairs.fingerprint,
        rows=len(pairs),
        skipped=pairs.skipped,
        metrics={name: value for name, value in figures.items() if CHANCE not in name},
        chance={name.replace(CHANCE, "/"): value for name, value in figures.items() if CHANCE in name},
        interval={
            name: bounds
            for side, found in sides.items()
            for name, bounds in found.intervals(side, draws=DRAWS, seed=SEED).items()
        },
    )
