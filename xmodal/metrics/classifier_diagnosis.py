"""A trained classifier and mini-batches in; how its encoders' two gradients are, how flat its minimum, what each knows.

    found = diagnose(model, batches, held_out=others)       # plain values for JSON
    found["gradients"]["audio"]["unimodal"]["mean_norm"], found["flatness"]["eigenvalue"]["value"],
    found["accuracy"]["audio"]["probe"]

Plain PyTorch, one process; any number of modalities.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from xmodal.batch import Batch
from xmodal.encoders.fusion import mean_of_tokens
from xmodal.encoders.multimodal_classifier import MultimodalClassifier
from xmodal.errors import CorpusError
from xmodal.gradients import Partition
from xmodal.gradients.gradient_statistics import gradient_statistics
from xmodal.metrics.flatness import loss_along_directions, top_eigenvalue
from xmodal.metrics.linear_probe import linear_probe
from xmodal.training.objectives.label_predictor import cross_entropy

OBJECTIVES = ("multimodal", "unimodal")
STRENGTHS = tuple(10.0**power for power in (-4, -3, -2, -1, 0, 1))  # of the probe, for features of variance 1
KEPT_BACK = 4  # without held-out batches each fourth batch judges the probes


def diagnose(
    model: MultimodalClassifier,
    batches: Sequence[Batch],
    *,
    held_out: Sequence[Batch] = (),
    heads: bool = True,
    gradient_batches: int | None = None,
    flat_batches: int = 4,
    directions: int = 5,
    radius: float = 1.0,
    points: int = 11,
    iterations: int = 30,
    seed: int = 0,
    notify: Callable[[str], None] = lambda what: None,
) -> dict[str, Any]:
    """The three diagnoses of a model as it stands, in evaluation mode; weights, modes and `.grad` stay.

    `gradients`: of the multimodal and each modality's own loss at its encoder, over `batches` (of equal size; the first
    `gradient_batches`).
    `flatness`: of the multimodal loss in all parameters that it depends on, over the first `flat_batches`.
    `accuracy`: of the fusion, of each head and of a linear probe on each encoder's features, fitted on `batches`, all
    judged on `held_out`; without those on each fourth batch, which the probes then do not see.
    `heads` False: they were never trained (the joint loss alone); what needs them is left out, or None.
    """
    with _still(model):
        measured = batches[:gradient_batches]
        notify(f"gradients of {len(measured)} mini-batches")
        gradients = _gradients(model, measured, heads=heads)
        notify(f"the loss around the minimum, on {min(flat_batches, len(batches))} mini-batches")
        part = list(batches[:flat_batches])
        where: dict[str, Any] = {"directions": directions, "radius": radius, "points": points, "seed": seed}
        flatness = _flatness(model, part, where, iterations)
        notify("linear probes on the features of each encoder")
        accuracy = _accuracy(model, batches, held_out, heads=heads, seed=seed)
    return {"gradients": gradients, "flatness": flatness, "accuracy": accuracy}


def losses_of(model: MultimodalClassifier, batch: Batch, *, heads: bool = True) -> list[Float[Tensor, ""]]:
    """The multimodal loss and, with `heads`, the sum of the unimodal ones: means over the rows that have a class."""
    tokens, masks = model.encode(batch)
    scores = [model.fused(tokens, masks)]
    if heads:
        scores += [model.alone(name, tokens, masks) for name in model.modalities]
    label, counted = batch.fields["label"], _counted(batch)
    each = [cross_entropy(score.float(), label, counted) / counted.sum().clamp(min=1) for score in scores]
    return [each[0], torch.stack(each[1:]).sum()] if heads else each


@torch.no_grad()
def features_of(
    model: MultimodalClassifier, batches: Sequence[Batch]
) -> tuple[dict[str, Float[np.ndarray, "R W"]], np.ndarray, dict[str, np.ndarray]]:
    """Of all rows that have a class: each encoder's mean token, the class numbers [R], and each score's choice [R]."""
    features: dict[str, list[np.ndarray]] = {name: [] for name in model.modalities}
    choices: dict[str, list[np.ndarray]] = {name: [] for name in ("multimodal", *model.modalities)}
    labels = []
    for batch in batches:
        rows = _counted(batch).cpu().numpy()
        tokens, masks = model.encode(batch)
        scores = {"multimodal": model.fused(tokens, masks)}
        for name in model.modalities:
            features[name].append(mean_of_tokens(tokens[name], masks[name]).float().cpu().numpy()[rows])
            scores[name] = model.alone(name, tokens, masks)
        for name, score in scores.items():
            choices[name].append(score.argmax(1).cpu().numpy()[rows])
        labels.append(batch.fields["label"].cpu().numpy()[rows])
    joined = {name: np.concatenate(parts) for name, parts in features.items()}
    return joined, np.concatenate(labels), {name: np.concatenate(parts) for name, parts in choices.items()}


def _gradients(model: MultimodalClassifier, batches: Sequence[Batch], *, heads: bool) -> dict[str, Any]:
    encoders = Partition.of(model, model.encoders).encoders
    found = gradient_statistics(partial(losses_of, model, heads=heads), encoders, batches)
    names = OBJECTIVES if heads else OBJECTIVES[:1]
    return {name: statistics.as_json(names) for name, statistics in found.items()}


def _flatness(
    model: MultimodalClassifier, batches: Sequence[Batch], where: dict[str, Any], iterations: int
) -> dict[str, Any]:
    heads = set(model.heads.parameters())
    parameters: list[nn.Parameter] = [p for p in model.parameters() if p.requires_grad and p not in heads]
    rows = sum(int(_counted(batch).sum()) for batch in batches)
    parts = [partial(_share, model, batch, rows) for batch in batches]
    around = loss_along_directions(parts, parameters, **where)
    top = top_eigenvalue(parts, parameters, iterations=iterations, seed=where["seed"])
    return {"rows": rows, **around.as_json(), "eigenvalue": top.as_json()}


def _share(model: MultimodalClassifier, batch: Batch, rows: int) -> Tensor:
    """A mini-batch's part of the mean of the multimodal loss over `rows`."""
    tokens, masks = model.encode(batch)
    return cross_entropy(model.fused(tokens, masks).float(), batch.fields["label"], _counted(batch)) / max(rows, 1)


def _accuracy(
    model: MultimodalClassifier, batches: Sequence[Batch], held_out: Sequence[Batch], *, heads: bool, seed: int
) -> dict[str, Any]:
    fitting, judging = (batches, held_out) if held_out else _divided(batches)
    train, label, _ = features_of(model, fitting)
    test, wanted, choices = features_of(model, judging)
    if not len(label) or not len(wanted):
        raise CorpusError("no row has a class that the model knows: there is nothing to judge it by")
    found: dict[str, Any] = {"rows": len(wanted), "fitted_on": len(label), "chance": 1 / model.classes}
    right = {name: float((choice == wanted).mean()) for name, choice in choices.items()}
    found["multimodal"] = {"head": right["multimodal"]}
    for name in model.modalities:
        middle, scale = train[name].mean(0), train[name].std(0) + 1e-6
        ready = [(x[name] - middle) / scale for x in (train, test)]
        probe = linear_probe(
            ready[0], [*map(str, label)], ready[1], [*map(str, wanted)], seed=seed, strengths=STRENGTHS
        )
        found[name] = {"head": right[name] if heads else None, "probe": probe.accuracy, "strength": probe.strength}
    return found


def _divided(batches: Sequence[Batch]) -> tuple[list[Batch], list[Batch]]:
    judging = [batch for i, batch in enumerate(batches) if i % KEPT_BACK == KEPT_BACK - 1] or [batches[-1]]
    return [batch for batch in batches if not any(batch is one for one in judging)], judging


def _counted(batch: Batch) -> Tensor:
    return batch.valid & (batch.fields["label"] >= 0)


@contextmanager
def _still(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside, every module as it was afterwards."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
