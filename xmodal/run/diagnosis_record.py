"""Read a file of RUN/diagnoses as checked values."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class GradientMagnitudes:
    """Statistics of the gradient of one loss at one encoder, over mini-batches."""

    norms: tuple[float, ...]
    mean: float  # of the norms
    variance: float  # of the norms
    covariance_trace: float


@dataclass(frozen=True, kw_only=True)
class EncoderAccuracy:
    """Accuracy from one encoder: of its own head, and of a linear probe on its features; None: not measured."""

    head: float | None
    probe: float | None


@dataclass(frozen=True, kw_only=True)
class DiagnosisRecord:
    """The results of `jobs.diagnose` for one checkpoint; losses that are not finite are NaN."""

    step: int
    corpus: str
    held_out: str
    rows: int
    batch_size: int
    gradients: Mapping[str, Mapping[str, GradientMagnitudes]]  # encoder -> loss (multimodal, unimodal)
    conflict_share: Mapping[str, float]  # encoder -> share of mini-batches on which both gradients conflict
    offsets: tuple[float, ...]  # along random directions around the minimum, in multiples of the weights' norm
    losses: tuple[tuple[float, ...], ...]  # at the offsets, one row for each direction
    loss_rise: float  # mean loss at both ends, minus the loss at the minimum
    top_eigenvalue: float  # of the Hessian, by power iteration
    iterations: int
    converged: bool
    residual: float
    accuracy: Mapping[str, EncoderAccuracy]
    accuracy_rows: int  # rows that `accuracy` was measured on
    chance: float


def parse_diagnosis(record: Mapping[str, Any]) -> DiagnosisRecord:
    """Return the content of a diagnosis file.

    ValueError, KeyError, TypeError or AttributeError where it is not one.
    """
    flatness, accuracy, gradients = record["flatness"], record["accuracy"], record["gradients"]
    offsets, losses = _numbers(flatness["places"]), tuple(_numbers(row) for row in flatness["losses"])
    if not losses or any(len(row) != len(offsets) for row in losses):
        raise ValueError("its losses do not fit its places")
    eigenvalue = flatness["eigenvalue"]
    return DiagnosisRecord(
        step=int(record["step"]),
        corpus=str(record.get("corpus", "")),
        held_out=str(record.get("held_out") or ""),
        rows=int(record.get("rows", 0)),
        batch_size=int(record.get("batch_size", 0)),
        gradients={encoder: _magnitudes(losses) for encoder, losses in gradients.items()},
        conflict_share={
            encoder: float(values["conflict_share"])
            for encoder, values in gradients.items()
            if "conflict_share" in values
        },
        offsets=offsets,
        losses=losses,
        loss_rise=_number(flatness["rise"]),
        top_eigenvalue=_number(eigenvalue["value"]),
        iterations=int(eigenvalue["iterations"]),
        converged=bool(eigenvalue["converged"]),
        residual=_number(eigenvalue["residual"]),
        accuracy={name: _accuracy(values) for name, values in accuracy.items() if isinstance(values, Mapping)},
        accuracy_rows=int(accuracy["rows"]),
        chance=float(accuracy["chance"]),
    )


def _magnitudes(losses: Mapping[str, Any]) -> dict[str, GradientMagnitudes]:
    return {
        loss: GradientMagnitudes(
            norms=_numbers(values["norms"]),
            mean=float(values["mean_norm"]),
            variance=float(values["norm_variance"]),
            covariance_trace=float(values["covariance_trace"]),
        )
        for loss, values in losses.items()
        if isinstance(values, Mapping)
    }


def _accuracy(values: Mapping[str, Any]) -> EncoderAccuracy:
    head, probe = values.get("head"), values.get("probe")
    return EncoderAccuracy(head=None if head is None else float(head), probe=None if probe is None else float(probe))


def _numbers(values: Sequence[Any]) -> tuple[float, ...]:
    return tuple(map(_number, values))


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)
