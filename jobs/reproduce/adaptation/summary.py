"""Build the page of an experiment on adaptation: its tables, charts and predictions."""

import itertools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from statistics import mean
from typing import Any

from jobs.reproduce.adaptation.arms import METHOD_SUMMARIES, ORACLE, SOURCE_ONLY
from jobs.reproduce.adaptation.charts import projection_chart, tradeoff_chart
from jobs.reproduce.adaptation.experiment import AdaptationExperiment, AdaptationSettings
from jobs.reproduce.adaptation.hypotheses import check_predictions, chosen_models, gap_closed
from jobs.reproduce.adaptation.model_choice import (
    choose_models,
    common_validators,
    final_scores,
    methods_with_trials,
    rank_correlations,
)
from jobs.reproduce.page_cells import EMPTY, percent_cell, provenance_facts
from jobs.reproduce.seed_statistics import TrialResult, Trials, mean_and_sd
from xmodal.report.charts.figures import ReferenceLine, Series, line_chart
from xmodal.report.charts.svg import MAX_SERIES
from xmodal.report.experiment_page import ExperimentPage, PageChart, PageTable, mean_sd_chart

Row = tuple[str, str, Sequence[str]]


def build_page(experiment: AdaptationExperiment, settings: AdaptationSettings, trials: Trials) -> ExperimentPage:
    """Return the page; metrics are of test rows, in percent, mean and standard deviation over seeds."""
    return ExperimentPage(
        title=experiment.title,
        intro=experiment.intro,
        tables=[_result_table(experiment, trials), _validator_table(experiment, trials), _all_arms(experiment, trials)],
        charts=[
            *_score_charts(experiment, trials),
            *_tradeoff_charts(experiment, trials),
            *_critic_charts(experiment, trials),
            *_projection_charts(experiment, trials),
        ],
        findings=check_predictions(experiment, trials, experiment.predictions),
        facts=[*_facts(experiment, settings, trials), *provenance_facts()],
        created=datetime.now(UTC).isoformat(),
        version=metadata.version("xmodal"),
    )


def _result_table(experiment: AdaptationExperiment, trials: Trials) -> PageTable:
    columns = [*experiment.metrics.values(), "source", "gap closed", "regret", "chosen (times)", "seeds"]
    published = experiment.published.items()
    rows: list[Row] = [(name, "other work", _published_cells(experiment, metrics)) for name, metrics in published]
    for arm, definition in experiment.arms.items():
        rows += _fixed_rows(experiment, trials, arm) if not definition.strength and arm != ORACLE else []
    for method in methods_with_trials(trials, experiment.arms):
        if chosen_models(experiment, trials, method):
            rows.append((method, METHOD_SUMMARIES[method], _chosen_cells(experiment, trials, method)))
    rows += _fixed_rows(experiment, trials, ORACLE)
    note = (
        f"Strength and checkpoint of each method were chosen by {experiment.validator!r}, without a label of the "
        "target, behind the guards on source accuracy, collapse and dead critics. Regret: how much better the best "
        "candidate was. Chosen: strengths, or none where source-only was chosen."
    )
    return PageTable(title="Results", note=note, columns=columns, rows=rows)


def _published_cells(experiment: AdaptationExperiment, metrics: Mapping[str, float]) -> list[str]:
    return [f"{100 * metrics[name]:.1f}" if name in metrics else EMPTY for name in experiment.metrics] + [EMPTY] * 5


def _fixed_rows(experiment: AdaptationExperiment, trials: Trials, arm: str) -> list[Row]:
    """Return the row of an arm without a strength to choose, with the metrics of its last checkpoint."""
    if not trials.get(arm):
        return []
    checkpoints = [trial["checkpoints"][-1] for trial in trials[arm]]
    cells = [percent_cell([last["oracle"][name] for last in checkpoints]) for name in experiment.metrics]
    cells += [percent_cell([last["source_test"] for last in checkpoints]), EMPTY, EMPTY, EMPTY, str(len(checkpoints))]
    return [(arm, experiment.arms[arm].summary, cells)]


def _chosen_cells(experiment: AdaptationExperiment, trials: Trials, method: str) -> list[str]:
    chosen = chosen_models(experiment, trials, method).values()
    cells = [percent_cell([choice.oracle[name] for choice in chosen]) for name in experiment.metrics]
    arms = [choice.arm for choice in chosen]
    strengths = Counter("none" if arm == SOURCE_ONLY else arm.removeprefix(f"{method}-") for arm in arms)
    shares = gap_closed(experiment, trials, method)
    return [
        *cells,
        percent_cell([choice.source for choice in chosen]),
        f"{mean(shares):.0%}" if shares else EMPTY,
        percent_cell([choice.regret for choice in chosen]),
        ", ".join(f"{strength} ({times})" for strength, times in strengths.most_common()),
        str(len(chosen)),
    ]


def _validator_table(experiment: AdaptationExperiment, trials: Trials) -> PageTable:
    """Return a table with a column for each validator as if it had chosen: regret by method, and rank correlation."""
    methods, validators = methods_with_trials(trials, experiment.arms), common_validators(trials)
    regrets: dict[str, list[list[float]]] = {validator: [] for validator in validators}
    ranks: dict[str, list[float]] = {validator: [] for validator in validators}
    for validator, method in itertools.product(validators, methods):
        arguments = (trials, experiment.arms, method, validator, experiment.primary)
        regrets[validator].append([choice.regret for choice in choose_models(*arguments).values()])
        ranks[validator] += [x for x in rank_correlations(*arguments).values() if not math.isnan(x)]
    rows: list[Row] = [
        (method, "", [percent_cell(regrets[validator][k]) for validator in validators])
        for k, method in enumerate(methods)
    ]
    everything = [percent_cell([*itertools.chain(*regrets[validator])]) for validator in validators]
    correlations = [f"{mean(ranks[validator]):+.2f}" if ranks[validator] else EMPTY for validator in validators]
    rows += [("all methods", "regret", everything), ("Spearman", "rank correlation", correlations)]
    return PageTable(
        title="What choosing without labels costs",
        note="Regret in points if this validator had chosen, behind the same guards; weighted Spearman with the "
        "oracle over all strengths and checkpoints of a method, mean over methods and seeds.",
        columns=validators,
        rows=rows,
    )


def _all_arms(experiment: AdaptationExperiment, trials: Trials) -> PageTable:
    """Return a table of all arms after their last step, with the distances of the domains."""
    rows: list[Row] = []
    for arm, definition in experiment.arms.items():
        if results := trials.get(arm):
            last = [result["checkpoints"][-1] for result in results]
            cells = [percent_cell([checkpoint["oracle"][experiment.primary] for checkpoint in last])]
            cells += [percent_cell([checkpoint["source_test"] for checkpoint in last])]
            gaps = [result["gap"] for result in results if "gap" in result]
            for probe in ("linear", "mlp"):
                cells.append(f"{mean(gap[probe]['value'] for gap in gaps):.2f}" if gaps else EMPTY)
            cells.append(f"{mean(gap['linear']['high'] for gap in gaps):.2f}" if gaps else EMPTY)
            cells += [f"{mean(gap['mmd']['value'] for gap in gaps):.4f}" if gaps else EMPTY]
            cells += [f"{mean(gap['mixing'] for gap in gaps):.2f}" if gaps else EMPTY]
            cells += [f"{mean(result['cpu_seconds'] for result in results):.0f}", str(len(results))]
            rows.append((arm, definition.summary, cells))
    columns = ["target", "source", "A-distance", "by an MLP", "shuffled", "MMD²", "mixing", "CPU s", "seeds"]
    note = (
        "After the last step. Proxy A-distance by new probes on held-out features (2: apart, 0: alike; 'shuffled' is "
        "the upper end of the band for shuffled domains), unbiased MMD², and how much neighbours mix (1: fully)."
    )
    return PageTable(title="Every arm", note=note, columns=columns, rows=rows)


def _score_charts(experiment: AdaptationExperiment, trials: Trials) -> list[PageChart]:
    charts = []
    for name, title in experiment.metrics.items():
        values = {SOURCE_ONLY: [*final_scores(trials, SOURCE_ONLY, name).values()]}
        for method in methods_with_trials(trials, experiment.arms):
            values[method] = [choice.oracle[name] for choice in chosen_models(experiment, trials, method).values()]
        values[ORACLE] = [*final_scores(trials, ORACLE, name).values()]
        rows = [(row, *mean_and_sd(scores)) for row, scores in values.items() if scores]
        if rows:
            caption = "Chosen without target labels. Dot: mean over seeds; bar: one standard deviation; line: chance."
            figure = mean_sd_chart(rows, title, chance=experiment.chance)
            charts.append(PageChart(title=title.capitalize(), caption=caption, figure=figure))
    return charts


def _tradeoff_charts(experiment: AdaptationExperiment, trials: Trials) -> list[PageChart]:
    baselines = {trial["seed"]: trial["checkpoints"][-1] for trial in trials.get(SOURCE_ONLY, ())}
    methods = methods_with_trials(trials, experiment.arms)
    if not (baselines and methods):
        return []
    clouds = [(method, _changes(experiment, trials, method, baselines)) for method in methods]
    caption = (
        "Every strength and checkpoint against source-only of its seed: change on the source (horizontal) and on the "
        "target (vertical). Best: top right."
    )
    title, all_points = "Gain on the target, loss on the source", [point for _, cloud in clouds for point in cloud]
    charts = []
    for start in range(0, len(clouds), MAX_SERIES):
        names, chart_clouds = zip(*clouds[start : start + MAX_SERIES], strict=True)
        figure = tradeoff_chart(chart_clouds, title, all_points)
        charts.append(PageChart(title=title, caption=caption, figure=figure, legend=names))
    return charts


def _changes(
    experiment: AdaptationExperiment, trials: Trials, method: str, baselines: Mapping[int, Mapping[str, Any]]
) -> list[tuple[float, float]]:
    """Return the change on source and target of every checkpoint of a method against source-only of its seed."""
    arms = [name for name, arm in experiment.arms.items() if arm.method == method]
    results = [trial for name in arms for trial in trials.get(name, ()) if trial["seed"] in baselines]
    pairs = [(baselines[trial["seed"]], checkpoint) for trial in results for checkpoint in trial["checkpoints"]]
    primary = experiment.primary
    return [
        (after["source_test"] - before["source_test"], after["oracle"][primary] - before["oracle"][primary])
        for before, after in pairs
    ]


def _critic_charts(experiment: AdaptationExperiment, trials: Trials) -> list[PageChart]:
    charts = []
    for metric, title, reference in (
        ("critic_accuracy", "Accuracy of the critic", ReferenceLine(value=0.5, label="guessing")),
        ("ratio", "Reversed gradient in units of the task's", ReferenceLine(value=1.0, label="equal")),
    ):
        series = []
        for arm in experiment.arms:
            if trials.get(arm) and "critic_accuracy" in trials[arm][0]["series"][0]:
                steps, values = _series(trials[arm], metric)
                series.append((arm, steps, values))
        if series:
            lines = [Series(label=n, color=k, x=x, y=y) for k, (n, x, y) in enumerate(series[:MAX_SERIES], 1)]
            caption = "Mean over seeds, along training. It shows how encoder and critic compete, not the target's gain."
            figure = line_chart(lines, title, references=[reference], from_zero=True)
            charts.append(PageChart(title=title, caption=caption, figure=figure, legend=[line.label for line in lines]))
    return charts


def _series(runs: Sequence[TrialResult], metric: str) -> tuple[list[float], list[float]]:
    """Return steps, and a training metric at each of them as mean over seeds."""

    def value(point: Mapping[str, float]) -> float:
        if metric == "ratio":
            return point["domain_norm"] / max(point["task_norm"], 1e-12)
        return point[metric]

    columns = list(zip(*(run["series"] for run in runs), strict=True))
    return [float(column[0]["step"]) for column in columns], [mean(map(value, column)) for column in columns]


def _projection_charts(experiment: AdaptationExperiment, trials: Trials) -> list[PageChart]:
    arms = [arm for arm in experiment.arms if any("projection" in result for result in trials.get(arm, ()))]
    arm_by_method: dict[str, str] = {}
    for arm in arms:
        method = experiment.arms[arm].method
        if method in (SOURCE_ONLY, ORACLE) or method not in arm_by_method:
            arm_by_method[method] = arm
    charts = []
    for method, arm in arm_by_method.items():
        projection = next(result["projection"] for result in trials[arm] if "projection" in result)
        classes = {"source": projection["source_class"], "target": projection["target_class"]}
        for plane, name in (("pca", "PCA"), ("tsne", "t-SNE")):
            for by_class in (False, True):
                title = f"{arm}, {name}, by {'class' if by_class else 'domain'}"
                caption = "Held-out rows of one seed; the source is pale. A plot proves nothing: see the distances."
                figure = projection_chart(projection[plane], classes, title, by_class=by_class)
                if method in (SOURCE_ONLY, "dann") or not by_class:
                    charts.append(PageChart(title=title, caption=caption, figure=figure))
    return charts


def _facts(experiment: AdaptationExperiment, settings: AdaptationSettings, trials: Trials) -> list[tuple[str, str]]:
    rows = "all rows" if settings.rows is None else f"at most {settings.rows:,} rows of a domain"
    rate = f"SGD from {settings.sgd_rate:g}" if settings.sgd_rate else f"AdamW, {settings.adamw_rate:g} at its peak"
    checksums = sorted({result["data"] for runs in trials.values() for result in runs})
    return [
        ("Training", f"{rows}, {settings.steps:,} steps of {settings.batch_size} of each domain, {rate}"),
        ("Candidates", f"every strength at {settings.checkpoints} checkpoints"),
        ("Data", "SHA-256 " + ", ".join(checksums) if checksums else EMPTY),
        *experiment.facts.items(),
    ]
