"""Choose which trials of a sweep are repeated with other seeds: the best that finished, and the baseline."""

from collections.abc import Sequence

from pipelines.sweep.plan import Plan
from xmodal.search.choice import standings
from xmodal.search.trial import BASELINE, FINALIST, Trial


def next_repeat(trials: Sequence[Trial], plan: Plan) -> Trial | None:
    """Return the next seed of a finalist, without a number; None when all have been repeated."""
    if plan.finalists == 0:
        return None
    firsts = [trial for trial in trials if trial.kind != FINALIST]
    ranking = [config.trial for config in standings(firsts, plan.space, plan.by[0])]
    baseline = next(trial.number for trial in trials if trial.kind == BASELINE)
    chosen = [number for number in ranking if number != baseline][: plan.finalists]
    for number in [*chosen, *([baseline] if baseline in ranking else [])]:
        repeats = [trial for trial in trials if trial.kind == FINALIST and trial.parent == number]
        if len(repeats) < plan.config.seeds - 1:
            first = next(trial for trial in trials if trial.number == number)
            seed = plan.base_seed + 1 + len(repeats)
            return Trial(
                number=-1, kind=FINALIST, values=first.values, units=first.units, seed=seed, parent=number
            )  # fmt: skip
    return None
