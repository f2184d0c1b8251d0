"""Diagnosis of a trained multimodal classifier: gradients at its encoders, flatness of its minimum, unimodal accuracy.

    diagnosis = diagnose(model, batches, held_out=others)       # plain values for JSON
    diagnosis["gradients"]["audio"]["unimodal"]["mean_norm"], diagnosis["flatness"]["eigenvalue"]["value"],
    diagnosis["accuracy"]["audio"]["probe"]

Plain PyTorch, one process; any number of modalities.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from xmodal.batch import Batch
from xmodal.encoders.eval_mode import eval_mode
from xmodal.encoders.fusion import mean_of_tokens
from xmodal.encoders.multimodal_classifier import MultimodalClassifier
from xmodal.errors import CorpusError
from xmodal.gradients import Partition
from xmodal.gradients.gradient_statistics import gradient_statistics
from xmodal.metrics.flatness import loss_along_directions, top_eigenvalue
from xmodal.metrics.linear_probe import linear_probe
from xmodal.training.objectives.label_predictor import sum_cross_entropy

OBJECTIVES = ("multimodal", "unimodal")
PROBE_STRENGTHS = tuple(10.0**power for power in (-4, -3, -2, -1, 0, 1))  # scikit-learn's C, for features of variance 1
HELD_OUT_EVERY = 4  # without held-out batches every fourth batch is used to test the probes


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
    notify: Callable[[str], None] = lambda message: None,
) -> dict[str, Any]:
    """Run the three diagnoses of a model in evaluation mode; weights, modes and `.grad` do not change.

    `gradients`: of the multimodal and each modality's own loss at its encoder, over `batches` (of equal size; the first
    `gradient_batches`). `flatness`: of the multimodal loss in all parameters that it depends on, over the first
    `flat_batches`. `accuracy`: of the fusion, of each head and of a linear probe on each encoder's features, fitted on
    `batches`, all tested on `held_out`; without those on every fourth batch, which the probes are then not fitted on.
    `heads` False: they were never trained (the joint loss alone); what needs them is left out, or None.
    """
    with eval_mode(model):
        first_batches = batches[:gradient_batches]
        notify(f"gradients of {len(first_batches)} mini-batches")
        gradients = _gradients(model, first_batches, heads=heads)
        notify(f"the loss around the minimum, on {min(flat_batches, len(batches))} mini-batches")
        flat = list(batches[:flat_batches])
        options: dict[str, Any] = {"directions": directions, "radius": radius, "points": points, "seed": seed}
        flatness = _flatness(model, flat, options, iterations)
        notify("linear probes on the features of each encoder")
        accuracy = _accuracy(model, batches, held_out, heads=heads, seed=seed)
    return {"gradients": gradients, "flatness": flatness, "accuracy": accuracy}


def objective_losses(model: MultimodalClassifier, batch: Batch, *, heads: bool = True) -> list[Float[Tensor, ""]]:
    """Return the multimodal loss and, with `heads`, the sum of the unimodal ones: means over rows with a class."""
    tokens, masks = model.encode(batch)
    scores = [model.multimodal_scores(tokens, masks)]
    if heads:
        scores += [model.unimodal_scores(name, tokens, masks) for name in model.modalities]
    label, labelled = batch.fields["label"], _labelled_rows(batch)
    losses = [sum_cross_entropy(score.float(), label, labelled) / labelled.sum().clamp(min=1) for score in scores]
    return [losses[0], torch.stack(losses[1:]).sum()] if heads else losses


@torch.no_grad()
def collect_features(
    model: MultimodalClassifier, batches: Sequence[Batch]
) -> tuple[dict[str, Float[np.ndarray, "R W"]], np.ndarray, dict[str, np.ndarray]]:
    """Return each encoder's mean token, the class numbers [R] and each score's choice [R], of all rows with a class."""
    features: dict[str, list[np.ndarray]] = {name: [] for name in model.modalities}
    choices: dict[str, list[np.ndarray]] = {name: [] for name in ("multimodal", *model.modalities)}
    labels = []
    for batch in batches:
        rows = _labelled_rows(batch).cpu().numpy()
        tokens, masks = model.encode(batch)
        scores = {"multimodal": model.multimodal_scores(tokens, masks)}
        for name in model.modalities:
            features[name].append(mean_of_tokens(tokens[name], masks[name]).float().cpu().numpy()[rows])
            scores[name] = model.unimodal_scores(name, tokens, masks)
        for name, score in scores.items():
            choices[name].append(score.argmax(1).cpu().numpy()[rows])
        labels.append(batch.fields["label"].cpu().numpy()[rows])
    all_features = {name: np.concatenate(parts) for name, parts in features.items()}
    return all_features, np.concatenate(labels), {name: np.concatenate(parts) for name, parts in choices.items()}


def _gradients(model: MultimodalClassifier, batches: Sequence[Batch], *, heads: bool) -> dict[str, Any]:
    """Return the gradient statistics of every encoder as plain values."""
    encoders = Partition.from_module(model, model.encoders).encoders
    statistics_by_encoder = gradient_statistics(partial(objective_losses, model, heads=heads), encoders, batches)
    names = OBJECTIVES if heads else OBJECTIVES[:1]
    return {name: statistics.to_json(names) for name, statistics in statistics_by_encoder.items()}


def _flatness(
    model: MultimodalClassifier, batches: Sequence[Batch], options: dict[str, Any], iterations: int
) -> dict[str, Any]:
    """Return the loss along random directions and the top eigenvalue as plain values."""
    heads = set(model.heads.parameters())
    parameters: list[nn.Parameter] = [p for p in model.parameters() if p.requires_grad and p not in heads]
    rows = sum(int(_labelled_rows(batch).sum()) for batch in batches)
    loss_parts = [partial(_loss_share, model, batch, rows) for batch in batches]
    landscape = loss_along_directions(loss_parts, parameters, **options)
    top = top_eigenvalue(loss_parts, parameters, iterations=iterations, seed=options["seed"])
    return {"rows": rows, **landscape.to_json(), "eigenvalue": top.to_json()}


def _loss_share(model: MultimodalClassifier, batch: Batch, rows: int) -> Tensor:
    """Return a mini-batch's part of the mean of the multimodal loss over `rows`."""
    tokens, masks = model.encode(batch)
    return sum_cross_entropy(
        model.multimodal_scores(tokens, masks).float(), batch.fields["label"], _labelled_rows(batch)
    ) / max(rows, 1)


def _accuracy(
    model: MultimodalClassifier, batches: Sequence[Batch], held_out: Sequence[Batch], *, heads: bool, seed: int
) -> dict[str, object]:
    """Return the accuracies of the fusion, the heads and the probes."""
    train_batches, test_batches = (batches, held_out) if held_out else _split_batches(batches)
    train, train_label, _ = collect_features(model, train_batches)
    test, test_label, choices = collect_features(model, test_batches)
    if not len(train_label) or not len(test_label):
        raise CorpusError("no row has a class of this model: there is nothing to test it on")
    accuracy: dict[str, object] = {"rows": len(test_label), "fitted_on": len(train_label), "chance": 1 / model.classes}
    head_accuracy = {name: float((choice == test_label).mean()) for name, choice in choices.items()}
    accuracy["multimodal"] = {"head": head_accuracy["multimodal"]}
    for name in model.modalities:
        mean, scale = train[name].mean(0), train[name].std(0) + 1e-6
        standardised = [(x[name] - mean) / scale for x in (train, test)]
        probe = linear_probe(
            standardised[0],
            [*map(str, train_label)],
            standardised[1],
            [*map(str, test_label)],
            seed=seed,
            strengths=PROBE_STRENGTHS,
        )
        accuracy[name] = {
            "head": head_accuracy[name] if heads else None,
            "probe": probe.accuracy,
            "strength": probe.strength,
        }
    return accuracy


def _split_batches(batches: Sequence[Batch]) -> tuple[list[Batch], list[Batch]]:
    """Split batches into those to fit probes on and those to test them on."""
    test = [batch for i, batch in enumerate(batches) if i % HELD_OUT_EVERY == HELD_OUT_EVERY - 1] or [batches[-1]]
    return [batch for batch in batches if not any(batch is chosen for chosen in test)], test


def _labelled_rows(batch: Batch) -> Tensor:
    """Return the mask of valid rows that have a class."""
    return batch.valid & (batch.fields["label"] >= 0)
