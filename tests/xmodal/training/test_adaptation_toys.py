"""Adaptation on Gaussians: it closes a shift, and it must lose accuracy if the class frequencies differ."""

import functools

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from xmodal.losses.discrepancy import mmd
from xmodal.losses.domain_critic import DomainCritic, adversarial_loss
from xmodal.losses.gradient_reversal import dann_ramp, reverse_gradient

SEEDS, ROWS, STEPS = range(5), 128, 300
Labelled = tuple[torch.Tensor, torch.Tensor]


def gaussians(rng: np.random.Generator, *, positive: float = 0.5, offset: float = 0.0, aside: float = 0.0) -> Labelled:
    """Return rows of two classes that differ along two axes.

    A domain can be shifted along the second axis (`offset`), or along a third one that does not depend on the class
    (`aside`), and can have more rows of one class (`positive`).
    """
    label = (rng.random(ROWS) < positive).astype(np.int64)
    points = rng.normal(size=(ROWS, 3)) * 0.7 + (2 * label[:, None] - 1) * np.array([1.3, 1.3, 0.0])
    return torch.from_numpy(points + np.array([0.0, offset, aside])).float(), torch.from_numpy(label)


def target_accuracy(seed: int, strength: float, *, method: str = "dann", **target: float) -> float:
    """Train on a labelled source and an unlabelled target; return the accuracy on other rows of the target."""
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    (x, label), (unlabelled, _), (test_x, test_label) = (
        gaussians(rng),
        gaussians(rng, **target),
        gaussians(rng, **target),
    )
    encoder = nn.Sequential(nn.Linear(3, 16), nn.ReLU(), nn.Linear(16, 8))
    head, critic = nn.Linear(8, 2), DomainCritic(8, (32,))
    optimizer = torch.optim.Adam([*encoder.parameters(), *head.parameters(), *critic.parameters()], lr=5e-3)
    valid = torch.ones(ROWS, dtype=torch.bool)
    for step in range(STEPS):
        source, other, weight = encoder(x), encoder(unlabelled), strength * dann_ramp(step / STEPS)
        if strength == 0:
            domain = torch.zeros(())
        elif method == "dann":
            logits = critic(reverse_gradient(torch.cat([source, other]), weight))
            domain = adversarial_loss(logits[:ROWS], logits[ROWS:], valid, valid)
        else:
            domain = weight * mmd(source, other, valid, valid)
        optimizer.zero_grad()
        (F.cross_entropy(head(source), label) + domain).backward()
        optimizer.step()
    with torch.no_grad():
        return float((head(encoder(test_x)).argmax(1) == test_label).float().mean())


@functools.cache
def accuracies(strength: float, seeds: range = SEEDS, **options: float | str) -> np.ndarray:
    return np.array([target_accuracy(seed, strength, **options) for seed in seeds])


@pytest.mark.parametrize(("method", "strength", "seeds"), [("dann", 2.0, SEEDS), ("mmd", 3.0, range(3))])
def test_adaptation_closes_a_shift_on_all_seeds(method, strength, seeds):
    plain = accuracies(0.0, offset=-4.0)[: len(seeds)]
    adapted = accuracies(strength, seeds, method=method, offset=-4.0)
    assert plain.mean() < 0.75
    assert adapted.mean() > 0.85 and (adapted - plain).min() > 0.1


def test_adaptation_loses_accuracy_if_class_frequencies_differ():
    """Equal features of domains with unequal class frequencies force errors (Zhao et al. 2019, theorem 4.3).

    The same shift does no harm if both classes are as frequent in the target as in the source.
    """
    harmless = accuracies(2.0, aside=2.0)
    plain, adapted = accuracies(0.0, aside=2.0, positive=0.1), accuracies(2.0, aside=2.0, positive=0.1)
    assert harmless.mean() > 0.9
    assert adapted.mean() < plain.mean() - 0.1
