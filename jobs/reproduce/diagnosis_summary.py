"""Build the table of gradients and minima, and the chart of the loss around the minimum, from diagnosed trials."""

from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

from jobs.reproduce.experiment import BalanceExperiment
from jobs.reproduce.page_cells import EMPTY
from jobs.reproduce.seed_statistics import TrialResult, Trials, mean_and_sd
from xmodal.report.experiment_page import PageChart, PageTable, landscape_chart

MAX_RESIDUAL = 0.5  # of an eigenvalue, relative to it
NOTE = "After training, on training rows as they are; the gradients are those of mini-batches at the encoder."
EIGENVALUE = "of the Hessian of the loss in the encoders' weights; none where power iteration did not converge"
RISE = "of that loss when every filter is moved by half its length in a random direction"
STATISTICS = {"mean_norm": ("|g|", "mean length"), "covariance_trace": ("tr", "trace of the covariance")}


def diagnosis_table(experiment: BalanceExperiment, trials: Trials) -> list[PageTable]:
    """Return a table with one column for each diagnosed arm; mean and standard deviation over seeds."""
    runs_by_arm = {arm: _with_diagnosis(trials, arm) for arm in experiment.arms}
    arms = {arm: runs for arm, runs in runs_by_arm.items() if runs}
    if not arms:
        return []
    gradients = max((run["gradients"] for runs in arms.values() for run in runs), key=_count)
    pairs = [(name, objective) for name in gradients for objective in _objectives(gradients[name])]
    columns = [_column(runs, pairs) for runs in arms.values()]
    titles = [("largest eigenvalue", EIGENVALUE), ("rise", RISE)]
    titles += [
        (f"{sign} {name}, {objective}", about) for name, objective in pairs for sign, about in STATISTICS.values()
    ]
    rows = [(name, about, cells) for (name, about), *cells in zip(titles, *columns, strict=True)]
    return [PageTable(title="Gradients and minima", note=NOTE, columns=[*arms], rows=rows)]


def flatness_chart(trials: Trials) -> list[PageChart]:
    """Return a chart of the loss along random directions, mean over directions and seeds."""
    series = []
    for arm in trials:
        runs = [run["flatness"] for run in _with_diagnosis(trials, arm)]
        rows = [row for run in runs for row in run["losses"]]
        if rows and all(value is not None for row in rows for value in row):
            series.append((arm, runs[0]["places"], [mean(column) for column in zip(*rows, strict=True)]))
    if not series:
        return []
    title = "The loss around the minimum"
    caption = "Along random directions as long as the weights, filter by filter; mean over directions and seeds."
    return [
        PageChart(
            title=title, caption=caption, figure=landscape_chart(series, title), legend=[arm for arm, *_ in series]
        )
    ]


def _with_diagnosis(trials: Trials, arm: str) -> list[TrialResult]:
    return [trial for trial in trials.get(arm, ()) if "flatness" in trial]


def _objectives(encoder: Mapping[str, Any]) -> list[str]:
    return [name for name, value in encoder.items() if isinstance(value, Mapping)]


def _count(gradients: Mapping[str, Any]) -> int:
    return sum(len(_objectives(encoder)) for encoder in gradients.values())


def _column(runs: Sequence[Mapping[str, Any]], pairs: Sequence[tuple[str, str]]) -> list[str]:
    cells = [
        _number([_converged_eigenvalue(run["flatness"]["eigenvalue"]) for run in runs]),
        _number([run["flatness"]["rise"] for run in runs]),
    ]
    for name, objective in pairs:
        values = [run["gradients"][name].get(objective, {}) for run in runs]
        cells += [_number([value.get(statistic) for value in values]) for statistic in STATISTICS]
    return cells


def _converged_eigenvalue(eigenvalue: Mapping[str, Any]) -> float | None:
    """Return the eigenvalue, or None where power iteration ended too far from any."""
    settled = eigenvalue["residual"] is not None and eigenvalue["residual"] < MAX_RESIDUAL
    return eigenvalue["value"] if settled else None


def _number(values: Sequence[float | None]) -> str:
    """Return mean and standard deviation; a dash where a value is missing, or where all are 0 (an untrained loss)."""
    numbers = [value for value in values if value is not None]
    if len(numbers) < len(values) or not any(numbers):
        return EMPTY
    average, sd = mean_and_sd(numbers)
    return f"{average:.3g} ± {sd:.2g}"
