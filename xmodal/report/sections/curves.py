"""Training curves: one chart for each metric that the runs of a page logged."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from xmodal.formatting import clean_text, format_number
from xmodal.report.charts.figures import ReferenceLine, Series, line_chart
from xmodal.report.page_data import PageRun
from xmodal.report.sections.evaluation_results import is_share, metric_label

MAX_VALIDATION_CHARTS = 6
CONTRASTIVE_LOSS = "contrastive/loss"


@dataclass(frozen=True, kw_only=True)
class MetricChart:
    """A chart with its title and a caption that says how to read it.

    `legend` holds names and colours of lines that do not stand for runs.
    """

    title: str
    caption: str
    chart: Markup
    legend: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True, kw_only=True)
class _LoggedMetric:
    """A metric that every run logs."""

    name: str
    title: str
    caption: str
    from_zero: bool = True
    share: bool = False


LOGGED_METRICS = (
    _LoggedMetric(
        name="temperature",
        title="Temperature",
        caption="The loss divides cosines by it. Lower is sharper; it is learned within 0.01 to 1.",
    ),
    _LoggedMetric(
        name="grad_norm",
        title="Gradient norm",
        caption="Norm of the gradient over all parameters, before clipping. Spikes are unstable steps.",
    ),
    _LoggedMetric(name="lr", title="Learning rate", caption="Linear warm-up, then half a cosine."),
    _LoggedMetric(
        name="samples_per_s",
        title="Throughput, rows/s",
        caption="Over all workers, since the previous logged step.",
    ),
    _LoggedMetric(
        name="data_wait_share",
        title="Share of time waiting for data",
        caption="Near 0 % the model is the bottleneck, near 100 % reading and decoding are.",
        share=True,
    ),
    _LoggedMetric(
        name="peak_memory_GiB",
        title="Peak memory, GiB",
        caption="Of the first worker: memory of its GPU, or resident memory of its process on CPUs.",
    ),
)


def training_curves(runs: Sequence[PageRun]) -> list[MetricChart]:
    """Return the loss first, then accuracies and validation, then the other metrics; only what some run logged."""
    dual_encoders = [run for run in runs if not run.record.is_classifier]
    classifiers = [run for run in runs if run.record.is_classifier]
    losses = [_contrastive_loss_chart(dual_encoders), _cross_entropy_chart(classifiers)]
    charts = [*losses, *_accuracy_charts(classifiers), *_validation_charts(runs)]
    charts += [_logged_metric_chart(runs, metric) for metric in LOGGED_METRICS]
    return [chart for chart in charts if chart is not None]


def _cross_entropy_chart(runs: Sequence[PageRun]) -> MetricChart | None:
    series = metric_series(runs, "loss")
    if not series:
        return None
    chances = {math.log(classes) * _cross_entropy_terms(run) for run in runs if (classes := _class_count(run))}
    references = [ReferenceLine(value=chance, label=f"chance: {format_number(chance)}") for chance in sorted(chances)]
    return MetricChart(
        title="Loss",
        caption="Cross-entropy of the fusion plus that of each head (with the joint loss: of the fusion alone). Lower "
        "is better. Dashed: the loss of guessing.",
        chart=line_chart(series, "Loss over training steps", references=references, from_zero=True),
    )


def _cross_entropy_terms(run: PageRun) -> int:
    """Return the number of cross-entropies in the loss, which is the number of accuracies that are logged."""
    return max(1, sum(_is_accuracy(name) for name in run.record.last_metrics))


def _class_count(run: PageRun) -> int:
    classes = run.record.config_value("model.classes")
    return len(classes) if isinstance(classes, list | tuple) else 0


def _accuracy_charts(runs: Sequence[PageRun]) -> list[MetricChart]:
    """Return the accuracy of the fusion, then that of each head."""
    names = {name for run in runs for line in run.record.metrics for name in line if _is_accuracy(name)}
    chances = {1 / classes for run in runs if (classes := _class_count(run))}
    references = [ReferenceLine(value=chance, label="chance") for chance in sorted(chances)]
    charts = []
    for name in sorted(names, key=lambda name: (not name.startswith("multimodal"), name)):
        head = clean_text(name.partition("/")[0], 40)
        title = "Accuracy of " + ("all modalities together" if head == "multimodal" else f"the {head} head")
        charts.append(
            MetricChart(
                title=title,
                caption="Share of one training batch whose class is predicted correctly. Higher is better.",
                chart=line_chart(metric_series(runs, name), title, references=references, from_zero=True, share=True),
            )
        )
    return charts


def _is_accuracy(name: str) -> bool:
    return name.endswith("/accuracy") and name.count("/") == 1


def _contrastive_loss_chart(runs: Sequence[PageRun]) -> MetricChart | None:
    """Return the contrastive loss; of an adapted run without the loss of its domain critic."""
    names = {run.color: CONTRASTIVE_LOSS if CONTRASTIVE_LOSS in run.record.last_metrics else "loss" for run in runs}
    series = [line for run in runs for line in metric_series([run], names[run.color])]
    if not series:
        return None
    chances = {chance for run in runs if (chance := _contrastive_chance(run)) is not None}
    references = [ReferenceLine(value=chance, label=f"chance: {format_number(chance)}") for chance in sorted(chances)]
    caption = "Mean over both directions of the batch. Lower is better."
    if references:
        caption += " Dashed: the logarithm of the batch size, the loss of a model that cannot tell pairs apart."
    return MetricChart(
        title="Contrastive loss",
        caption=caption,
        chart=line_chart(series, "Contrastive loss over training steps", references=references, from_zero=True),
    )


def _contrastive_chance(run: PageRun) -> float | None:
    """Return ln(batch size) for the softmax loss; None for the sigmoid loss, whose chance level depends on its bias."""
    batch = run.record.config_value("optim.batch_size")
    softmax = run.record.config_value("loss.objective", "info_nce") == "info_nce"
    return round(math.log(batch), 4) if softmax and isinstance(batch, int) and batch > 1 else None


def _validation_charts(runs: Sequence[PageRun]) -> list[MetricChart]:
    names = {name for run in runs for line in run.record.metrics for name in line if name.startswith("validation/")}
    names -= {name for name in names if name.startswith("validation/target/")}  # drawn by domain_curves
    shares = [name for name in sorted(names) if is_share(name) and "/chance" not in name]
    shares.sort(key=lambda name: not name.endswith("@10"))
    charts = []
    for name in shares[:MAX_VALIDATION_CHARTS]:
        label = metric_label(name.removeprefix("validation/"))
        charts.append(
            MetricChart(
                title=f"Validation: {label}",
                caption="On held-out pairs during training. Higher is better.",
                chart=line_chart(metric_series(runs, name), f"{label} on held-out pairs", from_zero=True, share=True),
            )
        )
    return charts


def _logged_metric_chart(runs: Sequence[PageRun], metric: _LoggedMetric) -> MetricChart | None:
    series = metric_series(runs, metric.name)
    if not series:
        return None
    label = f"{metric.title} over training steps"
    chart = line_chart(series, label, from_zero=metric.from_zero, share=metric.share)
    return MetricChart(title=metric.title, caption=metric.caption, chart=chart)


def metric_series(runs: Sequence[PageRun], name: str) -> list[Series]:
    """Return a line for each run that logged finite values of the metric."""
    series = []
    for run in runs:
        points = [(line["step"], line[name]) for line in run.record.metrics if _is_finite(line.get(name))]
        if points:
            steps, values = zip(*points, strict=True)
            series.append(Series(label=clean_text(run.name, 40), color=run.color, x=steps, y=values))
    return series


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
