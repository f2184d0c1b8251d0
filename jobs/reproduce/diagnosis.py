"""A trained subject and its training rows in; how its gradients spread and how flat its minimum is, out."""

from contextlib import nullcontext
from functools import partial
from itertools import islice
from typing import Any

from torch import Tensor

from jobs.reproduce.learner import Subject
from jobs.reproduce.row_batches import Rows
from xmodal.batch import Batch
from xmodal.gradients import Partition
from xmodal.gradients.gradient_statistics import gradient_statistics
from xmodal.metrics.flatness import loss_along_directions, top_eigenvalue
from xmodal.training.objective import Losses

BATCHES = 40  # of the statistics
FLAT_PARTS, FLAT_ROWS = 2, 256  # mini-batches, and their rows, whose loss is the landscape
DIRECTIONS, POINTS, RADIUS, ITERATIONS = 3, 9, 0.5, 40


def diagnosis(subject: Subject, train: Rows, batch_size: int, *, seed: int) -> dict[str, Any]:
    """`gradients` by encoder (MMPareto's assumption 1) and `flatness` of the judged loss; plain values for JSON.

    The judged loss is the multimodal one, or the sum over the tasks; views are not drawn, weights stay as they are.
    """
    objective = subject.objective
    objective.eval()
    with objective.splitter.plain() if objective.splitter is not None else nullcontext():
        found = {"gradients": _gradients(subject, train, batch_size), "flatness": _flatness(subject, train, seed)}
    objective.train()
    return found


def _gradients(subject: Subject, train: Rows, batch_size: int) -> dict[str, Any]:
    encoders = Partition.of(subject.objective, subject.encoders).encoders
    batches = [batch for batch in islice(train.parts(batch_size), BATCHES) if len(batch) == batch_size]
    statistics = gradient_statistics(lambda batch: subject.objective(batch).by_objective, encoders, batches)
    return {name: one.as_json(_names(subject.objective(batches[0]))) for name, one in statistics.items()}


def _names(losses: Losses) -> list[str]:
    return ["multimodal", "unimodal"] if losses.multimodal is not None else [*losses.tasks]


def _flatness(subject: Subject, train: Rows, seed: int) -> dict[str, Any]:
    batches = [*islice(train.parts(FLAT_ROWS), FLAT_PARTS)]
    parts = [partial(_share, subject, batch, len(batches)) for batch in batches]
    parameters = [p for block in Partition.of(subject.objective, subject.encoders).encoders.values() for p in block]
    along = loss_along_directions(parts, parameters, directions=DIRECTIONS, points=POINTS, radius=RADIUS, seed=seed)
    top = top_eigenvalue(parts, parameters, iterations=ITERATIONS, seed=seed)
    return {**along.as_json(), "eigenvalue": top.as_json()}


def _share(subject: Subject, batch: Batch, parts: int) -> Tensor:
    losses = subject.objective(batch)
    return (losses.sum if losses.multimodal is None else losses.multimodal) / parts
