"""An experiment's arms, seeds and findings in, one self-contained HTML page out."""

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from xmodal.formatting import moment
from xmodal.report.charts.figures import Line, Mark, Row, intervals, lines
from xmodal.report.page import environment, file


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A prediction made before the run, and what came of it.

    None: the arms that it needs were not run, or (with evidence) the seeds are too few to tell.
    """

    prediction: str
    held: bool | None
    evidence: str

    @property
    def verdict(self) -> str:
        if self.held is None:
            return "undecided" if self.evidence else "not tested"
        return "held" if self.held else "did not hold"


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A figure with its words; `legend` names its lines, in the order of their colours."""

    title: str
    caption: str
    figure: Markup
    legend: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class Table:
    """`rows` are a name, what it is, and one text a column."""

    title: str
    note: str = ""
    columns: Sequence[str]
    rows: Sequence[tuple[str, str, Sequence[str]]]


@dataclass(frozen=True, kw_only=True)
class Page:
    """All of a page."""

    title: str
    leads: Sequence[str]
    tables: Sequence[Table]
    charts: Sequence[Chart]
    findings: Sequence[Finding]
    facts: Sequence[tuple[str, str]]
    made: str
    version: str


def spread(shares: Sequence[tuple[str, float, float]], label: str, *, chance: float | None = None) -> Markup:
    """A dot with mean - sd to mean + sd for each (name, mean, sd), shares in [0, 1]."""
    rows = [
        Row(label=name, marks=(Mark(slot=1, value=mean, low=max(0.0, mean - sd), high=mean + sd),), chance=chance)
        for name, mean, sd in shares
    ]
    return intervals(rows, label)


def over_epochs(series: Sequence[tuple[str, Sequence[float]]], label: str) -> Markup:
    """Shares by epoch, a line each (at most six)."""
    drawn = [
        Line(label=name, slot=slot, x=[float(epoch) for epoch in range(1, len(y) + 1)], y=list(y))
        for slot, (name, y) in enumerate(series[:6], 1)
    ]
    return lines(drawn, label, from_zero=True, share=True, unit="epochs")


def around(series: Sequence[tuple[str, Sequence[float], Sequence[float]]], label: str) -> Markup:
    """The loss at each place around a minimum, for each (name, places, losses) a line (at most six)."""
    drawn = [Line(label=name, slot=slot, x=x, y=y) for slot, (name, x, y) in enumerate(series[:6], 1)]
    return lines(drawn, label, from_zero=True, unit="x the weights' length")


def render(page: Page) -> str:
    """The page; texts are escaped by the template."""
    return environment().get_template("experiment.html.j2").render(
        experiment=page, made=moment(page.made), style=Markup(file("style.css"))
    )  # fmt: skip
