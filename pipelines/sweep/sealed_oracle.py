"""Evaluate trials on the target's labels or pairs: what the choice cost, and how another search compares.

Nothing here is looked at before the choice is made, and nothing where nobody asks with --regret.
"""

from collections.abc import Mapping, Sequence

from pipelines.sweep.engine import SweepResult
from pipelines.sweep.trial_store import TRIALS, read_sweep
from xmodal import storage
from xmodal.metrics.model_selection import regret, weighted_spearman
from xmodal.report.search_comparison import ComparedSearch
from xmodal.search.trial import FINISHED, Trial

SealedMetrics = Mapping[int, Mapping[str, float]]  # of each trial that ran to its end


def judge(result: SweepResult, uri: str, trials: Sequence[Trial]) -> SealedMetrics:
    """Return the sealed metrics of every trial of the sweep at `uri` that ran to its end; none unless asked for."""
    if result.plan.config.regret is None:
        return {}
    found = {t.number: _sealed_metrics(t, uri, result.plan.config.regret) for t in trials if t.status == FINISHED}
    return {number: metrics for number, metrics in found.items() if metrics}


def _sealed_metrics(trial: Trial, uri: str, corpus: str) -> Mapping[str, float]:
    """Return what the trial itself set aside, else recalls of its newest checkpoint on the sealed corpus."""
    if trial.oracle:
        return trial.oracle
    from pipelines.config.evaluate import EvaluateConfig
    from pipelines.inference import evaluate

    run = storage.join(uri, TRIALS, trial.name)
    found = evaluate.run(EvaluateConfig(checkpoint=run, corpus=corpus, save=False, workers=0))
    return {f"oracle/{name}": float(x) for name, x in found.metrics.items() if name.endswith(("recall@10", "accuracy"))}


def costs(sealed: SealedMetrics, chosen: int | None) -> dict[str, float]:
    """Return for each sealed metric the best trial's value minus that of the chosen one."""
    found = {}
    for name, scores in _by_name(sealed).items():
        if str(chosen) in scores:
            found[name] = regret(scores, str(chosen))
    return found


def regret_lines(result: SweepResult, sealed: SealedMetrics) -> list[tuple[str, str]]:
    """Return a line for each sealed metric, by its name."""
    if result.chosen is None:
        return []
    by, chosen, lines = result.plan.by[0], str(result.chosen.trial), []
    same = by.metric.rpartition("/")[2]
    found = costs(sealed, result.chosen.trial)
    for name, cost in sorted(
        found.items(), key=lambda one: one[0].rpartition("/")[2] != same
    ):  # the metric's own first
        scores = _by_name(sealed)[name]
        best = max(scores, key=lambda number: scores[number])
        own = {str(t.number): by.better(t) or 0.0 for t in result.trials}
        rank = weighted_spearman([own[number] for number in scores], list(scores.values()))
        base = scores.get("0", float("nan"))
        lines.append(
            (
                name,
                f"{cost:.4g} (chosen {scores[chosen]:.4g}, best {scores[best]:.4g} by trial-{int(best):03d}, baseline "
                f"{base:.4g}; weighted rank correlation of {by.metric} {rank:.2f})",
            )
        )
    return lines


def _by_name(sealed: SealedMetrics) -> dict[str, dict[str, float]]:
    names = sorted({name for metrics in sealed.values() for name in metrics})
    return {
        name: {str(number): metrics[name] for number, metrics in sealed.items() if name in metrics} for name in names
    }


def beside(result: SweepResult, sealed: SealedMetrics) -> list[ComparedSearch]:
    """This sweep and the one that was named with --beside; nothing where none was."""
    config = result.plan.config
    if config.beside is None:
        return []
    record, trials = read_sweep(config.sweep.runs, config.beside, config.storage)
    theirs = judge(result, storage.join(config.sweep.runs, config.beside), trials)
    chosen = (record.get("chosen") or {}).get("trial")
    own = result.chosen.trial if result.chosen else None
    return [
        ComparedSearch(
            name=name, algorithm=algorithm, trials=found, chosen=number, oracle_metrics=sealed.get(number or 0, {}),
            regret=costs(sealed, number),
        )
        for name, algorithm, found, number, sealed in (
            (config.sweep.name, config.algorithm, result.trials, own, sealed),
            (config.beside, record["config"]["algorithm"], trials, chosen, theirs),
        )
    ]  # fmt: skip
