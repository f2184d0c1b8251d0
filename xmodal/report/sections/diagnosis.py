"""The diagnosis of trained classifiers: accuracy of their encoders, gradient magnitudes, loss around the minimum."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from markupsafe import Markup

from xmodal.formatting import clean_text, format_number, format_percent
from xmodal.metrics.bootstrap import interval_of_share
from xmodal.report.charts.figures import (
    IntervalMark,
    IntervalRow,
    Series,
    histogram_chart,
    interval_chart,
    line_chart,
)
from xmodal.report.page_data import PageRun
from xmodal.run.diagnosis_record import DiagnosisRecord, GradientMagnitudes

NO_VALUE = "\u2013"
BINS = 24
DRAWS, SEED = 1000, 0  # of the bootstrap intervals


@dataclass(frozen=True, kw_only=True)
class GradientHistogram:
    """Gradient magnitudes of the multimodal and the unimodal loss of one run, at one encoder."""

    run: str
    color: int
    chart: Markup
    means: tuple[str, str]  # of the multimodal and of the unimodal loss


@dataclass(frozen=True, kw_only=True)
class EncoderGradients:
    """The gradients at one encoder: a histogram for each run, and a table row for each run and loss."""

    name: str
    histograms: tuple[GradientHistogram, ...]
    table: tuple[tuple[str, int, str, tuple[str, ...]], ...]  # run, its colour, loss, cells


@dataclass(frozen=True, kw_only=True)
class FlatnessRow:
    """How flat the minimum of one run is, as the cells of a table row."""

    run: str
    color: int
    cells: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class DiagnosisSection:
    """The content of the section."""

    about: tuple[str, ...]  # what each run was diagnosed on
    accuracy_chart: Markup
    accuracy_rows: str  # which rows the accuracies are of
    encoders: tuple[EncoderGradients, ...]
    landscape: Markup | None
    flatness: tuple[FlatnessRow, ...]


DiagnosedRuns = Sequence[tuple[PageRun, DiagnosisRecord]]


def diagnosis_section(runs: Sequence[PageRun]) -> DiagnosisSection | None:
    """Return the section, from each run's diagnosis at its last step; None where no run was diagnosed."""
    diagnosed = [(run, newest) for run in runs if (newest := _newest(run)) is not None]
    if not diagnosed:
        return None
    names = dict.fromkeys(name for _, record in diagnosed for name in record.gradients)
    return DiagnosisSection(
        about=tuple(_about(run, record, len(runs) > 1) for run, record in diagnosed),
        accuracy_chart=_accuracy_chart(diagnosed),
        accuracy_rows=", ".join(dict.fromkeys(_accuracy_rows(record) for _, record in diagnosed)),
        encoders=tuple(_encoder_gradients(diagnosed, name) for name in names),
        landscape=_landscape(diagnosed),
        flatness=tuple(_flatness(run, record) for run, record in diagnosed),
    )


def _newest(run: PageRun) -> DiagnosisRecord | None:
    return max(run.record.diagnoses, key=lambda record: record.step, default=None)


def _about(run: PageRun, record: DiagnosisRecord, several: bool) -> str:
    prefix = f"{clean_text(run.name, 40)}: " if several else ""
    rows = f"{record.rows:,} rows of {clean_text(record.corpus, 80)}"
    return f"{prefix}step {record.step:,}, {rows} in mini-batches of {record.batch_size:,}"


def _accuracy_rows(record: DiagnosisRecord) -> str:
    held_out = clean_text(record.held_out, 80) if record.held_out else "each fourth mini-batch, unseen by the probes"
    return f"{record.accuracy_rows:,} rows ({held_out})"


def _accuracy_chart(diagnosed: DiagnosedRuns) -> Markup:
    """Draw the accuracy of each encoder's head and of a linear probe on its features."""
    chance = diagnosed[0][1].chance
    rows = []
    for name in dict.fromkeys(name for _, record in diagnosed for name in record.accuracy):
        for kind in ("head", "probe"):
            marks = [
                _accuracy_mark(run, accuracy, record.accuracy_rows)
                for run, record in diagnosed
                if name in record.accuracy and (accuracy := getattr(record.accuracy[name], kind)) is not None
            ]
            if marks:
                rows.append(IntervalRow(label=f"{clean_text(name, 20)}, {kind}", marks=tuple(marks), chance=chance))
    return interval_chart(rows, "Accuracy of each head and of a linear probe, with the chance level")


def _accuracy_mark(run: PageRun, accuracy: float, rows: int) -> IntervalMark:
    low, high = interval_of_share(accuracy, rows, draws=DRAWS, seed=SEED)
    return IntervalMark(color=run.color, value=accuracy, low=low, high=high)


def _encoder_gradients(diagnosed: DiagnosedRuns, name: str) -> EncoderGradients:
    table, histograms = [], []
    edges = _bin_edges(diagnosed, name)
    for run, record in diagnosed:
        losses = record.gradients.get(name, {})
        if len(losses) == 2:
            histograms.append(_histogram(run, name, edges, *losses.values()))
        for loss, magnitudes in losses.items():
            conflict = record.conflict_share.get(name) if loss == "unimodal" else None
            cells = (*_magnitude_cells(magnitudes), NO_VALUE if conflict is None else format_percent(conflict))
            table.append((clean_text(run.name, 40), run.color, loss, cells))
    return EncoderGradients(name=clean_text(name, 40), histograms=tuple(histograms), table=tuple(table))


def _magnitude_cells(magnitudes: GradientMagnitudes) -> tuple[str, str, str]:
    values = (magnitudes.mean, magnitudes.variance, magnitudes.covariance_trace)
    return format_number(values[0]), format_number(values[1]), format_number(values[2])


def _bin_edges(diagnosed: DiagnosedRuns, name: str) -> Float[np.ndarray, "b1"]:
    """Return the same bins for all runs, so that their histograms can be compared."""
    norms = [x for _, record in diagnosed for losses in record.gradients.get(name, {}).values() for x in losses.norms]
    return np.linspace(0.0, max(filter(math.isfinite, norms), default=1.0) * 1.02 or 1.0, BINS + 1)


def _histogram(
    run: PageRun,
    name: str,
    edges: Float[np.ndarray, "b1"],
    multimodal: GradientMagnitudes,
    unimodal: GradientMagnitudes,
) -> GradientHistogram:
    first, second = (
        np.histogram([x for x in magnitudes.norms if math.isfinite(x)], edges)[0].astype(float)
        for magnitudes in (multimodal, unimodal)
    )
    return GradientHistogram(
        run=clean_text(run.name, 40),
        color=run.color,
        chart=histogram_chart(edges, first, second, f"Gradient magnitudes at the {clean_text(name, 40)} encoder"),
        means=(format_number(multimodal.mean), format_number(unimodal.mean)),
    )


def _landscape(diagnosed: DiagnosedRuns) -> Markup | None:
    """Draw the loss around each minimum, the mean over directions; offsets without a finite loss are left out."""
    series = []
    for run, record in diagnosed:
        means = [sum(losses) / len(losses) for losses in zip(*record.losses, strict=True)]
        points = [(x, y) for x, y in zip(record.offsets, means, strict=True) if math.isfinite(y)]
        if points:
            x, y = zip(*points, strict=True)
            series.append(Series(label=clean_text(run.name, 40), color=run.color, x=x, y=y))
    if not series:
        return None
    return line_chart(series, "Loss along random directions", from_zero=True, unit="\u00d7 length", x_prefix="offset")


def _flatness(run: PageRun, record: DiagnosisRecord) -> FlatnessRow:
    middle = len(record.offsets) // 2
    rises = [(losses[0] + losses[-1]) / 2 - losses[middle] for losses in record.losses]
    state = "converged" if record.converged else "not converged"
    cells = (
        format_number(record.losses[0][middle]),
        f"{format_number(record.loss_rise)} ({format_number(min(rises))} to {format_number(max(rises))})",
        format_number(record.top_eigenvalue),
        f"{record.iterations:,} products, {state}, residual {format_number(record.residual, 2)}",
    )
    return FlatnessRow(run=clean_text(run.name, 40), color=run.color, cells=cells)
