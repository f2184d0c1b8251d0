"""The trials of an experiment on adaptation in; its tables, pictures and findings as one page out."""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from statistics import mean, stdev
from typing import TYPE_CHECKING, Any

from jobs.bench.provenance import commit, hardware
from jobs.reproduce.adaptation.arms import ABOUT, ORACLE, SOURCE_ONLY
from jobs.reproduce.adaptation.charts import clouds, plane
from jobs.reproduce.adaptation.hypotheses import closed, findings
from jobs.reproduce.adaptation.model_choice import agreement, choices, final, methods, validators
from xmodal.report.charts.figures import Line, Reference, lines
from xmodal.report.charts.svg import MOST_SERIES
from xmodal.report.experiment_page import Chart, Page, Table, spread

if TYPE_CHECKING:
    from jobs.reproduce.adaptation.experiment import Adaptation, Settings, Trials

NONE = "\u2013"
Row = tuple[str, str, Sequence[str]]


def page(experiment: "Adaptation", settings: "Settings", trials: "Trials") -> Page:
    """Mean and standard deviation over seeds, of test rows, in percent."""
    return Page(
        title=experiment.title,
        leads=experiment.leads,
        tables=[_results(experiment, trials), _validators(experiment, trials), _every(experiment, trials)],
        charts=[
            *_accuracies(experiment, trials),
            *_plane(experiment, trials),
            *_critics(experiment, trials),
            *_clouds(experiment, trials),
        ],
        findings=findings(experiment, trials, experiment.predictions),
        facts=[*_facts(experiment, settings, trials), *_provenance()],
        made=datetime.now(UTC).isoformat(),
        version=metadata.version("xmodal"),
    )


def _results(experiment: "Adaptation", trials: "Trials") -> Table:
    columns = [*experiment.figures.values(), "source", "gap closed", "regret", "chosen (times)", "seeds"]
    rows: list[Row] = [(name, "other work", _published(experiment, own)) for name, own in experiment.published.items()]
    for arm, about in experiment.arms.items():
        rows += _fixed(experiment, trials, arm) if not about.strength and arm != ORACLE else []
    for method in methods(trials, experiment.arms):
        found = choices(trials, experiment.arms, method, experiment.by, experiment.primary)
        if found:
            rows.append((method, ABOUT[method], _chosen(experiment, trials, method)))
    rows += _fixed(experiment, trials, ORACLE)
    note = (
        f"Strength and checkpoint of each method were chosen by {experiment.by!r}, without a label of the target, "
        "behind the guards on source accuracy, collapse and dead critics. Regret: what the best candidate had more. "
        "Chosen: strengths, or none where source-only was."
    )
    return Table(title="Results", note=note, columns=columns, rows=rows)


def _published(experiment: "Adaptation", own: Mapping[str, float]) -> list[str]:
    return [f"{100 * own[name]:.1f}" if name in own else NONE for name in experiment.figures] + [NONE] * 5


def _fixed(experiment: "Adaptation", trials: "Trials", arm: str) -> list[Row]:
    """A row for an arm that has nothing to choose: its last checkpoint."""
    if not trials.get(arm):
        return []
    last = [one["checkpoints"][-1] for one in trials[arm]]
    cells = [_percent([one["oracle"][name] for one in last]) for name in experiment.figures]
    cells += [_percent([one["source_test"] for one in last]), NONE, NONE, NONE, str(len(last))]
    return [(arm, experiment.arms[arm].summary, cells)]


def _chosen(experiment: "Adaptation", trials: "Trials", method: str) -> list[str]:
    found = choices(trials, experiment.arms, method, experiment.by, experiment.primary).values()
    cells = [_percent([one.oracle[name] for one in found]) for name in experiment.figures]
    taken = Counter("none" if one.arm == SOURCE_ONLY else one.arm.removeprefix(f"{method}-") for one in found)
    shares = closed(experiment, trials, method)
    return [
        *cells,
        _percent([one.source for one in found]),
        f"{mean(shares):.0%}" if shares else NONE,
        _percent([one.regret for one in found]),
        ", ".join(f"{strength} ({times})" for strength, times in taken.most_common()),
        str(len(found)),
    ]


def _validators(experiment: "Adaptation", trials: "Trials") -> Table:
    """A column for each validator as if it had chosen: regret by method, and rank correlation, mean over seeds."""
    run, every = methods(trials, experiment.arms), validators(trials)
    lost: dict[str, list[list[float]]] = {by: [] for by in every}
    ranks: dict[str, list[float]] = {by: [] for by in every}
    for by in every:
        for method in run:
            arguments = (trials, experiment.arms, method, by, experiment.primary)
            lost[by].append([one.regret for one in choices(*arguments).values()])
            ranks[by] += [x for x in agreement(*arguments).values() if x == x]
    rows: list[Row] = [(method, "", [_percent(lost[by][k]) for by in every]) for k, method in enumerate(run)]
    rows.append(("all methods", "regret", [_percent([x for one in lost[by] for x in one]) for by in every]))
    rows.append(("Spearman", "rank correlation", [f"{mean(ranks[by]):+.2f}" if ranks[by] else NONE for by in every]))
    return Table(
        title="What choosing without labels costs",
        note="Regret in points if this validator had chosen, behind the same guards; weighted Spearman with the "
        "oracle over all strengths and checkpoints of a method, mean over methods and seeds.",
        columns=every,
        rows=rows,
    )


def _every(experiment: "Adaptation", trials: "Trials") -> Table:
    """All arms after their last step, with the distance of the domains."""
    rows: list[Row] = []
    for arm, about in experiment.arms.items():
        if found := trials.get(arm):
            last = [one["checkpoints"][-1] for one in found]
            cells = [_percent([one["oracle"][experiment.primary] for one in last])]
            cells += [_percent([one["source_test"] for one in last])]
            gaps = [one["gap"] for one in found if "gap" in one]
            for probe in ("linear", "mlp"):
                cells.append(f"{mean(g[probe]['value'] for g in gaps):.2f}" if gaps else NONE)
            cells.append(f"{mean(g['linear']['high'] for g in gaps):.2f}" if gaps else NONE)
            cells += [f"{mean(g['mmd']['value'] for g in gaps):.4f}" if gaps else NONE]
            cells += [f"{mean(g['mixing'] for g in gaps):.2f}" if gaps else NONE]
            cells += [f"{mean(one['cpu_seconds'] for one in found):.0f}", str(len(found))]
            rows.append((arm, about.summary, cells))
    columns = ["target", "source", "A-distance", "by an MLP", "shuffled", "MMD²", "mixing", "CPU s", "seeds"]
    note = (
        "After the last step. Proxy A-distance by fresh probes on held-out features (2: apart, 0: alike; 'shuffled' is "
        "the upper end of the band for shuffled domains), unbiased MMD², and how much neighbours mix (1: fully)."
    )
    return Table(title="Every arm", note=note, columns=columns, rows=rows)


def _accuracies(experiment: "Adaptation", trials: "Trials") -> list[Chart]:
    charts = []
    for name, title in experiment.figures.items():
        shares = [
            (arm, *_mean_and_sd([*final(trials, arm, name).values()])) for arm in (SOURCE_ONLY,) if trials.get(arm)
        ]
        for method in methods(trials, experiment.arms):
            found = choices(trials, experiment.arms, method, experiment.by, experiment.primary).values()
            if found:
                shares.append((method, *_mean_and_sd([one.oracle[name] for one in found])))
        shares += [(arm, *_mean_and_sd([*final(trials, arm, name).values()])) for arm in (ORACLE,) if trials.get(arm)]
        if shares:
            caption = "Chosen without target labels. Dot: mean over seeds; bar: one standard deviation; line: chance."
            charts.append(Chart(title=title.capitalize(), caption=caption,
                                figure=spread(shares, title, chance=experiment.chance)))  # fmt: skip
    return charts


def _plane(experiment: "Adaptation", trials: "Trials") -> list[Chart]:
    plain = {one["seed"]: one["checkpoints"][-1] for one in trials.get(SOURCE_ONLY, ())}
    run = methods(trials, experiment.arms)
    if not (plain and run):
        return []
    drawn = []
    for method in run:
        own = [one for name, arm in experiment.arms.items() if arm.method == method for one in trials.get(name, ())]
        points = [
            (point["source_test"] - plain[one["seed"]]["source_test"],
             point["oracle"][experiment.primary] - plain[one["seed"]]["oracle"][experiment.primary])
            for one in own if one["seed"] in plain for point in one["checkpoints"]
        ]  # fmt: skip
        drawn.append((method, points))
    caption = "Every strength and checkpoint beside source-only of its seed: source across, target up. Best: up, right."
    title, everything = "What the target wins, what the source loses", [point for _, cloud in drawn for point in cloud]
    charts = []
    for start in range(0, len(drawn), MOST_SERIES):
        names, shown = zip(*drawn[start : start + MOST_SERIES], strict=True)
        made = plane(shown, title, everything)
        charts.append(Chart(title=title, caption=caption, figure=made, legend=names))
    return charts


def _critics(experiment: "Adaptation", trials: "Trials") -> list[Chart]:
    charts = []
    for figure, title, reference in (
        ("critic_accuracy", "Accuracy of the critic", Reference(value=0.5, label="guessing")),
        ("ratio", "Reversed gradient beside the task's", Reference(value=1.0, label="equal")),
    ):
        series = []
        for arm in experiment.arms:
            if trials.get(arm) and "critic_accuracy" in trials[arm][0]["series"][0]:
                steps, values = _series(trials[arm], figure)
                series.append((arm, steps, values))
        if series:
            drawn = [Line(label=n, slot=k, x=x, y=y) for k, (n, x, y) in enumerate(series[:MOST_SERIES], 1)]
            caption = "Mean over seeds, along training. It says how the game went, not whether the target gained."
            made = lines(drawn, title, references=[reference], from_zero=True)
            charts.append(Chart(title=title, caption=caption, figure=made, legend=[one.label for one in drawn]))
    return charts


def _series(runs: Sequence[Mapping[str, Any]], figure: str) -> tuple[list[float], list[float]]:
    def value(point: Mapping[str, float]) -> float:
        if figure == "ratio":
            return point["domain_norm"] / max(point["task_norm"], 1e-12)
        return point[figure]

    columns = list(zip(*(one["series"] for one in runs), strict=True))
    return [float(column[0]["step"]) for column in columns], [mean(map(value, column)) for column in columns]


def _clouds(experiment: "Adaptation", trials: "Trials") -> list[Chart]:
    shown = [arm for arm in experiment.arms if any("projection" in one for one in trials.get(arm, ()))]
    best: dict[str, str] = {}
    for arm in shown:
        method = experiment.arms[arm].method
        if method in (SOURCE_ONLY, ORACLE) or method not in best:
            best[method] = arm
    charts = []
    for method, arm in best.items():
        found = next(one["projection"] for one in trials[arm] if "projection" in one)
        classes = {"source": found["source_class"], "target": found["target_class"]}
        for kind, name in (("pca", "PCA"), ("tsne", "t-SNE")):
            for by_class in (False, True):
                title = f"{arm}, {name}, by {'class' if by_class else 'domain'}"
                caption = "Held-out rows of one seed; the source is pale. A picture proves nothing: see the distances."
                made = clouds(found[kind], classes, title, by_class=by_class)
                if method in (SOURCE_ONLY, "dann") or not by_class:
                    charts.append(Chart(title=title, caption=caption, figure=made))
    return charts


def _facts(experiment: "Adaptation", settings: "Settings", trials: "Trials") -> list[tuple[str, str]]:
    rows = "all rows" if settings.rows is None else f"at most {settings.rows:,} rows of a domain"
    rate = f"SGD from {settings.sgd_rate:g}" if settings.sgd_rate else f"AdamW, {settings.adamw_rate:g} at its peak"
    sums = sorted({one["data"] for runs in trials.values() for one in runs})
    return [
        ("Training", f"{rows}, {settings.steps:,} steps of {settings.batch_size} of each domain, {rate}"),
        ("Candidates", f"every strength at {settings.checkpoints} checkpoints"),
        ("Data", "SHA-256 " + ", ".join(sums) if sums else NONE),
        *experiment.facts.items(),
    ]


def _provenance() -> list[tuple[str, str]]:
    machine = ", ".join(f"{name} {value}" for name, value in hardware().items())
    return [("Commit", commit()), ("Hardware", machine), ("Torch", metadata.version("torch"))]


def _mean_and_sd(values: Sequence[float]) -> tuple[float, float]:
    return mean(values), stdev(values) if len(values) > 1 else 0.0


def _percent(values: Sequence[float]) -> str:
    if not values:
        return NONE
    middle, sd = _mean_and_sd(values)
    return f"{100 * middle:.1f} ± {100 * sd:.1f}"
