"""Trials with a diagnosis in; the table of their gradients and minima, and the picture of the loss around them, out."""

from collections.abc import Mapping, Sequence
from statistics import mean, stdev
from typing import Any

from jobs.reproduce.experiment import Experiment
from jobs.reproduce.hypotheses import Trials
from xmodal.report.experiment_page import Chart, Table, around

NONE = "\u2013"
NEAR = 0.5  # of an eigenvalue, relative to it
NOTE = "After training, on training rows as they are; the gradients are those of mini-batches at the encoder."
EIGENVALUE = "of the Hessian of the judged loss in the encoders' weights; none where power iteration did not settle"
RISE = "of that loss when every filter is moved by half its length in a random direction"
STATISTICS = {"mean_norm": ("|g|", "mean length"), "covariance_trace": ("tr", "trace of the covariance")}


def diagnosis_table(experiment: Experiment, trials: Trials) -> list[Table]:
    """One column an arm that was diagnosed; mean and standard deviation over seeds."""
    found = {arm: _diagnosed(trials, arm) for arm in experiment.arms}
    arms = {arm: runs for arm, runs in found.items() if runs}
    if not arms:
        return []
    most = max((run["gradients"] for runs in arms.values() for run in runs), key=_count)
    places = [(name, objective) for name in most for objective in _objectives(most[name])]
    columns = [_column(runs, places) for runs in arms.values()]
    heads = [("largest eigenvalue", EIGENVALUE), ("rise", RISE)]
    heads += [
        (f"{sign} {name}, {objective}", about) for name, objective in places for sign, about in STATISTICS.values()
    ]
    rows = [(name, about, cells) for (name, about), *cells in zip(heads, *columns, strict=True)]
    return [Table(title="Gradients and minima", note=NOTE, columns=[*arms], rows=rows)]


def flatness_chart(trials: Trials) -> list[Chart]:
    """The loss along random directions, mean over directions and seeds."""
    series = []
    for arm in trials:
        runs = [run["flatness"] for run in _diagnosed(trials, arm)]
        rows = [row for run in runs for row in run["losses"]]
        if rows and all(value is not None for row in rows for value in row):
            series.append((arm, runs[0]["places"], [mean(column) for column in zip(*rows, strict=True)]))
    if not series:
        return []
    title = "The loss around the minimum"
    caption = "Along random directions as long as the weights, filter by filter; mean over directions and seeds."
    return [Chart(title=title, caption=caption, figure=around(series, title), legend=[arm for arm, *_ in series])]


def _diagnosed(trials: Trials, arm: str) -> list[Mapping[str, Any]]:
    return [one for one in trials.get(arm, ()) if "flatness" in one]


def _objectives(encoder: Mapping[str, Any]) -> list[str]:
    return [name for name, value in encoder.items() if isinstance(value, Mapping)]


def _count(gradients: Mapping[str, Any]) -> int:
    return sum(len(_objectives(encoder)) for encoder in gradients.values())


def _column(runs: Sequence[Mapping[str, Any]], places: Sequence[tuple[str, str]]) -> list[str]:
    cells = [
        _number([_settled(run["flatness"]["eigenvalue"]) for run in runs]),
        _number([run["flatness"]["rise"] for run in runs]),
    ]
    for name, objective in places:
        found = [run["gradients"][name].get(objective, {}) for run in runs]
        cells += [_number([one.get(what) for one in found]) for what in STATISTICS]
    return cells


def _settled(found: Mapping[str, Any]) -> float | None:
    """Nothing where power iteration ended too far from any eigenvalue to name one."""
    near = found["residual"] is not None and found["residual"] < NEAR
    return found["value"] if near else None


def _number(values: Sequence[float | None]) -> str:
    """Nothing where there is none, or where an objective took no part (length 0)."""
    known = [value for value in values if value is not None]
    if len(known) < len(values) or not any(known):
        return NONE
    spread = stdev(known) if len(known) > 1 else 0.0
    return f"{mean(known):.3g} ± {spread:.2g}"
