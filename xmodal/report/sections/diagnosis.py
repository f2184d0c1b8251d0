"""The diagnoses of the runs of a page in; magnitudes, the loss around each minimum and what encoders know out."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from xmodal.formatting import clean, number, percent
from xmodal.metrics.bootstrap import interval_of_share
from xmodal.report.charts.figures import Line, Mark, Row, histogram, intervals, lines
from xmodal.report.page_data import Shown
from xmodal.run.diagnosis_record import Diagnosed, Magnitudes

NOTHING = "\u2013"
BINS = 24
DRAWS, SEED = 1000, 0  # of the intervals


@dataclass(frozen=True, kw_only=True)
class Histogram:
    """The magnitudes of one run's two losses at one encoder."""

    run: str
    slot: int
    chart: Markup
    means: tuple[str, str]


@dataclass(frozen=True, kw_only=True)
class AtEncoder:
    """One encoder: a histogram for each run, and a line of figures for each run and loss."""

    name: str
    histograms: tuple[Histogram, ...]
    table: tuple[tuple[str, int, str, tuple[str, ...]], ...]  # run, slot, loss, cells


@dataclass(frozen=True, kw_only=True)
class Flat:
    """How flat one run's minimum is."""

    run: str
    slot: int
    cells: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """The section of a page."""

    about: tuple[str, ...]
    known: Markup
    judged_on: str
    encoders: tuple[AtEncoder, ...]
    landscape: Markup | None
    flat: tuple[Flat, ...]


def diagnosis(runs: Sequence[Shown]) -> Diagnosis | None:
    """None where no run was diagnosed; of each run the diagnosis at its last step counts."""
    found = [(run, newest) for run in runs if (newest := _newest(run)) is not None]
    if not found:
        return None
    names = dict.fromkeys(name for _, one in found for name in one.gradients)
    return Diagnosis(
        about=tuple(_about(run, one, len(runs) > 1) for run, one in found),
        known=_known(found),
        judged_on=", ".join(dict.fromkeys(_judged(one) for _, one in found)),
        encoders=tuple(_encoder(found, name) for name in names),
        landscape=_landscape(found),
        flat=tuple(_flat(run, one) for run, one in found),
    )


Found = Sequence[tuple[Shown, Diagnosed]]


def _newest(run: Shown) -> Diagnosed | None:
    return max(run.recorded.diagnoses, key=lambda one: one.step, default=None)


def _about(run: Shown, one: Diagnosed, several: bool) -> str:
    whose = f"{clean(run.name, 40)}: " if several else ""
    return (
        f"{whose}step {one.step:,}, {one.rows:,} rows of {clean(one.corpus, 80)} in mini-batches of {one.batch_size:,}"
    )


def _judged(one: Diagnosed) -> str:
    where = clean(one.held_out, 80) if one.held_out else "each fourth mini-batch, which the probes did not see"
    return f"{one.judged_on:,} rows ({where})"


def _known(found: Found) -> Markup:
    names = dict.fromkeys(name for _, one in found for name in one.known)
    rows = []
    for name in names:
        for what in ("head", "probe"):
            marks = [
                _mark(run, value, one.judged_on)
                for run, one in found
                if name in one.known and (value := getattr(one.known[name], what)) is not None
            ]
            if marks:
                chance = found[0][1].chance
                rows.append(Row(label=f"{clean(name, 20)}, {what}", marks=tuple(marks), chance=chance))
    return intervals(rows, "Accuracy of each head and of a linear probe beside chance")


def _mark(run: Shown, value: float, rows: int) -> Mark:
    low, high = interval_of_share(value, rows, draws=DRAWS, seed=SEED)
    return Mark(slot=run.slot, value=value, low=low, high=high)


def _encoder(found: Found, name: str) -> AtEncoder:
    table, histograms = [], []
    edges = _edges(found, name)
    for run, one in found:
        losses = one.gradients.get(name, {})
        if len(losses) == 2:
            histograms.append(_histogram(run, name, edges, *losses.values()))
        for loss, seen in losses.items():
            conflict = one.conflict_share.get(name) if loss == "unimodal" else None
            cells = (
                number(seen.mean), number(seen.variance), number(seen.covariance_trace),
                NOTHING if conflict is None else percent(conflict),
            )  # fmt: skip
            table.append((clean(run.name, 40), run.slot, loss, cells))
    return AtEncoder(name=clean(name, 40), histograms=tuple(histograms), table=tuple(table))


def _edges(found: Found, name: str) -> np.ndarray:
    """The same bins for all runs, so that their hills can be compared."""
    every = [x for _, one in found for seen in one.gradients.get(name, {}).values() for x in seen.norms]
    return np.linspace(0.0, max(filter(math.isfinite, every), default=1.0) * 1.02 or 1.0, BINS + 1)


def _histogram(run: Shown, name: str, edges: np.ndarray, joint: Magnitudes, own: Magnitudes) -> Histogram:
    counts = [np.histogram([x for x in one.norms if math.isfinite(x)], edges)[0].astype(float) for one in (joint, own)]
    return Histogram(
        run=clean(run.name, 40),
        slot=run.slot,
        chart=histogram(edges, counts[0], counts[1], f"Gradient magnitudes at the {clean(name, 40)} encoder"),
        means=(number(joint.mean), number(own.mean)),
    )


def _landscape(found: Found) -> Markup | None:
    """The mean over directions; places whose loss is not finite are left out."""
    drawn = []
    for run, one in found:
        mean = [sum(column) / len(column) for column in zip(*one.losses, strict=True)]
        points = [(x, y) for x, y in zip(one.places, mean, strict=True) if math.isfinite(y)]
        if points:
            x, y = zip(*points, strict=True)
            drawn.append(Line(label=clean(run.name, 40), slot=run.slot, x=x, y=y))
    if not drawn:
        return None
    return lines(drawn, "Loss along random directions", from_zero=True, unit="\u00d7 length", along="at")


def _flat(run: Shown, one: Diagnosed) -> Flat:
    middle = len(one.places) // 2
    rises = [(row[0] + row[-1]) / 2 - row[middle] for row in one.losses]
    state = "converged" if one.converged else "not converged"
    cells = (
        number(one.losses[0][middle]),
        f"{number(one.rise)} ({number(min(rises))} to {number(max(rises))})",
        number(one.eigenvalue),
        f"{one.iterations:,} products, {state}, residual {number(one.residual, 2)}",
    )
    return Flat(run=clean(run.name, 40), slot=run.slot, cells=cells)
