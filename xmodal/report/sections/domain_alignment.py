"""The metrics of adapted runs in; curves of the critics, of what they send back, and of both domains out."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from xmodal.formatting import clean
from xmodal.report.charts.figures import Reference, lines
from xmodal.report.page_data import Shown
from xmodal.report.sections.curves import Curve, series_of


@dataclass(frozen=True, kw_only=True)
class _Figure:
    """A metric named `start` + PLACE + `end`."""

    start: str
    end: str
    title: str
    caption: str
    share: bool = False
    reference: Reference | None = None


FIGURES = (
    _Figure(
        start="domain/", end="/accuracy", title="Accuracy of the domain critic", share=True,
        caption="Share of rows whose domain it tells, both domains counting equally. Near 50 % it has been confused, "
        "or is too weak to tell: the gradient ratio says which.",
        reference=Reference(value=0.5, label="guessing"),
    ),
    _Figure(
        start="domain/", end="/loss_per_ln2", title="Loss of the domain critic, in ln 2",
        caption="1 is knowing nothing, whether it was confused or is dead; near 0 it has won.",
        reference=Reference(value=1.0, label="knows nothing"),
    ),
    _Figure(
        start="", end="/gradient_ratio", title="Domain gradient beside the task's",
        caption="Norms at the embeddings, strength included. 0 is a critic that teaches nothing; far above 1 the task "
        "is drowned.",
    ),
    _Figure(
        start="", end="/centroid_distance", title="Distance of both domains' centroids",
        caption="Between the mean embedding of the source and that of the target, of unit rows. Small is no success by "
        "itself: a collapse makes it small too.",
    ),
    _Figure(
        start="", end="/target_spread", title="Spread of the target's embeddings",
        caption="1 minus the squared length of their mean: 0 where all pictures have become one point.",
    ),
    _Figure(
        start="validation/target/", end="", title="Target without labels",
        caption="A score of held-out target rows that reads no label and no pair: it may choose a strength or a step.",
    ),
)  # fmt: skip


def domains(runs: Sequence[Shown]) -> list[Curve]:
    """The strength, then each figure at each place; only what some run logged."""
    strength = series_of(runs, "domain/strength")
    if not strength:
        return []
    caption = "Lambda: what the encoders get of the domain loss, a function of the step."
    chart = lines(strength, "Strength of the domain loss over training steps", from_zero=True)
    first = Curve(title="Strength of the domain loss", caption=caption, chart=chart)
    return [first, *(curve for figure in FIGURES for curve in _curves(runs, figure))]


def _curves(runs: Sequence[Shown], figure: _Figure) -> Iterator[Curve]:
    names = {name for run in runs for line in run.recorded.metrics for name in line if _is(name, figure)}
    for name in sorted(names):
        place = clean(name.removeprefix(figure.start).removesuffix(figure.end).replace("_", " "), 40)
        title = f"{figure.title}: {place}"
        marks = [figure.reference] if figure.reference else []
        label = f"{title}, over training steps"
        chart = lines(series_of(runs, name), label, references=marks, from_zero=True, share=figure.share)
        yield Curve(title=title, caption=figure.caption, chart=chart)


def _is(name: str, figure: _Figure) -> bool:
    inside = name.removeprefix(figure.start).removesuffix(figure.end)
    return name == f"{figure.start}{inside}{figure.end}" and bool(inside) and "/" not in inside
