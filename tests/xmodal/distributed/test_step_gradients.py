"""The gradients of a step are those of the global mean, for every number of ranks and any chunks.

The reference is one process in float64 with full matrices and plain autograd.
"""

import copy

import pytest
import torch

from support.gloo_ranks import run
from support.toy_encoder import ToyEncoder, part_of, toy_batch
from xmodal.batch import Batch
from xmodal.distributed.ranks import current_rank, world_size
from xmodal.training.engine.accumulation import backward
from xmodal.training.engine.schedule import CosineSchedule
from xmodal.training.engine.state import TrainState
from xmodal.training.objectives.contrastive import ContrastiveObjective

SCHEDULE = CosineSchedule(peak=1e-2, total_steps=100, warmup_steps=3)


def state_of(loss: str, rows_per_forward: int | None, *, mask: bool = True, **toy) -> TrainState:
    objective = ContrastiveObjective(ToyEncoder(**toy).double(), loss, mask_duplicates=mask)
    return TrainState.create(objective, schedule=SCHEDULE, seed=3, rows_per_forward=rows_per_forward)


def gradients(state: TrainState) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in state.objective.named_parameters() if p.requires_grad}


def rank_gradients(loss: str) -> dict[tuple[str, int | None], dict[str, torch.Tensor]]:
    """Return gradients by name of the batch and rows per forward; `share` is this rank's share of the loss."""
    results = {}
    for rows_per_forward in (None, 1, 4, 5):
        for name, batch in BATCHES.items():
            state = state_of(loss, rows_per_forward)
            losses = backward(state, part_of(batch, current_rank(), world_size()))
            results[name, rows_per_forward] = {"share": losses.sum.detach()} | gradients(state)
    return results


def negatives(batch: Batch) -> torch.Tensor:
    """Return the pairs that take part [N, N]: a valid row's own pair, and rows that differ in number and caption."""
    row, text = batch.row, batch.fields["text_id"]
    same = (row[:, None] == row) | (text[:, None] == text)
    both = batch.valid[:, None] & batch.valid
    return both & (~same | torch.eye(len(batch), dtype=torch.bool))


def naive(model: ToyEncoder, batch: Batch, loss: str) -> torch.Tensor:
    """Return the loss by definition: full matrices, one process."""
    cosine = model.encode("image", batch) @ model.encode("text", batch).T
    logits, pairs, count = model.log_scale.exp() * cosine, negatives(batch), batch.valid.sum()
    if loss == "sigmoid":
        sign = 2 * torch.eye(len(batch), dtype=logits.dtype) - 1
        terms = torch.nn.functional.softplus(-sign * (logits + model.logit_bias))
        return terms[pairs].sum() / count
    logits = logits.masked_fill(~pairs, -torch.inf)
    positive = logits.diagonal()[batch.valid]
    both_ways = logits.logsumexp(1)[batch.valid] + logits.logsumexp(0)[batch.valid]
    return (both_ways - 2 * positive).sum() / (2 * count)


def reference(batch: Batch, loss: str) -> tuple[float, dict[str, torch.Tensor]]:
    model = ToyEncoder().double()
    value = naive(model, batch, loss)
    value.backward()
    return value.item(), {f"model.{n}": p.grad for n, p in model.named_parameters() if p.grad is not None}


BATCHES = {
    "all rows valid": toy_batch(24, seed=1),
    "few captions, masked rows on all ranks": toy_batch(24, seed=2, masked=(0, 7, 13, 23), captions=9),
    "one rank all masked": toy_batch(24, seed=3, masked=tuple(range(18, 24)), captions=20),
}


@pytest.mark.parametrize("world", [1, 2, 4])
@pytest.mark.parametrize("loss", ["info_nce", "sigmoid"])
def test_every_gradient_is_that_of_the_global_mean(world, loss):
    ranks = run(rank_gradients, world, loss)
    for case in ranks[0]:
        value, expected = reference(BATCHES[case[0]], loss)
        shares = [actual[case].pop("share") for actual in ranks]
        assert sum(shares) / world == pytest.approx(value, rel=1e-12), case
        for actual in ranks:
            assert actual[case].keys() == expected.keys()
            for key, gradient in actual[case].items():
                torch.testing.assert_close(gradient, expected[key], rtol=1e-9, atol=1e-13, msg=f"{case} {key}")


def second_backward_is_identical(batch: Batch) -> bool:
    state = state_of("sigmoid", 5)
    rows = part_of(batch, current_rank(), world_size())
    backward(state, rows)
    once = gradients(state)
    state.optimizer.zero_grad()
    backward(state, rows)
    return all(torch.equal(g, once[name]) for name, g in gradients(state).items())


def test_repeating_a_step_gives_bit_identical_gradients():
    assert all(run(second_backward_is_identical, 2, toy_batch(24, captions=9)))


def statistics_after(rows_per_forward: int | None, batch: Batch) -> dict[str, torch.Tensor]:
    objective = ContrastiveObjective(ToyEncoder(batch_norm=True).double())
    state = TrainState.create(objective, schedule=SCHEDULE, seed=3, rows_per_forward=rows_per_forward)
    backward(state, batch)
    return copy.deepcopy(dict(objective.named_buffers()))


def test_caching_embeddings_does_not_count_batch_statistics_twice():
    batch = toy_batch(12)
    cached = statistics_after(4, batch)
    tower = ToyEncoder(batch_norm=True).double().towers["image"]
    for chunk in batch.chunks(4):
        tower(chunk)
    assert cached["model.towers.image.norm.num_batches_tracked"] == 3
    torch.testing.assert_close(cached["model.towers.image.norm.running_mean"], tower.norm.running_mean)


def test_the_second_pass_repeats_the_dropout_of_the_first():
    """Otherwise the gradients would belong to other embeddings: compare with one graph over all chunks."""
    batch = toy_batch(12)
    state = state_of("info_nce", 5, mask=False, dropout=0.5)
    backward(state, batch)
    cached = gradients(state)
    state.optimizer.zero_grad()
    parts = []
    for i, chunk in enumerate(batch.chunks(5)):
        with state.randomness(chunk=i):
            parts.append(state.objective.embed(chunk))
    whole = {name: torch.cat([p[name] for p in parts]) for name in ("image", "text")}
    state.objective.loss(whole, batch).sum.backward()
    for name, gradient in gradients(state).items():
        torch.testing.assert_close(gradient, cached[name], rtol=1e-10, atol=1e-14)


def test_low_precision_keeps_float32_logits_and_close_gradients():
    batch = toy_batch(24)
    objective = ContrastiveObjective(ToyEncoder(width=64))
    states = {
        precision: TrainState.create(
            copy.deepcopy(objective), schedule=SCHEDULE, seed=0, precision=precision, rows_per_forward=rows
        )
        for precision, rows in (("fp32", None), ("bf16", 7))
    }
    values = {name: backward(state, batch).sum for name, state in states.items()}
    assert values["bf16"].dtype == torch.float32
    exact, rounded = (torch.cat([g.flatten() for g in gradients(s).values()]) for s in states.values())
    assert torch.cosine_similarity(exact, rounded, dim=0) > 0.99
    assert all(g.abs().sum() > 0 for g in gradients(states["bf16"]).values())
