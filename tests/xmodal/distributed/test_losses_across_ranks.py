"""DDP's gradients of the contrastive losses equal those of one float64 process, for any number of ranks."""

import math

import pytest
import torch

from support import loss_on_ranks
from support.gloo_ranks import run
from support.loss_on_ranks import LinearPair
from support.naive_losses import naive_info_nce, naive_sigmoid

ROWS = 12  # over all ranks: 12, 6 or 3 a rank
BOTH = pytest.mark.parametrize("kind", ["info_nce", "sigmoid"])
WORLDS = pytest.mark.parametrize("world", [1, 2, 4])


def model_case(seed=0):
    random = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=random, dtype=torch.float64)

    scalars = {"log_scale": torch.tensor(1.7), "bias": torch.tensor(-1.1)}
    towers = {"image_tower": draw(6, 5), "text_tower": draw(4, 5)}
    rows = {"image": draw(ROWS, 6), "text": draw(ROWS, 4)}
    return rows | towers | {name: x.double() for name, x in scalars.items()}


def masks(name):
    valid = torch.ones(ROWS, dtype=torch.bool)
    ids = torch.stack([torch.arange(ROWS) % 5, torch.arange(ROWS) // 2], 1)
    ids[1::4, 0] = -1
    if name == "one rank masked":
        valid[3:6] = False  # all of rank 1 of 4, and unequal counts at world size 2
        valid[10] = False
    if name == "all masked":
        valid[:] = False
    return {
        "none": {},
        "one rank masked": {"valid": valid},
        "all masked": {"valid": valid},
        "ids": {"ids": ids},
        "masked, with ids": {"valid": torch.arange(ROWS) % 4 != 2, "ids": ids},
    }[name]


def reference(case, kind):
    """Return value and gradients of the textbook loss of all rows, in this process."""
    model = LinearPair(case)
    u, v = model(case["image"], case["text"])
    own_masks = {name: case[name] for name in ("valid", "ids") if name in case}
    if kind == "info_nce":
        loss = naive_info_nce(u, v, model.log_scale, **own_masks) + 0 * model.bias
    else:
        loss = naive_sigmoid(u, v, model.log_scale, model.bias, **own_masks)
    loss.backward()
    return {"loss": loss.detach()} | {name: p.grad for name, p in model.named_parameters()}


@BOTH
@WORLDS
@pytest.mark.parametrize("mask", ["none", "one rank masked", "all masked", "ids", "masked, with ids"])
def test_every_parameters_gradient_is_that_of_the_global_mean(kind, world, mask):
    case = model_case() | masks(mask)
    expected = reference(case, kind)
    answers = run(loss_on_ranks.train_once, world, case, kind, 4)
    for answer in answers:
        for name, value in expected.items():
            torch.testing.assert_close(answer[name], value, rtol=1e-10, atol=1e-12, msg=lambda m, n=name: f"{n}: {m}")
    shares = torch.stack([answer["share"] for answer in answers])
    torch.testing.assert_close(shares.mean(), expected["loss"])


@BOTH
@WORLDS
def test_feature_gradients_are_those_of_the_sum_of_the_shares(kind, world):
    case = model_case() | {"valid": torch.arange(ROWS) % 5 != 1}
    case["text"] = torch.cat([case["text"], case["text"][:, :2]], 1)  # the features themselves: equal widths
    u, v = (case[name].clone().requires_grad_() for name in ("image", "text"))
    naive = naive_info_nce if kind == "info_nce" else naive_sigmoid
    scalars = [case["log_scale"], case["bias"]][: 1 if kind == "info_nce" else 2]
    (world * naive(u, v, *scalars, valid=case["valid"])).backward()
    answers = run(loss_on_ranks.feature_gradients, world, case, kind, 5)
    torch.testing.assert_close(torch.cat([answer["u"] for answer in answers]), u.grad)
    torch.testing.assert_close(torch.cat([answer["v"] for answer in answers]), v.grad)


@BOTH
def test_float32_ranks_agree_with_float64_at_a_scale_of_100(kind):
    case = model_case() | {"log_scale": torch.tensor(math.log(100.0), dtype=torch.float64)}
    expected = reference(case, kind)
    answers = run(loss_on_ranks.train_once, 4, {name: x.float() for name, x in case.items()}, kind, 3)
    for name, value in expected.items():
        tolerance = 1e-4 * (1 + value.abs().max().item())
        torch.testing.assert_close(answers[3][name].double(), value, rtol=1e-4, atol=tolerance)


def test_a_group_limits_the_loss_to_its_ranks():
    case = model_case()
    case["text"] = case["image"] + 1
    shares = run(loss_on_ranks.single_rank_group_loss, 2, case)
    for rows, share in zip((slice(0, 6), slice(6, 12)), shares, strict=True):
        torch.testing.assert_close(share, naive_info_nce(case["image"][rows], case["text"][rows], case["log_scale"]))


def test_unequal_rows_raise_the_same_error_on_all_ranks():
    messages = run(loss_on_ranks.unequal_rows, 3, [2, 2, 3])
    assert len(set(messages)) == 1
    assert "equally many rows" in messages[0] and "rank 2: 3 x 4" in messages[0]
