"""Domain losses do not depend on the number of ranks, nor on the distribution of rows and masks over them."""

import pytest
import torch

from support.adaptation_on_ranks import IN, KINDS, train
from support.gloo_ranks import run

ROWS = {"source": 12, "target": 8}
EVEN = {world: {name: [rows // world] * world for name, rows in ROWS.items()} for world in (1, 2, 4)}


def case(dtype=torch.float64, *, target_from: int = 0):
    """Return random rows; a few are masked, and so are all target rows before `target_from`."""
    draw = torch.Generator().manual_seed(0)
    rows = {name: torch.randn(count, IN, generator=draw, dtype=dtype) for name, count in ROWS.items()}
    rows["target"] += 0.7
    valid = {f"valid_{name}": torch.ones(count, dtype=torch.bool) for name, count in ROWS.items()}
    valid["valid_source"][[1, 6, 7]] = False
    valid["valid_target"][:target_from] = False
    valid["valid_target"][5] = False
    return rows | valid


def check(answers, expected, **tolerance):
    for answer in answers:
        for name, value in expected.items():
            torch.testing.assert_close(answer[name], value, **tolerance, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("kind", KINDS)
def test_any_number_of_ranks_trains_the_same_weights(kind):
    [expected] = run(train, 1, case(), kind, EVEN[1], 3)
    assert expected["losses"].abs().min() > 0
    for world in (2, 4):
        check(run(train, world, case(), kind, EVEN[world], 3), expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("kind", ["dann", "mmd", "cdan"])
def test_five_steps_in_float32_agree_within_1e_minus_6(kind):
    [expected] = run(train, 1, case(torch.float32), kind, EVEN[1], 5)
    for answer in run(train, 2, case(torch.float32), kind, EVEN[2], 5):
        weights = [name for name in expected if name != "losses"]
        difference, length = (
            torch.cat([x.flatten() for x in parts]).double().norm()
            for parts in ([answer[n] - expected[n] for n in weights], [expected[n] for n in weights])
        )
        assert difference / length <= 1e-6
        torch.testing.assert_close(answer["losses"], expected["losses"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_a_rank_without_target_rows_does_not_change_the_training(kind):
    """Masked rows on one rank, and no rows at all there, both give the weights of one rank with the other rows."""
    without = case(target_from=4)
    [expected] = run(train, 1, without, kind, EVEN[1], 3)
    check(run(train, 2, without, kind, EVEN[2], 3, timeout_s=60), expected, rtol=1e-9, atol=1e-11)
    shortened = without | {name: without[name][4:] for name in ("target", "valid_target")}
    counts = {"source": [6, 6], "target": [0, 4]}
    check(run(train, 2, shortened, kind, counts, 3, timeout_s=60), expected, rtol=1e-9, atol=1e-11)
