"""Adaptation steps are equal on any number of ranks, also without target rows, in chunks, and after a resume."""

import pytest
import torch

from support.adaptation_batches import STEPS, both_domains, make_state, rank_rows, weights
from support.gloo_ranks import run
from xmodal.distributed.ranks import current_rank, world_size
from xmodal.training.engine.state_io import load_state, state_json, state_tensors
from xmodal.training.engine.step import train_step
from xmodal.training.objectives.unlabelled import UnlabelledLosses

ARMS = [
    ("dann", ("image",), {}),
    ("dann", ("image", "text"), {"smoothing": 0.1, "penalty": 0.5, "critic_steps": 3}),
    ("dann", ("joint",), {}),
    ("mmd", ("image", "text"), {}),
    ("coral", ("joint",), {"strength": 100.0}),
    ("cdan", ("image", "text"), {"critic_steps": 2, "penalty": 0.1}),
    ("mcc", ("image",), {}),
    ("bnm", ("image",), {"strength": 0.3}),
    ("dann", ("image",), {"unlabelled": UnlabelledLosses(consistency=0.5, pseudo_pairs=0.5, threshold=-1.0)}),
    ("dann", ("text",), {"unlabelled": UnlabelledLosses(pseudo_pairs=0.5, threshold=-1.0)}),
    ("dann", ("image",), {"label": 2.0, "balance": "mmpareto", "unlabelled": UnlabelledLosses(consistency=0.5)}),
]
FEW = [ARMS[1], ARMS[3], ARMS[-3], ARMS[-1]]


def batch_of(step: int, places: tuple[str, ...], masked: tuple[int, ...] = ()):
    """Return the batch of a step; rows 8 to 15 are images of the target, and those of rank 1 of 2 are 12 to 15."""
    texts = 0 if places == ("image",) else 8
    return both_domains(texts=texts, views=True, seed=step, shift=60, masked=(step % 16, 9, *masked))


def five_steps(arms=ARMS, masked=(), rows_per_forward=None) -> list[dict[str, torch.Tensor]]:
    """Return the weights after five steps of every arm, together with the last metrics."""
    results = []
    for method, places, options in arms:
        state = make_state(method, places, rows_per_forward=rows_per_forward, **options)
        for step in range(5):
            metrics = train_step(state, rank_rows(batch_of(step, places, masked), current_rank(), world_size()))
        results.append(weights(state) | {f"metric/{name}": torch.tensor(value) for name, value in metrics.items()})
    return results


def assert_same(actual, expected, tolerance=1e-6):
    for actual_weights, expected_weights in zip(actual, expected, strict=True):
        assert actual_weights.keys() == expected_weights.keys()
        for name, x in expected_weights.items():
            torch.testing.assert_close(
                actual_weights[name], x, rtol=tolerance, atol=1e-9, msg=lambda message, name=name: name + message
            )


@pytest.mark.parametrize(("world", "arms"), [(2, ARMS), (4, FEW)])
def test_any_number_of_ranks_ends_with_the_same_weights_and_metrics(world: int, arms: list) -> None:
    expected = five_steps(arms)
    for actual in run(five_steps, world, arms):
        assert_same(actual, expected)


def test_a_rank_without_target_rows_ends_with_the_same_weights_and_metrics() -> None:
    masked = (12, 13, 14, 15)
    expected = five_steps(FEW, masked)
    for actual in run(five_steps, 2, FEW, masked, timeout_s=60):
        assert_same(actual, expected)


@pytest.mark.parametrize("rows", [3, 8])
def test_chunks_give_the_same_steps_even_if_one_lacks_a_modality(rows: int) -> None:
    """On two ranks chunks of 3 cut across roles, and chunks of 8 hold images of the target only."""
    whole = five_steps(FEW)
    assert_same(five_steps(FEW, rows_per_forward=rows), whole)
    for actual in run(five_steps, 2, FEW, (), rows):
        assert_same(actual, whole)


def resume_is_exact() -> bool:
    """Return whether a run that is resumed half-way has the metrics and weights of an uninterrupted run."""
    options = {"schedule": "ramp", "dropout": 0.3, "critic_steps": 2, "critic_lr_scale": 5.0, "dtype": torch.float32}
    places = ("image", "text")

    def steps(state, numbers):
        batches = (rank_rows(batch_of(n, places), current_rank(), world_size()) for n in numbers)
        return [train_step(state, batch) for batch in batches]

    whole, first = (make_state("dann", places, **options) for _ in range(2))
    expected = steps(whole, range(STEPS))
    actual = steps(first, range(STEPS // 2))
    resumed = make_state("dann", places, **options)
    resumed.objective.load_state_dict(weights(first))
    load_state(resumed, {name: x.clone() for name, x in state_tensors(first).items()}, state_json(first))
    actual += steps(resumed, range(STEPS // 2, STEPS))
    strengths = [metrics["domain/strength"] for metrics in actual]
    assert strengths == sorted(set(strengths)) and strengths[0] == 0 and strengths[-1] > 0.99
    same = [torch.equal(x, weights(resumed)[name]) for name, x in weights(whole).items()]
    return actual == expected and all(same)


@pytest.mark.parametrize("world", [1, 2])
def test_resume_yields_identical_metrics_weights_and_strengths(world: int) -> None:
    assert all([resume_is_exact()] if world == 1 else run(resume_is_exact, world))
