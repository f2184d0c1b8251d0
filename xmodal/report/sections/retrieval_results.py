"""Measure retrieval on a page's held-out pairs, for runs without a recorded evaluation."""

from xmodal.metrics.retrieval import retrieve_both_ways
from xmodal.report.held_out_pairs import PairEmbeddings, ReportPairs
from xmodal.run.run_record import EvaluationRecord

DRAWS, SEED = 1000, 0  # of the bootstrap intervals
CHANCE = "/chance/"


def measure_retrieval(pairs: ReportPairs, embeddings: PairEmbeddings, step: int) -> EvaluationRecord:
    """Evaluate retrieval in both directions, with bootstrap intervals and chance levels.

    Pairs with equal captions are correct answers of each other.
    """
    ids = pairs.ids
    first, second = pairs.modalities
    first_to_second, second_to_first = retrieve_both_ways(embeddings.image, embeddings.text, ids, ids)
    results = {f"{first}_to_{second}": first_to_second, f"{second}_to_{first}": second_to_first}
    metrics = {name: value for task, result in results.items() for name, value in result.as_metrics(task).items()}
    return EvaluationRecord(
        name="this page",
        step=step,
        corpus=pairs.uri,
        fingerprint=pairs.fingerprint,
        rows=len(pairs),
        skipped=pairs.skipped,
        metrics={name: value for name, value in metrics.items() if CHANCE not in name},
        chance={name.replace(CHANCE, "/"): value for name, value in metrics.items() if CHANCE in name},
        interval={
            name: bounds
            for task, result in results.items()
            for name, bounds in result.intervals(task, draws=DRAWS, seed=SEED).items()
        },
    )
