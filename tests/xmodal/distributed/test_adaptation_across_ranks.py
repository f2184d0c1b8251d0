"""Adaptation moves all ranks alike: as one rank would, without target rows somewhere, in chunks, and after a resume."""

import pytest
import torch

from support.adaptation_batches import STEPS, both_domains, share_of, state_of, weights
from support.gloo_ranks import run
from xmodal.distributed.ranks import rank_in, world_size
from xmodal.training.engine.state_io import load_state, state_plain, state_tensors
from xmodal.training.engine.step import train_step
from xmodal.training.objectives.unlabelled import Unlabelled

ARMS = [
    ("dann", ("image",), {}),
    ("dann", ("image", "text"), {"smoothing": 0.1, "penalty": 0.5, "critic_steps": 3}),
    ("dann", ("joint",), {}),
    ("mmd", ("image", "text"), {}),
    ("coral", ("joint",), {"strength": 100.0}),
    ("cdan", ("image", "text"), {"critic_steps": 2, "penalty": 0.1}),
    ("mcc", ("image",), {}),
    ("bnm", ("image",), {"strength": 0.3}),
    ("dann", ("image",), {"unlabelled": Unlabelled(consistency=0.5, pseudo_pairs=0.5, threshold=-1.0)}),
    ("dann", ("text",), {"unlabelled": Unlabelled(pseudo_pairs=0.5, threshold=-1.0)}),
    ("dann", ("image",), {"label": 2.0, "rule": "mmpareto", "unlabelled": Unlabelled(consistency=0.5)}),
]
FEW = [ARMS[1], ARMS[3], ARMS[-3], ARMS[-1]]


def batch_of(step: int, places: tuple[str, ...], masked: tuple[int, ...] = ()):
    """Rows 8 to 15 are the target's pictures: those of rank 1 are 12 to 15."""
    texts = 0 if places == ("image",) else 8
    return both_domains(texts=texts, views=True, seed=step, shift=60, masked=(step % 16, 9, *masked))


def five_steps(arms=ARMS, masked=(), rows_per_forward=None) -> list[dict[str, torch.Tensor]]:
    """The weights after five steps of every arm, and the last metrics as weights too."""
    found = []
    for method, places, options in arms:
        state = state_of(method, places, rows_per_forward=rows_per_forward, **options)
        for step in range(5):
            metrics = train_step(state, share_of(batch_of(step, places, masked), rank_in(), world_size()))
        found.append(weights(state) | {f"metric/{name}": torch.tensor(value) for name, value in metrics.items()})
    return found


def assert_same(found, expected, tolerance=1e-6):
    for mine, theirs in zip(found, expected, strict=True):
        assert mine.keys() == theirs.keys()
        for name, x in theirs.items():
            torch.testing.assert_close(
                mine[name], x, rtol=tolerance, atol=1e-9, msg=lambda told, name=name: name + told
            )


@pytest.mark.parametrize(("world", "arms"), [(2, ARMS), (4, FEW)])
def test_any_number_of_ranks_ends_with_the_same_weights_and_metrics(world: int, arms: list) -> None:
    alone = five_steps(arms)
    for of_rank in run(five_steps, world, arms):
        assert_same(of_rank, alone)


def test_a_rank_without_target_rows_takes_part_in_every_step() -> None:
    masked = (12, 13, 14, 15)
    alone = five_steps(FEW, masked)
    for of_rank in run(five_steps, 2, FEW, masked, timeout_s=60):
        assert_same(of_rank, alone)


@pytest.mark.parametrize("rows", [3, 8])
def test_chunks_give_the_same_steps_also_where_one_lacks_a_modality(rows: int) -> None:
    """On two ranks: chunks of 3 cut across roles, chunks of 8 hold pictures of the target alone."""
    whole = five_steps(FEW)
    assert_same(five_steps(FEW, rows_per_forward=rows), whole)
    for of_rank in run(five_steps, 2, FEW, (), rows):
        assert_same(of_rank, whole)


def resumed_trace() -> bool:
    options = {"schedule": "ramp", "dropout": 0.3, "critic_steps": 2, "critic_gain": 5.0, "dtype": torch.float32}
    places = ("image", "text")

    def steps(state, numbers):
        batches = (share_of(batch_of(n, places), rank_in(), world_size()) for n in numbers)
        return [train_step(state, batch) for batch in batches]

    whole, first = (state_of("dann", places, **options) for _ in range(2))
    expected = steps(whole, range(STEPS))
    got = steps(first, range(STEPS // 2))
    again = state_of("dann", places, **options)
    again.objective.load_state_dict(weights(first))
    load_state(again, {name: x.clone() for name, x in state_tensors(first).items()}, state_plain(first))
    got += steps(again, range(STEPS // 2, STEPS))
    strengths = [metrics["domain/strength"] for metrics in got]
    assert strengths == sorted(set(strengths)) and strengths[0] == 0 and strengths[-1] > 0.99
    same = [torch.equal(x, weights(again)[name]) for name, x in weights(whole).items()]
    return got == expected and all(same)


@pytest.mark.parametrize("world", [1, 2])
def test_n_steps_and_n_more_after_a_resume_are_two_n_steps_with_the_same_strengths(world: int) -> None:
    assert all([resumed_trace()] if world == 1 else run(resumed_trace, world))
