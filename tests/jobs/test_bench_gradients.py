"""The benchmark's opponent is the published recipe: it leaves the gradients of this library's per-tensor weighting."""

import pytest
import torch
from torch import nn

from jobs.bench.two_modalities import MODALITIES, TwoModalities, published, rows_of, stepper
from xmodal.gradients import ParameterSpace, weighting


def tiny():
    def encoder():
        return nn.Sequential(nn.Flatten(), nn.Linear(48, 8), nn.Tanh(), nn.Linear(8, 6))

    return TwoModalities(encoder, 6).double()


def rows_with(seed):
    return {name: x.double() if x.is_floating_point() else x for name, x in rows_of(4, 4, seed=seed).items()}


def test_the_published_recipe_is_the_per_tensor_weighting():
    conflicts = []
    for seed in range(12):
        theirs, ours, rows = tiny(), tiny(), rows_with(seed)
        published(theirs, *theirs(rows))
        space = ParameterSpace(ours.partition, weighting("mmpareto_per_tensor", gamma=1.5))
        joint, alone = ours(rows)
        space.add([joint, torch.stack(alone).sum()])
        figures = space.decide().figures()
        conflicts += [figures[f"{name}/conflict"].item() for name in MODALITIES]
        for p, q in zip(theirs.parameters(), ours.parameters(), strict=True):
            torch.testing.assert_close(q.grad, p.grad, rtol=1e-6, atol=1e-12)
    assert 0 < sum(conflicts) < len(conflicts)


@pytest.mark.parametrize("method", ["uniform", "features", "parameters", "published"])
@pytest.mark.parametrize("keep", [False, True])
def test_every_method_takes_steps_that_lower_the_losses(method, keep):
    model, rows = tiny(), rows_with(0)
    step = stepper(method, model, keep=keep)

    def loss():
        joint, alone = model(rows)
        return torch.stack([joint, *alone]).sum().item()

    before = loss()
    for _ in range(20):
        step(rows)
    assert loss() < before
