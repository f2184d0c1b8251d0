"""The trials of an experiment in; its table, pictures and findings as one page out."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from statistics import mean, stdev
from typing import Any

from jobs.bench.provenance import commit, hardware
from jobs.reproduce.arms import ARMS
from jobs.reproduce.findings import Trials, findings, scores
from xmodal.report.experiment import Chart, Experiment, over_epochs, spread

NONE = "\u2013"
SHOWN = ("mmpareto", "mmpareto-features", "min-norm", "uniform", "pcgrad", "upgrad")


def experiment(title: str, leads: Sequence[str], trials: Trials, *, modalities: Sequence[str], facts: Mapping[str, Any],
               chance: float) -> Experiment:  # fmt: skip
    """The page of one experiment; accuracies are of the test split, mean and standard deviation over seeds."""
    heads = [*modalities, "ensemble"]
    return Experiment(
        title=title,
        leads=leads,
        columns=["both", *heads, "conflicts", "seeds", "ms/step"],
        rows=[(arm, ARMS[arm].summary, _cells(trials, arm, heads)) for arm in ARMS if trials.get(arm)],
        charts=_charts(trials, modalities, chance),
        findings=findings(trials),
        facts=[*((name, str(value)) for name, value in facts.items()), *_provenance()],
        made=datetime.now(UTC).isoformat(),
        version=metadata.version("xmodal"),
    )


def mean_and_sd(values: Sequence[float]) -> tuple[float, float]:
    return mean(values), stdev(values) if len(values) > 1 else 0.0


def _cells(trials: Trials, arm: str, heads: Sequence[str]) -> list[str]:
    found = trials[arm]
    cells = [_percent(scores(trials, arm, name)) for name in ("multimodal", *heads)]
    conflicts = [share for one in found for epoch in one["conflict"] for share in epoch.values() if share is not None]
    milliseconds = mean(1000 * one["seconds"] / one["steps"] for one in found)
    return [*cells, f"{mean(conflicts):.1%}" if conflicts else NONE, str(len(found)), f"{milliseconds:.0f}"]


def _percent(values: Sequence[float]) -> str:
    if not values:
        return NONE
    middle, sd = mean_and_sd(values)
    return f"{100 * middle:.1f} ± {100 * sd:.1f}"


def _charts(trials: Trials, modalities: Sequence[str], chance: float) -> list[Chart]:
    charts = []
    for name in ("multimodal", *modalities):
        shares = [(arm, *mean_and_sd(scores(trials, arm, name))) for arm in ARMS if scores(trials, arm, name)]
        if shares:
            what = "both modalities" if name == "multimodal" else f"{name} alone, by its own head"
            caption = "Test accuracy. Dot: mean over seeds; bar: one standard deviation either way; line: chance."
            title = f"Accuracy of {what}"
            charts.append(Chart(title=title, caption=caption, figure=spread(shares, title, chance=chance)))
    for name in modalities:
        series = [(arm, epochs) for arm in SHOWN if (epochs := _conflicts(trials, arm, name))]
        if series:
            told = "; ".join(f"{place}: {arm}" for place, (arm, _) in enumerate(series, 1))
            title = f"Conflicts in the {name} encoder"
            caption = f"Share of steps whose two gradients pointed apart, by epoch, mean over seeds. In order: {told}."
            charts.append(Chart(title=title, caption=caption, figure=over_epochs(series, title)))
    return charts


def _conflicts(trials: Trials, arm: str, name: str) -> list[float]:
    runs = [[epoch[name] for epoch in one["conflict"]] for one in trials.get(arm, ())]
    if not runs or any(share is None for run in runs for share in run):
        return []
    return [mean(epoch) for epoch in zip(*runs, strict=True)]


def _provenance() -> list[tuple[str, str]]:
    machine = ", ".join(f"{name} {value}" for name, value in hardware().items())
    return [("Commit", commit()), ("Hardware", machine), ("Torch", metadata.version("torch"))]
