"""A file of RUN/diagnoses in, what it says as checked values out."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Magnitudes:
    """The gradient of one loss at one encoder, over mini-batches."""

    norms: tuple[float, ...]
    mean: float
    variance: float  # of the norms
    covariance_trace: float


@dataclass(frozen=True, kw_only=True)
class Known:
    """What one encoder knows of the classes: by its own head, and by a linear probe; None: not measured."""

    head: float | None
    probe: float | None


@dataclass(frozen=True, kw_only=True)
class Diagnosed:
    """What `jobs.diagnose` found for one checkpoint. Losses that are not finite are NaN."""

    step: int
    corpus: str
    held_out: str
    rows: int
    batch_size: int
    gradients: Mapping[str, Mapping[str, Magnitudes]]  # encoder -> loss (multimodal, unimodal)
    conflict_share: Mapping[str, float]
    places: tuple[float, ...]
    losses: tuple[tuple[float, ...], ...]  # one row for each direction
    rise: float
    eigenvalue: float
    iterations: int
    converged: bool
    residual: float
    known: Mapping[str, Known]
    judged_on: int  # rows behind `known`
    chance: float


def diagnosed(record: Mapping[str, Any]) -> Diagnosed:
    """ValueError, KeyError, TypeError or AttributeError for a record that is none."""
    flat, accuracy = record["flatness"], record["accuracy"]
    places, losses = _numbers(flat["places"]), tuple(_numbers(row) for row in flat["losses"])
    if not losses or any(len(row) != len(places) for row in losses):
        raise ValueError("its losses do not fit its places")
    top = flat["eigenvalue"]
    return Diagnosed(
        step=int(record["step"]),
        corpus=str(record.get("corpus", "")),
        held_out=str(record.get("held_out") or ""),
        rows=int(record.get("rows", 0)),
        batch_size=int(record.get("batch_size", 0)),
        gradients={encoder: _magnitudes(found) for encoder, found in record["gradients"].items()},
        conflict_share={
            encoder: float(found["conflict_share"])
            for encoder, found in record["gradients"].items()
            if "conflict_share" in found
        },
        places=places,
        losses=losses,
        rise=_number(flat["rise"]),
        eigenvalue=_number(top["value"]),
        iterations=int(top["iterations"]),
        converged=bool(top["converged"]),
        residual=_number(top["residual"]),
        known={name: _known(found) for name, found in accuracy.items() if isinstance(found, Mapping)},
        judged_on=int(accuracy["rows"]),
        chance=float(accuracy["chance"]),
    )


def _magnitudes(found: Mapping[str, Any]) -> dict[str, Magnitudes]:
    return {
        loss: Magnitudes(
            norms=_numbers(one["norms"]),
            mean=float(one["mean_norm"]),
            variance=float(one["norm_variance"]),
            covariance_trace=float(one["covariance_trace"]),
        )
        for loss, one in found.items()
        if isinstance(one, Mapping)
    }


def _known(found: Mapping[str, Any]) -> Known:
    head, probe = found.get("head"), found.get("probe")
    return Known(head=None if head is None else float(head), probe=None if probe is None else float(probe))


def _numbers(values: Sequence[Any]) -> tuple[float, ...]:
    return tuple(map(_number, values))


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)
