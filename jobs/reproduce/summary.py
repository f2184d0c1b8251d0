"""Build the page of an experiment on balanced learning: its table, charts and predictions."""

from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import metadata
from statistics import mean
from typing import Any

from jobs.reproduce.diagnosis_summary import diagnosis_table, flatness_chart
from jobs.reproduce.experiment import BalanceExperiment, BalanceSettings, ReferenceResult
from jobs.reproduce.hypotheses import check_predictions, scores_by_seed
from jobs.reproduce.page_cells import EMPTY, percent_cell, provenance_facts
from jobs.reproduce.seed_statistics import Trials, mean_and_sd
from jobs.reproduce.trial import WEIGHT_DECAY
from xmodal.report.experiment_page import ExperimentPage, PageChart, PageTable, epoch_chart, mean_sd_chart

ARMS_WITH_CONFLICTS = ("mmpareto", "mmpareto-features", "min-norm-2", "uniform", "pcgrad", "upgrad")
REFERENCE_NOTE = "Results of other work, or of simpler models of the same data, stand above the arms."


def build_page(experiment: BalanceExperiment, settings: BalanceSettings, trials: Trials) -> ExperimentPage:
    """Return the page; accuracies are of the test split, mean and standard deviation over seeds."""
    heads = _heads(experiment)
    columns = [experiment.primary, *(head for name in experiment.heads for head in (name, f"{name} probe"))]
    results = PageTable(
        title="Results",
        columns=[*columns, *heads[len(experiment.heads) :], "conflicts", "ms/step", "MiB", "seeds"],
        rows=[_reference_row(row, experiment) for row in experiment.references] + _result_rows(experiment, trials),
    )
    return ExperimentPage(
        title=experiment.title,
        intro=experiment.intro,
        tables=[results, *diagnosis_table(experiment, trials)],
        charts=_accuracies(experiment, trials) + _conflicts(experiment, trials) + flatness_chart(trials),
        findings=check_predictions(trials, experiment.predictions, experiment.primary),
        facts=[*_facts(experiment, settings), *provenance_facts()],
        created=datetime.now(UTC).isoformat(),
        version=metadata.version("xmodal"),
    )


def _heads(experiment: BalanceExperiment) -> list[str]:
    return [*experiment.heads, "ensemble"] if experiment.primary == "multimodal" else [*experiment.heads]


def _result_rows(experiment: BalanceExperiment, trials: Trials) -> list[tuple[str, str, Sequence[str]]]:
    done = {name: arm for name, arm in experiment.arms.items() if trials.get(name)}
    return [(name, arm.summary, _cells(experiment, trials, name)) for name, arm in done.items()]


def _cells(experiment: BalanceExperiment, trials: Trials, arm: str) -> list[str]:
    results, heads = trials[arm], _heads(experiment)
    cells = [percent_cell(scores_by_seed(trials, arm, experiment.primary))]
    for name in experiment.heads:
        cells += [
            percent_cell(scores_by_seed(trials, arm, name)),
            percent_cell([result["probe"][name] for result in results]),
        ]
    cells += [percent_cell(scores_by_seed(trials, arm, name)) for name in heads[len(experiment.heads) :]]
    epochs = [epoch for result in results for epoch in result["conflict"]]
    conflicts = [share for epoch in epochs for share in epoch.values() if share is not None]
    milliseconds = mean(1000 * result["cpu_seconds"] / result["steps"] for result in results)
    mebibytes = max(result["peak_bytes"] for result in results) / 2**20
    share = f"{mean(conflicts):.1%}" if conflicts else EMPTY
    return [*cells, share, f"{milliseconds:.0f}", f"{mebibytes:.0f}", str(len(results))]


def _reference_row(reference: ReferenceResult, experiment: BalanceExperiment) -> tuple[str, str, Sequence[str]]:
    def cell(name: str) -> str:
        return f"{100 * reference.scores[name]:.1f}" if name in reference.scores else EMPTY

    cells = [cell(experiment.primary), *(part for name in experiment.heads for part in (cell(name), EMPTY))]
    empty = [EMPTY] * (len(_heads(experiment)) - len(experiment.heads) + 4)
    return reference.name, reference.about, [*cells, *empty]


def _accuracies(experiment: BalanceExperiment, trials: Trials) -> list[PageChart]:
    charts = []
    for name in (experiment.primary, *experiment.heads):
        references = [(row.name, row.scores[name], 0.0) for row in experiment.references if name in row.scores]
        by_arm = {arm: scores_by_seed(trials, arm, name) for arm in experiment.arms}
        rows = [(arm, *mean_and_sd(scores)) for arm, scores in by_arm.items() if scores]
        if rows:
            note = REFERENCE_NOTE if references else ""
            title = "Accuracy of " + _score_title(experiment, name)
            caption = f"Test accuracy. Dot: mean over seeds; bar: one standard deviation; line: chance. {note}"
            figure = mean_sd_chart(references + rows, title, chance=experiment.chance)
            charts.append(PageChart(title=title, caption=caption, figure=figure))
    return charts


def _score_title(experiment: BalanceExperiment, name: str) -> str:
    if name == "multimodal":
        return "both modalities"
    if name == "average":
        return "all tasks, their mean"
    return f"{name} alone, by its own head" if experiment.primary == "multimodal" else f"the {name} task"


def _conflicts(experiment: BalanceExperiment, trials: Trials) -> list[PageChart]:
    charts = []
    for name in experiment.encoders:
        series = [(arm, epochs) for arm in ARMS_WITH_CONFLICTS if (epochs := _conflict_shares(trials, arm, name))]
        if series:
            title = f"Conflicts in the {name} encoder"
            caption = "Share of steps whose two gradients opposed each other, by epoch, mean over seeds."
            legend = [arm for arm, _ in series]
            charts.append(PageChart(title=title, caption=caption, figure=epoch_chart(series, title), legend=legend))
    return charts


def _conflict_shares(trials: Trials, arm: str, name: str) -> list[float]:
    runs = [[epoch[name] for epoch in result["conflict"]] for result in trials.get(arm, ())]
    if not runs or any(share is None for run in runs for share in run):
        return []
    return [mean(epoch) for epoch in zip(*runs, strict=True)]


def _facts(experiment: BalanceExperiment, settings: BalanceSettings) -> list[tuple[str, str]]:
    rows = "all rows" if settings.rows is None else f"{settings.rows:,} rows"
    decline = "falling to 0 (cosine)" if settings.cosine else "constant"
    optimizers: dict[str, Any] = {"SGD, momentum 0.9": (settings.sgd_rate, WEIGHT_DECAY["sgd"])}
    if any(arm.optimizer == "adamw" for arm in experiment.arms.values()):
        optimizers["AdamW"] = (settings.adamw_rate, WEIGHT_DECAY["adamw"])
    optimizer_text = "; ".join(
        f"{name}: rate {rate}, {decline}, decay {decay}" for name, (rate, decay) in optimizers.items()
    )
    return [
        ("Training", f"{rows}, {settings.epochs} epochs, batches of {settings.batch_size}"),
        ("Optimizers", optimizer_text),
        *experiment.facts.items(),
        ("Probe", "logistic regression on the linear head's input, fitted on the first 2,000 training rows"),
        ("Time and memory", "CPU milliseconds of a step on one thread; the rise of resident memory over all steps"),
    ]
