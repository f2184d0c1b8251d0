"""One theorem: a decision, and the weights after it, are those of one process with the whole batch; and the guard."""

from functools import cache

import pytest
import torch

from support import gradients_on_ranks as there
from support.gloo_ranks import run

SPACES = pytest.mark.parametrize("space", ["features", "parameters"])


def apart(found, expected):
    """Relative to the weights' own size: |found - expected| / |expected|, over all of them."""
    names = [n for n in expected if n not in ("conflicts", "decided")]
    one, other = (torch.cat([x[n].double().flatten() for n in names]) for x in (found, expected))
    return ((one - other).norm() / other.norm()).item()


@cache
def trained(world):
    """By case, what every rank found."""
    return dict(zip(there.CASES, zip(*run(there.train_all, world), strict=True), strict=True))


@pytest.mark.parametrize("world", [2, 4])
@pytest.mark.parametrize("case", there.CASES, ids=str)
def test_weights_after_five_steps_do_not_depend_on_the_number_of_ranks(case, world):
    one, ranks = trained(1)[case][0], trained(world)[case]
    assert 0 < one["conflicts"].mean() < 1  # both branches were taken
    for found in ranks:
        assert torch.equal(found["decided"], ranks[0]["decided"])
        assert apart(found, ranks[0]) == 0
    assert torch.equal(ranks[0]["conflicts"], one["conflicts"])
    assert apart(ranks[0], one) <= (1e-6 if case[-1] == torch.float32 else 1e-12)


def test_parameter_space_may_share_parameters_with_ddp():
    case = ("parameters", "mmpareto", "sgd", torch.float64)
    bare, wrapped = trained(2)[case][0], run(there.train, 2, *case, True)[0]
    torch.testing.assert_close(wrapped, bare, rtol=0, atol=0)


@SPACES
@pytest.mark.parametrize("missing", [None, 1])
def test_extra_objectives_and_a_modality_absent_on_one_rank(space, missing):
    arguments = (space, "mmpareto", -0.3, missing)
    one, four = run(there.decide_once, 1, *arguments)[0], run(there.decide_once, 4, *arguments)
    for found in four:
        torch.testing.assert_close(found, one, rtol=1e-9, atol=1e-12)


def test_an_audit_disturbs_neither_ddp_nor_the_ranks_agreement():
    one, two = run(there.audit_under_ddp, 1)[0], run(there.audit_under_ddp, 2)
    for found in two:
        torch.testing.assert_close(found, one, rtol=1e-8, atol=1e-7)
    plain = run(there.decide_once, 2, "features", "mmpareto", 0.0, None)[0]
    for name, gradient in two[0].items():
        if not name.startswith("audit/"):
            torch.testing.assert_close(gradient, plain[name])


def test_the_guard_finds_gradients_that_were_never_synchronised_and_no_others():
    for messages in run(there.forgotten, 2):
        assert messages.pop("synchronised") == "passed"
        lacking = messages.pop("one rank has none")
        assert "gradients of 1 of 18 parameters differ between ranks, first 'fusion.bias'" in lacking
        for message in messages.values():
            assert message.startswith("step 7: the gradients of ")
            assert "were never averaged: run one backward through DistributedDataParallel" in message


def test_buffers_follow_the_first_rank():
    assert run(there.buffers_follow, 2) == [[1.0, 1.0], [1.0, 1.0]]
