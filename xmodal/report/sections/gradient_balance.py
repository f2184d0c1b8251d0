"""Training curves of gradient balancing: for each encoder the gradients of the multimodal and the unimodal loss."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from xmodal.formatting import clean_text
from xmodal.report.charts.figures import ReferenceLine, Series, line_chart
from xmodal.report.page_data import PageRun
from xmodal.report.sections.curves import MetricChart, metric_series

LOSSES = ("multimodal", "unimodal")  # in the order of the weightings' objectives


@dataclass(frozen=True, kw_only=True)
class EncoderCurves:
    """The curves of one encoder."""

    name: str
    curves: tuple[MetricChart, ...]


@dataclass(frozen=True, kw_only=True)
class _GradientMetric:
    """A metric that is logged for each encoder, under the name PREFIX/ENCODER/NAME."""

    name: str
    title: str
    caption: str
    prefix: str = ""
    share: bool = False
    from_zero: bool = False
    reference: ReferenceLine | None = None


CONFLICT_METRICS = (
    _GradientMetric(
        name="cosine",
        title="Cosine between both gradients",
        caption="cos β between the gradients of the multimodal loss and of the encoder's unimodal loss, at the logged "
        "steps. Below zero they conflict: a step that lowers one loss raises the other.",
        reference=ReferenceLine(value=0.0, label="conflict below"),
    ),
    _GradientMetric(
        name="conflict_share",
        title="Share of steps in conflict",
        caption="Of all steps since the previous logged step.",
        share=True,
        from_zero=True,
    ),
)
RESCALE_METRIC = _GradientMetric(
    name="rescale",
    title="Rescale factor s",
    caption="Norm of the plain sum of the gradients, divided by the norm of their weighted combination (with "
    "weights of the same total): MMPareto's factor before its limits. 1 without conflict.",
    reference=ReferenceLine(value=1.0, label="equal weights"),
)
AUDIT_METRICS = (
    _GradientMetric(
        name="same_sign",
        prefix="audit",
        title="Audit: both spaces agree on conflict",
        caption="Share of audits in which feature space and parameter space both find a conflict, or both find none.",
        share=True,
        from_zero=True,
    ),
    _GradientMetric(
        name="weight_gap",
        prefix="audit",
        title="Audit: difference of the weights",
        caption="Largest difference between the weights of the two spaces, relative to the largest weight.",
        from_zero=True,
    ),
    _GradientMetric(
        name="angle_degrees",
        prefix="audit",
        title="Audit: angle between the updates",
        caption="Angle in degrees between the encoder's update with one space's weights and with the other's.",
        from_zero=True,
    ),
)


def gradient_balance(runs: Sequence[PageRun]) -> list[EncoderCurves]:
    """Return the curves of each encoder for which some run compared gradients; only metrics that some run logged."""
    names = {
        name.removesuffix("/cosine")
        for run in runs
        for line in run.record.metrics
        for name in line
        if name.endswith("/cosine") and name.count("/") == 1
    }
    return [EncoderCurves(name=clean_text(name, 40), curves=tuple(_curves(runs, name))) for name in sorted(names)]


def _curves(runs: Sequence[PageRun], encoder: str) -> Iterator[MetricChart]:
    for metric in CONFLICT_METRICS:
        yield from _metric_chart(runs, encoder, metric)
    yield from _loss_charts(
        runs, encoder, "norm", "Gradient magnitude",
        "Norm of the gradient of the multimodal loss and of the encoder's unimodal loss, in the space that decides.",
    )  # fmt: skip
    yield from _loss_charts(
        runs, encoder, "weight", "Weights",
        "The factor on each of the two gradients; it includes gamma and the rescale factor.",
    )  # fmt: skip
    for metric in (RESCALE_METRIC, *AUDIT_METRICS):
        yield from _metric_chart(runs, encoder, metric)


def _metric_chart(runs: Sequence[PageRun], encoder: str, metric: _GradientMetric) -> Iterator[MetricChart]:
    """Yield the chart of a metric, where some run logged it."""
    name = "/".join(filter(None, (metric.prefix, encoder, metric.name)))
    series = metric_series(runs, name)
    if series:
        references = [metric.reference] if metric.reference else []
        label = _aria_label(metric.title, encoder)
        chart = line_chart(series, label, references=references, from_zero=metric.from_zero, share=metric.share)
        yield MetricChart(title=metric.title, caption=metric.caption, chart=chart)


def _loss_charts(runs: Sequence[PageRun], encoder: str, name: str, title: str, caption: str) -> Iterator[MetricChart]:
    """Yield one chart with both losses for a single run, or one chart for each loss for several runs."""
    by_loss = [metric_series(runs, f"{encoder}/{name}_{k}") for k in range(len(LOSSES))]
    if len(runs) == 1:
        lines = [
            Series(label=loss, color=color, x=line.x, y=line.y)
            for color, (loss, series) in enumerate(zip(LOSSES, by_loss, strict=True), 1)
            for line in series
        ]
        if lines:
            legend = tuple((line.label, line.color) for line in lines)
            chart = line_chart(lines, _aria_label(title, encoder), from_zero=True)
            yield MetricChart(title=title, caption=caption, chart=chart, legend=legend)
        return
    for loss, series in zip(LOSSES, by_loss, strict=True):
        if series:
            chart = line_chart(series, _aria_label(f"{title}, {loss} loss", encoder), from_zero=True)
            yield MetricChart(title=f"{title}, {loss}", caption=caption, chart=chart)


def _aria_label(title: str, encoder: str) -> str:
    return f"{title}, {clean_text(encoder, 40)} encoder, over training steps"
