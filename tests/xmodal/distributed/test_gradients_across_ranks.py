"""Decisions and the weights after them equal those of one process; missed reductions are detected."""

from functools import cache

import pytest
import torch

from support import gradients_on_ranks as on_ranks
from support.gloo_ranks import run

SPACES = pytest.mark.parametrize("space", ["features", "parameters"])


def relative_difference(actual, expected):
    """Return |actual - expected| / |expected| over all weights together."""
    names = [n for n in expected if n not in ("conflicts", "weights")]
    actual_vector, expected_vector = (torch.cat([x[n].double().flatten() for n in names]) for x in (actual, expected))
    return ((actual_vector - expected_vector).norm() / expected_vector.norm()).item()


@cache
def results(world):
    """Return every rank's result, by case."""
    return dict(zip(on_ranks.CASES, zip(*run(on_ranks.train_all, world), strict=True), strict=True))


@pytest.mark.parametrize("world", [2, 4])
@pytest.mark.parametrize("case", on_ranks.CASES, ids=str)
def test_weights_after_five_steps_do_not_depend_on_the_number_of_ranks(case, world):
    expected, ranks = results(1)[case][0], results(world)[case]
    assert 0 < expected["conflicts"].mean() < 1  # both branches were taken
    for actual in ranks:
        assert torch.equal(actual["weights"], ranks[0]["weights"])
        assert relative_difference(actual, ranks[0]) == 0
    assert torch.equal(ranks[0]["conflicts"], expected["conflicts"])
    assert relative_difference(ranks[0], expected) <= (1e-6 if case[-1] == torch.float32 else 1e-12)


def test_parameter_space_may_share_parameters_with_ddp():
    case = ("parameters", "mmpareto", "sgd", torch.float64)
    bare, wrapped = results(2)[case][0], run(on_ranks.train, 2, *case, True)[0]
    torch.testing.assert_close(wrapped, bare, rtol=0, atol=0)


@SPACES
@pytest.mark.parametrize("missing", [None, 1])
def test_extra_objectives_and_an_absent_modality_give_the_step_of_one_rank(space, missing):
    arguments = (space, "mmpareto", -0.3, missing)
    expected, answers = run(on_ranks.decide_once, 1, *arguments)[0], run(on_ranks.decide_once, 4, *arguments)
    for actual in answers:
        torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-12)


def test_an_audit_under_ddp_does_not_change_the_gradients():
    expected, answers = run(on_ranks.audit_under_ddp, 1)[0], run(on_ranks.audit_under_ddp, 2)
    for actual in answers:
        torch.testing.assert_close(actual, expected, rtol=1e-8, atol=1e-7)
    plain = run(on_ranks.decide_once, 2, "features", "mmpareto", 0.0, None)[0]
    for name, gradient in answers[0].items():
        if not name.startswith("audit/"):
            torch.testing.assert_close(gradient, plain[name])


def test_exactly_the_gradients_that_were_never_averaged_are_reported():
    for messages in run(on_ranks.check_messages, 2):
        assert messages.pop("synchronised") == "passed"
        missing = messages.pop("one rank has none")
        assert "gradients of 1 of 18 parameters differ between ranks, first 'fusion.bias'" in missing
        for message in messages.values():
            assert message.startswith("step 7: the gradients of ")
            assert "were never averaged: run one backward through DistributedDataParallel" in message


def test_buffers_are_broadcast_from_the_first_rank():
    assert run(on_ranks.buffers_after_broadcast, 2) == [[1.0, 1.0], [1.0, 1.0]]
