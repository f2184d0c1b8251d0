"""Render the results of an experiment (its arms, seeds and predictions) as one self-contained HTML page."""

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from xmodal.formatting import format_timestamp
from xmodal.report.charts.figures import IntervalMark, IntervalRow, Series, interval_chart, line_chart
from xmodal.report.charts.svg import MAX_SERIES
from xmodal.report.page import template_environment, template_text


@dataclass(frozen=True, kw_only=True)
class PredictionResult:
    """A prediction written down before the experiment, and whether the results confirm it.

    `confirmed` is None where the arms that the prediction needs were not run (`evidence` is empty then), or where there
    are too few seeds to decide.
    """

    prediction: str
    confirmed: bool | None
    evidence: str

    @property
    def outcome(self) -> str:
        """The result in one or two words."""
        if self.confirmed is None:
            return "undecided" if self.evidence else "not tested"
        return "confirmed" if self.confirmed else "not confirmed"


@dataclass(frozen=True, kw_only=True)
class PageChart:
    """A chart with its title and caption; `legend` names its lines in the order of their colours."""

    title: str
    caption: str
    figure: Markup
    legend: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class PageTable:
    """A table; each row holds a name, a description, and one text for each column."""

    title: str
    note: str = ""
    columns: Sequence[str]
    rows: Sequence[tuple[str, str, Sequence[str]]]


@dataclass(frozen=True, kw_only=True)
class ExperimentPage:
    """The content of an experiment's page; `intro` are the paragraphs below its title."""

    title: str
    intro: Sequence[str]
    tables: Sequence[PageTable]
    charts: Sequence[PageChart]
    findings: Sequence[PredictionResult]
    facts: Sequence[tuple[str, str]]  # name and value of what one must know to repeat the experiment
    created: str
    version: str


def mean_sd_chart(shares: Sequence[tuple[str, float, float]], label: str, *, chance: float | None = None) -> Markup:
    """Draw a dot with the interval mean - sd to mean + sd for each (name, mean, sd); shares lie in [0, 1]."""
    rows = [
        IntervalRow(
            label=name,
            marks=(IntervalMark(color=1, value=mean, low=max(0.0, mean - sd), high=mean + sd),),
            chance=chance,
        )
        for name, mean, sd in shares
    ]
    return interval_chart(rows, label)


def epoch_chart(curves: Sequence[tuple[str, Sequence[float]]], label: str) -> Markup:
    """Draw shares over epochs, a line for each (name, shares); at most MAX_SERIES lines."""
    series = [
        Series(label=name, color=color, x=[float(epoch) for epoch in range(1, len(y) + 1)], y=list(y))
        for color, (name, y) in enumerate(curves[:MAX_SERIES], 1)
    ]
    return line_chart(series, label, from_zero=True, share=True, unit="epochs")


def landscape_chart(curves: Sequence[tuple[str, Sequence[float], Sequence[float]]], label: str) -> Markup:
    """Draw the loss around a minimum, a line for each (name, offsets, losses); at most MAX_SERIES lines.

    Offsets are multiples of the length of the weights.
    """
    series = [Series(label=name, color=color, x=x, y=y) for color, (name, x, y) in enumerate(curves[:MAX_SERIES], 1)]
    return line_chart(series, label, from_zero=True, unit="x the weights' length")


def render_experiment(page: ExperimentPage) -> str:
    """Return the HTML of the page; the template escapes all texts."""
    return template_environment().get_template("experiment.html.j2").render(
        experiment=page, created=format_timestamp(page.created), style=Markup(template_text("style.css"))
    )  # fmt: skip
