"""The trials of an experiment in; its table, pictures and findings as one page out."""

from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import metadata
from statistics import mean, stdev
from typing import Any

from jobs.bench.provenance import commit, hardware
from jobs.reproduce.diagnosis_summary import diagnosis_table, flatness_chart
from jobs.reproduce.experiment import Experiment, Floor, Settings
from jobs.reproduce.hypotheses import Trials, findings, scores
from jobs.reproduce.trial import WEIGHT_DECAY
from xmodal.report.experiment_page import Chart, Page, Table, over_epochs, spread

NONE = "\u2013"
SHOWN = ("mmpareto", "mmpareto-features", "min-norm-2", "uniform", "pcgrad", "upgrad")
FLOORS = "Means of other work, or of simpler readers of the same data, stand above the arms."


def page(experiment: Experiment, settings: Settings, trials: Trials) -> Page:
    """Accuracies are of the test split, mean and standard deviation over seeds."""
    heads = _heads(experiment)
    columns = [experiment.primary, *(head for name in experiment.heads for head in (name, f"{name} probe"))]
    results = Table(
        title="Results",
        columns=[*columns, *heads[len(experiment.heads) :], "conflicts", "ms/step", "MiB", "seeds"],
        rows=[_floor(floor, experiment) for floor in experiment.floors] + _rows(experiment, trials),
    )
    return Page(
        title=experiment.title,
        leads=experiment.leads,
        tables=[results, *diagnosis_table(experiment, trials)],
        charts=_accuracies(experiment, trials) + _conflicts(experiment, trials) + flatness_chart(trials),
        findings=findings(trials, experiment.predictions, experiment.primary),
        facts=[*_facts(experiment, settings), *_provenance()],
        made=datetime.now(UTC).isoformat(),
        version=metadata.version("xmodal"),
    )


def mean_and_sd(values: Sequence[float]) -> tuple[float, float]:
    return mean(values), stdev(values) if len(values) > 1 else 0.0


def _heads(experiment: Experiment) -> list[str]:
    return [*experiment.heads, "ensemble"] if experiment.primary == "multimodal" else [*experiment.heads]


def _rows(experiment: Experiment, trials: Trials) -> list[tuple[str, str, Sequence[str]]]:
    done = {name: arm for name, arm in experiment.arms.items() if trials.get(name)}
    return [(name, arm.summary, _cells(experiment, trials, name)) for name, arm in done.items()]


def _cells(experiment: Experiment, trials: Trials, arm: str) -> list[str]:
    found, heads = trials[arm], _heads(experiment)
    cells = [_percent(scores(trials, arm, experiment.primary))]
    for name in experiment.heads:
        cells += [_percent(scores(trials, arm, name)), _percent([one["probe"][name] for one in found])]
    cells += [_percent(scores(trials, arm, name)) for name in heads[len(experiment.heads) :]]
    conflicts = [share for one in found for epoch in one["conflict"] for share in epoch.values() if share is not None]
    milliseconds = mean(1000 * one["cpu_seconds"] / one["steps"] for one in found)
    mebibytes = max(one["peak_bytes"] for one in found) / 2**20
    share = f"{mean(conflicts):.1%}" if conflicts else NONE
    return [*cells, share, f"{milliseconds:.0f}", f"{mebibytes:.0f}", str(len(found))]


def _floor(floor: Floor, experiment: Experiment) -> tuple[str, str, Sequence[str]]:
    def cell(name: str) -> str:
        return f"{100 * floor.scores[name]:.1f}" if name in floor.scores else NONE

    own = [cell(experiment.primary), *(part for name in experiment.heads for part in (cell(name), NONE))]
    rest = [NONE] * (len(_heads(experiment)) - len(experiment.heads) + 4)
    return floor.name, floor.about, [*own, *rest]


def _percent(values: Sequence[float]) -> str:
    if not values:
        return NONE
    middle, sd = mean_and_sd(values)
    return f"{100 * middle:.1f} ± {100 * sd:.1f}"


def _accuracies(experiment: Experiment, trials: Trials) -> list[Chart]:
    charts = []
    for name in (experiment.primary, *experiment.heads):
        shares = [(floor.name, floor.scores[name], 0.0) for floor in experiment.floors if name in floor.scores]
        above = FLOORS if shares else ""
        shares += [(a, *mean_and_sd(scores(trials, a, name))) for a in experiment.arms if scores(trials, a, name)]
        if any(scores(trials, arm, name) for arm in experiment.arms):
            title = "Accuracy of " + _what(experiment, name)
            caption = f"Test accuracy. Dot: mean over seeds; bar: one standard deviation; line: chance. {above}"
            charts.append(Chart(title=title, caption=caption, figure=spread(shares, title, chance=experiment.chance)))
    return charts


def _what(experiment: Experiment, name: str) -> str:
    if name == "multimodal":
        return "both modalities"
    if name == "average":
        return "all tasks, their mean"
    return f"{name} alone, by its own head" if experiment.primary == "multimodal" else f"the {name} task"


def _conflicts(experiment: Experiment, trials: Trials) -> list[Chart]:
    charts = []
    for name in experiment.encoders:
        series = [(arm, epochs) for arm in SHOWN if (epochs := _shares(trials, arm, name))]
        if series:
            title = f"Conflicts in the {name} encoder"
            caption = "Share of steps whose two gradients pointed apart, by epoch, mean over seeds."
            legend = [arm for arm, _ in series]
            charts.append(Chart(title=title, caption=caption, figure=over_epochs(series, title), legend=legend))
    return charts


def _shares(trials: Trials, arm: str, name: str) -> list[float]:
    runs = [[epoch[name] for epoch in one["conflict"]] for one in trials.get(arm, ())]
    if not runs or any(share is None for run in runs for share in run):
        return []
    return [mean(epoch) for epoch in zip(*runs, strict=True)]


def _facts(experiment: Experiment, settings: Settings) -> list[tuple[str, str]]:
    rows = "all rows" if settings.rows is None else f"{settings.rows:,} rows"
    fall = "falling to 0 (cosine)" if settings.cosine else "constant"
    optimizers: dict[str, Any] = {"SGD, momentum 0.9": (settings.sgd_rate, WEIGHT_DECAY["sgd"])}
    if any(arm.optimizer == "adamw" for arm in experiment.arms.values()):
        optimizers["AdamW"] = (settings.adamw_rate, WEIGHT_DECAY["adamw"])
    told = "; ".join(f"{name}: rate {rate}, {fall}, decay {decay}" for name, (rate, decay) in optimizers.items())
    return [
        ("Training", f"{rows}, {settings.epochs} epochs, batches of {settings.batch_size}"),
        ("Optimizers", told),
        *experiment.facts.items(),
        ("Probe", "logistic regression on what the linear head reads, fitted on the first 2,000 training rows"),
        ("Time and memory", "CPU milliseconds of a step on one thread; the rise of resident memory over all steps"),
    ]


def _provenance() -> list[tuple[str, str]]:
    machine = ", ".join(f"{name} {value}" for name, value in hardware().items())
    return [("Commit", commit()), ("Hardware", machine), ("Torch", metadata.version("torch"))]
