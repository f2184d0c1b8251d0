"""A trained model and rows in; accuracies of its heads, and of a linear reader of its encoders, out."""

import numpy as np
import torch

from jobs.reproduce.learner import Subject
from jobs.reproduce.row_batches import Rows
from xmodal.metrics.linear_probe import linear_probe

PART = 500  # rows scored together
PROBE_ROWS = 2_000  # of the training rows that the probe is fitted on
STRENGTHS = (10.0, 1000.0)


@torch.no_grad()
def accuracies(subject: Subject, rows: Rows) -> dict[str, float]:
    """Share of right answers of each score; with several tasks `average`, the mean over those that are trained."""
    model = subject.objective
    model.eval()
    hits: dict[str, int] = {}
    for batch in rows.parts(PART):
        for name, score in subject.scores(batch).items():
            right = (score.argmax(1) == batch.fields[subject.labels[name]]).sum().item()
            hits[name] = hits.get(name, 0) + int(right)
    model.train()
    found = {name: count / len(rows) for name, count in hits.items()}
    if "multimodal" not in found and len(found) == len(subject.labels):
        found["average"] = sum(found.values()) / len(found)
    return found


def probes(subject: Subject, train: Rows, test: Rows, *, seed: int) -> dict[str, float]:
    """Test accuracy of a logistic regression on what each linear head reads, fitted on the first training rows.

    It tells what an encoder knows where the heads were never trained (joint), or trained beside others.
    """
    first = Rows({name: x[:PROBE_ROWS] for name, x in train.fields.items()}, train.view)
    known, unknown = _features(subject, first), _features(subject, test)
    found = {}
    for name in known:
        labels = [rows.fields[subject.labels[name]].numpy().astype(str).tolist() for rows in (first, test)]
        probe = linear_probe(known[name], labels[0], unknown[name], labels[1], seed=seed, strengths=STRENGTHS)
        found[name] = probe.accuracy
    return found


@torch.no_grad()
def _features(subject: Subject, rows: Rows) -> dict[str, np.ndarray]:
    """Unit rows, as the probe's penalties expect them."""
    subject.objective.eval()
    parts = [subject.features(batch) for batch in rows.parts(PART)]
    subject.objective.train()
    joined = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    return {name: torch.nn.functional.normalize(x, dim=1).numpy() for name, x in joined.items()}
