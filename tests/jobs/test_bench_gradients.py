"""The benchmark's opponent is the published recipe: its gradients equal those of the per-tensor weighting."""

import pytest
import torch
from torch import nn

from jobs.bench.two_modalities import MODALITIES, TwoModalities, build_step, published_step, random_rows
from xmodal.gradients import ParameterSpace, weighting


def tiny():
    def encoder():
        return nn.Sequential(nn.Flatten(), nn.Linear(48, 8), nn.Tanh(), nn.Linear(8, 6))

    return TwoModalities(encoder, 6).double()


def rows_with(seed):
    return {name: x.double() if x.is_floating_point() else x for name, x in random_rows(4, 4, seed=seed).items()}


def test_the_published_recipe_equals_the_per_tensor_weighting():
    conflicts = []
    for seed in range(12):
        theirs, ours, rows = tiny(), tiny(), rows_with(seed)
        published_step(theirs, *theirs(rows))
        space = ParameterSpace(ours.partition, weighting("mmpareto_per_tensor", gamma=1.5))
        joint, unimodal = ours(rows)
        space.add([joint, torch.stack(unimodal).sum()])
        metrics = space.decide().metrics()
        conflicts += [metrics[f"{name}/conflict"].item() for name in MODALITIES]
        for p, q in zip(theirs.parameters(), ours.parameters(), strict=True):
            torch.testing.assert_close(q.grad, p.grad, rtol=1e-6, atol=1e-12)
    assert 0 < sum(conflicts) < len(conflicts)


@pytest.mark.parametrize("method", ["uniform", "features", "parameters", "published"])
@pytest.mark.parametrize("keep", [False, True])
def test_steps_of_every_method_lower_the_losses(method, keep):
    model, rows = tiny(), rows_with(0)
    step = build_step(method, model, keep=keep)

    def loss():
        joint, unimodal = model(rows)
        return torch.stack([joint, *unimodal]).sum().item()

    before = loss()
    for _ in range(20):
        step(rows)
    assert loss() < before
