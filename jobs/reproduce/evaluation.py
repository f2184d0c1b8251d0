"""Measure the accuracy of a trained model's heads, and of linear probes on its encoders."""

import numpy as np
import torch

from jobs.reproduce.learner import ExperimentModel
from jobs.reproduce.row_batches import RowDataset
from xmodal.metrics.linear_probe import linear_probe

ROWS_PER_BATCH = 500  # rows scored together
PROBE_ROWS = 2_000  # of the training rows that the probe is fitted on
PENALTIES = (10.0, 1000.0)  # of the probe's weights; the better one is chosen


@torch.no_grad()
def accuracies(model: ExperimentModel, rows: RowDataset) -> dict[str, float]:
    """Return the accuracy of each score; with several tasks also `average`, the mean over those that are trained."""
    objective = model.objective
    objective.eval()
    correct: dict[str, int] = {}
    for batch in rows.ordered_batches(ROWS_PER_BATCH):
        for name, score in model.scores(batch).items():
            row_hits = (score.argmax(1) == batch.fields[model.labels[name]]).sum().item()
            correct[name] = correct.get(name, 0) + int(row_hits)
    objective.train()
    shares = {name: count / len(rows) for name, count in correct.items()}
    if "multimodal" not in shares and len(shares) == len(model.labels):
        shares["average"] = sum(shares.values()) / len(shares)
    return shares


def probe_accuracies(model: ExperimentModel, train: RowDataset, test: RowDataset, *, seed: int) -> dict[str, float]:
    """Return the test accuracy of a logistic regression on the input of each linear head.

    It is fitted on the first 2,000 training rows.
    It tells what an encoder has learned where its head was never trained (joint), or was trained together with others.
    """
    probe_train = RowDataset({name: x[:PROBE_ROWS] for name, x in train.fields.items()}, train.view)
    train_features, test_features = _features(model, probe_train), _features(model, test)
    accuracy_by_name = {}
    for name in train_features:
        labels = [rows.fields[model.labels[name]].numpy().astype(str).tolist() for rows in (probe_train, test)]
        probe = linear_probe(
            train_features[name], labels[0], test_features[name], labels[1], seed=seed, strengths=PENALTIES
        )
        accuracy_by_name[name] = probe.accuracy
    return accuracy_by_name


@torch.no_grad()
def _features(model: ExperimentModel, rows: RowDataset) -> dict[str, np.ndarray]:
    """Return rows of unit length, as the probe's penalties expect them."""
    model.objective.eval()
    batches = [model.features(batch) for batch in rows.ordered_batches(ROWS_PER_BATCH)]
    model.objective.train()
    features = {name: torch.cat([part[name] for part in batches]) for name in batches[0]}
    return {name: torch.nn.functional.normalize(x, dim=1).numpy() for name, x in features.items()}
