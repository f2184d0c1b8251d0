"""Training curves of domain adaptation: the domain critics, their gradients, and how far the domains are apart."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from xmodal.formatting import clean_text
from xmodal.report.charts.figures import ReferenceLine, line_chart
from xmodal.report.page_data import PageRun
from xmodal.report.sections.curves import MetricChart, metric_series


@dataclass(frozen=True, kw_only=True)
class _DomainMetric:
    """A metric that is logged once for each alignment point, under the name `prefix` + POINT + `suffix`."""

    prefix: str
    suffix: str
    title: str
    caption: str
    share: bool = False
    reference: ReferenceLine | None = None


DOMAIN_METRICS = (
    _DomainMetric(
        prefix="domain/", suffix="/accuracy", title="Accuracy of the domain critic", share=True,
        caption="Share of rows whose domain the critic predicts correctly, both domains weighted equally. Near 50 % it "
        "cannot tell the domains apart, or is too weak to learn: the gradient ratio tells which.",
        reference=ReferenceLine(value=0.5, label="chance"),
    ),
    _DomainMetric(
        prefix="domain/", suffix="/loss_per_ln2", title="Loss of the domain critic, in units of ln 2",
        caption="1 is the loss of guessing, because the domains are aligned or the critic does not learn; near 0 the "
        "critic separates the domains.",
        reference=ReferenceLine(value=1.0, label="chance"),
    ),
    _DomainMetric(
        prefix="", suffix="/gradient_ratio", title="Domain gradient relative to the task gradient",
        caption="Ratio of their norms at the embeddings, strength included. At 0 the domain loss has no effect; far "
        "above 1 it outweighs the task.",
    ),
    _DomainMetric(
        prefix="", suffix="/centroid_distance", title="Distance between the domain centroids",
        caption="Distance between the mean embedding of the source and that of the target, of unit rows. A small "
        "distance alone is no success: a collapse of the embeddings makes it small, too.",
    ),
    _DomainMetric(
        prefix="", suffix="/target_spread", title="Spread of the target embeddings",
        caption="1 minus the squared norm of their mean; 0 where all rows have the same embedding.",
    ),
    _DomainMetric(
        prefix="validation/target/", suffix="", title="Target score without labels",
        caption="A score of held-out target rows that uses no labels and no pairs, so that a strength or a step may be "
        "chosen by it.",
    ),
)  # fmt: skip


def domain_curves(runs: Sequence[PageRun]) -> list[MetricChart]:
    """Return the strength of the domain loss, then each metric at each alignment point; only what some run logged."""
    strength = metric_series(runs, "domain/strength")
    if not strength:
        return []
    title = "Strength of the domain loss"
    caption = "Lambda, the weight of the domain loss for the encoders, as a function of the step."
    chart = line_chart(strength, f"{title} over training steps", from_zero=True)
    first = MetricChart(title=title, caption=caption, chart=chart)
    return [first, *(curve for metric in DOMAIN_METRICS for curve in _charts(runs, metric))]


def _charts(runs: Sequence[PageRun], metric: _DomainMetric) -> Iterator[MetricChart]:
    """Yield a chart for each alignment point at which the metric was logged."""
    names = {name for run in runs for line in run.record.metrics for name in line if _is_metric(name, metric)}
    references = [metric.reference] if metric.reference else []
    for name in sorted(names):
        point = clean_text(_point_of(name, metric).replace("_", " "), 40)
        title = f"{metric.title}: {point}"
        label = f"{title}, over training steps"
        series = metric_series(runs, name)
        chart = line_chart(series, label, references=references, from_zero=True, share=metric.share)
        yield MetricChart(title=title, caption=metric.caption, chart=chart)


def _is_metric(name: str, metric: _DomainMetric) -> bool:
    point = _point_of(name, metric)
    return name == f"{metric.prefix}{point}{metric.suffix}" and bool(point) and "/" not in point


def _point_of(name: str, metric: _DomainMetric) -> str:
    return name.removeprefix(metric.prefix).removesuffix(metric.suffix)
