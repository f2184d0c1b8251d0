"""The metrics of classifier runs in; for each encoder the curves of its two gradients out."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from xmodal.formatting import clean
from xmodal.report.charts.figures import Line, Reference, lines
from xmodal.report.page_data import Shown
from xmodal.report.sections.curves import Curve, series_of

OBJECTIVES = ("multimodal", "unimodal")  # in the order of the weightings' objectives


@dataclass(frozen=True, kw_only=True)
class Encoder:
    """One encoder's curves."""

    name: str
    curves: tuple[Curve, ...]


@dataclass(frozen=True, kw_only=True)
class _Figure:
    """A figure that stands in the metrics as PREFIX/ENCODER/NAME."""

    name: str
    title: str
    caption: str
    prefix: str = ""
    share: bool = False
    from_zero: bool = False
    reference: Reference | None = None


CONFLICT = (
    _Figure(
        name="cosine",
        title="Cosine between both gradients",
        caption="cos β between the gradients of the multimodal and of the encoder's own loss, at the logged steps. "
        "Below zero they conflict: a step for one undoes the other.",
        reference=Reference(value=0.0, label="conflict below"),
    ),
    _Figure(
        name="conflict_share",
        title="Share of steps in conflict",
        caption="Of all steps between two lines of the log.",
        share=True,
        from_zero=True,
    ),
)
RESCALE = _Figure(
    name="rescale",
    title="Rescale factor s",
    caption="How much longer the plain sum of the gradients is than their combination with these weights (brought to "
    "the same total): MMPareto's factor before its limits. 1 without conflict.",
    reference=Reference(value=1.0, label="weights alike"),
)
AUDIT = (
    _Figure(
        name="same_sign",
        prefix="audit",
        title="Audit: both spaces agree on conflict",
        caption="Share of audits on which features and parameters both see a conflict, or both see none.",
        share=True,
        from_zero=True,
    ),
    _Figure(
        name="weight_gap",
        prefix="audit",
        title="Audit: difference of the weights",
        caption="Largest difference between the weights of the two spaces, relative to the largest weight.",
        from_zero=True,
    ),
    _Figure(
        name="angle_degrees",
        prefix="audit",
        title="Audit: angle between the updates",
        caption="Degrees between the updates of the encoder with one space's weights and with the other's.",
        from_zero=True,
    ),
)  # fmt: skip


def balance(runs: Sequence[Shown]) -> list[Encoder]:
    """One for each encoder of any run that logged gradients of its own; only figures that some run logged."""
    names = {
        name.removesuffix("/cosine")
        for run in runs
        for line in run.recorded.metrics
        for name in line
        if name.endswith("/cosine") and name.count("/") == 1
    }
    return [Encoder(name=clean(name, 40), curves=tuple(_curves(runs, name))) for name in sorted(names)]


def _curves(runs: Sequence[Shown], encoder: str) -> Iterator[Curve]:
    for figure in CONFLICT:
        yield from _single(runs, encoder, figure)
    yield from _both(
        runs, encoder, "norm", "Gradient magnitude",
        "‖g‖ of the multimodal and of the encoder's own loss, in the units of the space that decides.",
    )  # fmt: skip
    yield from _both(
        runs, encoder, "weight", "Weights",
        "What each of the two gradients is multiplied by; gamma is in them, and the rescale factor.",
    )  # fmt: skip
    for figure in (RESCALE, *AUDIT):
        yield from _single(runs, encoder, figure)


def _single(runs: Sequence[Shown], encoder: str, figure: _Figure) -> Iterator[Curve]:
    name = "/".join(filter(None, (figure.prefix, encoder, figure.name)))
    series = series_of(runs, name)
    if series:
        marks = [figure.reference] if figure.reference else []
        label = f"{figure.title}, {clean(encoder, 40)} encoder, over training steps"
        chart = lines(series, label, references=marks, from_zero=figure.from_zero, share=figure.share)
        yield Curve(title=figure.title, caption=figure.caption, chart=chart)


def _both(runs: Sequence[Shown], encoder: str, name: str, title: str, caption: str) -> Iterator[Curve]:
    """Of one run both objectives in one figure; of several runs a figure for each objective."""
    found = [series_of(runs, f"{encoder}/{name}_{k}") for k in range(len(OBJECTIVES))]
    if len(runs) == 1:
        drawn = [
            Line(label=objective, slot=slot, x=one.x, y=one.y)
            for slot, (objective, series) in enumerate(zip(OBJECTIVES, found, strict=True), 1)
            for one in series
        ]
        if drawn:
            label = f"{title}, {clean(encoder, 40)} encoder, over training steps"
            legend = tuple((one.label, one.slot) for one in drawn)
            chart = lines(drawn, label, from_zero=True)
            yield Curve(title=title, caption=caption, chart=chart, legend=legend)
        return
    for objective, series in zip(OBJECTIVES, found, strict=True):
        if series:
            label = f"{title}, {objective} loss, {clean(encoder, 40)} encoder, over training steps"
            yield Curve(title=f"{title}, {objective}", caption=caption, chart=lines(series, label, from_zero=True))
