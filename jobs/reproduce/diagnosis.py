"""Analyse a trained model: how its gradients spread over mini-batches, and how flat its minimum is."""

from contextlib import nullcontext
from functools import partial
from itertools import islice
from typing import Any

from torch import Tensor

from jobs.reproduce.learner import ExperimentModel
from jobs.reproduce.row_batches import RowDataset
from xmodal.batch import Batch
from xmodal.gradients import Partition
from xmodal.gradients.gradient_statistics import gradient_statistics
from xmodal.metrics.flatness import loss_along_directions, top_eigenvalue
from xmodal.training.objective import Losses

STATISTICS_BATCHES = 40  # mini-batches of the gradient statistics
LANDSCAPE_BATCHES, LANDSCAPE_ROWS = 2, 256  # mini-batches, and rows of each, of the loss around the minimum
DIRECTIONS, POINTS, RADIUS, ITERATIONS = 3, 9, 0.5, 40


def diagnose(model: ExperimentModel, train: RowDataset, batch_size: int, *, seed: int) -> dict[str, Any]:
    """Return `gradients` by encoder (assumption 1 of MMPareto) and `flatness` of the loss; plain values for JSON.

    The loss is the multimodal one, or the sum over the tasks. Views are not drawn, and the weights stay as they are.
    """
    objective = model.objective
    objective.eval()
    with objective.splitter.without_decision() if objective.splitter is not None else nullcontext():
        result = {"gradients": _gradients(model, train, batch_size), "flatness": _flatness(model, train, seed)}
    objective.train()
    return result


def _gradients(model: ExperimentModel, train: RowDataset, batch_size: int) -> dict[str, Any]:
    encoders = Partition.from_module(model.objective, model.encoders).encoders
    batches = [
        batch for batch in islice(train.ordered_batches(batch_size), STATISTICS_BATCHES) if len(batch) == batch_size
    ]
    statistics = gradient_statistics(lambda batch: model.objective(batch).by_objective, encoders, batches)
    objectives = _names(model.objective(batches[0]))
    return {encoder: values.to_json(objectives) for encoder, values in statistics.items()}


def _names(losses: Losses) -> list[str]:
    """Return the names of the objectives, in the order of `by_objective`."""
    return ["multimodal", "unimodal"] if losses.multimodal is not None else [*losses.tasks]


def _flatness(model: ExperimentModel, train: RowDataset, seed: int) -> dict[str, Any]:
    batches = [*islice(train.ordered_batches(LANDSCAPE_ROWS), LANDSCAPE_BATCHES)]
    losses = [partial(_share, model, batch, len(batches)) for batch in batches]
    encoders = Partition.from_module(model.objective, model.encoders).encoders
    parameters = [p for block in encoders.values() for p in block]
    along = loss_along_directions(losses, parameters, directions=DIRECTIONS, points=POINTS, radius=RADIUS, seed=seed)
    top = top_eigenvalue(losses, parameters, iterations=ITERATIONS, seed=seed)
    return {**along.to_json(), "eigenvalue": top.to_json()}


def _share(model: ExperimentModel, batch: Batch, parts: int) -> Tensor:
    """Return the loss of one of several mini-batches, whose sum is the loss of all."""
    losses = model.objective(batch)
    return (losses.sum if losses.multimodal is None else losses.multimodal) / parts
