"""Ranks move together or not at all: resume bit for bit, refusal of non-finite steps, detection of strangers."""

import pytest
import torch
import torch.distributed as dist

from support.gloo_ranks import RankFailed, run
from support.toy_encoder import ToyEncoder, part_of, toy_batch
from xmodal.distributed.rank_consistency import RanksDiverged
from xmodal.distributed.ranks import rank_in, world_size
from xmodal.errors import ConfigError, NonFiniteLoss
from xmodal.training.engine.schedule import CosineSchedule
from xmodal.training.engine.state import TrainState
from xmodal.training.engine.state_io import load_state, state_plain, state_tensors
from xmodal.training.engine.step import train_step
from xmodal.training.objective import ContrastiveObjective

SCHEDULE = CosineSchedule(peak=1e-2, total_steps=100, warmup_steps=3)
ROWS = 24


def new_state(*, rows_per_forward: int | None = None, check_every: int = 200, **toy) -> TrainState:
    objective = ContrastiveObjective(ToyEncoder(**toy), mask_duplicates=True)
    return TrainState.create(
        objective, schedule=SCHEDULE, seed=3, rows_per_forward=rows_per_forward, check_every=check_every
    )


def mine(step: int):
    return part_of(toy_batch(ROWS, seed=step, captions=15, masked=(step % ROWS,)), rank_in(), world_size())


def weights(state: TrainState) -> dict[str, torch.Tensor]:
    return {name: x.clone() for name, x in state.objective.state_dict().items()}


def resumed(state: TrainState, **options) -> TrainState:
    """A new process's state: everything it holds came through what a checkpoint stores."""
    tensors = {name: x.clone() for name, x in state_tensors(state).items()}
    again = new_state(**options)
    again.objective.load_state_dict(weights(state))
    load_state(again, tensors, state_plain(state))
    return again


def resume_in_the_middle() -> bool:
    """With dropout and accumulation, then with batch statistics."""
    accumulating = {"dropout": 0.3, "rows_per_forward": 4, "width": 200}
    return _resume(accumulating) and _resume({"dropout": 0.3, "batch_norm": True, "width": 200})


def _resume(options: dict) -> bool:
    torch.rand(rank_in() + 1)  # the global generator is no part of the promise
    whole, first = new_state(**options), new_state(**options)
    metrics = [train_step(whole, mine(step)) for step in range(6)]
    parts = [train_step(first, mine(step)) for step in range(3)]
    second = resumed(first, seed=99, **options)
    torch.rand(5)
    parts += [train_step(second, mine(step)) for step in range(3, 6)]
    same = [torch.equal(x, weights(second)[name]) for name, x in weights(whole).items()]
    moments = state_tensors(second)
    same += [torch.equal(x, moments[name]) for name, x in state_tensors(whole).items()]
    return all(same) and metrics == parts and second.step == whole.step == 6


@pytest.mark.parametrize("world", [1, 2, 4])
def test_stopping_and_resuming_changes_no_bit(world):
    assert all(run(resume_in_the_middle, world))


def refused(rows_per_forward: int | None, spoil: str) -> tuple[str, bool, int]:
    state = new_state(rows_per_forward=rows_per_forward, dropout=0.1, batch_norm=True)
    train_step(state, mine(0))
    before, moments = weights(state), {k: x.clone() for k, x in state_tensors(state).items()}
    batch = mine(1)
    if spoil == "rows" and rank_in() == 1:
        tower = state.objective.model.towers["text"]
        tower.register_forward_hook(lambda m, i, z: z.masked_fill(i[0].row.eq(1015)[:, None], torch.nan))
    if spoil == "gradient" and rank_in() == 1:
        state.objective.model.towers["text"].last.weight.register_hook(lambda g: g * torch.inf)
    try:
        train_step(state, batch)
    except NonFiniteLoss as error:
        kept = all(torch.equal(x, weights(state)[k]) for k, x in before.items())
        kept &= all(torch.equal(x, state_tensors(state)[k]) for k, x in moments.items())
        return str(error), kept, state.step
    return "nothing was raised", False, state.step


@pytest.mark.parametrize("rows_per_forward", [None, 5])
def test_one_rank_with_nan_stops_all_before_anything_moves_and_names_the_row(rows_per_forward):
    answers = run(refused, 2, rows_per_forward, "rows")
    assert answers[0] == answers[1]
    message, kept, step = answers[0]
    assert kept
    assert step == 1
    assert "step 1: the loss is nan" in message
    assert "rank 1: 1015." in message


def test_a_non_finite_gradient_of_finite_rows_blames_no_row():
    for message, kept, _ in run(refused, 2, None, "gradient"):
        assert kept
        assert "No single row is to blame" in message


def broken_weight() -> str:
    state = new_state()
    with torch.no_grad():
        state.objective.model.towers["text"].last.weight[0, 0] = torch.nan
    with pytest.raises(NonFiniteLoss) as raised:
        train_step(state, mine(0))
    return str(raised.value)


def test_a_non_finite_weight_is_named():
    assert all("'model.towers.text.last.weight' itself is not finite" in message for message in run(broken_weight, 2))


def strangers(how: str) -> str:
    state = new_state(check_every=2)
    if how == "never wrapped":
        state.ddp = None
        state.objective.load_state_dict(ToyEncoderOf(rank_in()))
    for step in range(4):
        if step == 2 and how == "drifted" and rank_in() == 1:
            with torch.no_grad():
                state.objective.model.towers["image"].last.bias[3] += 1e-6
        if step == 2 and how == "another step" and rank_in() == 1:
            state.step = 4
        if step == 3 and how == "skipped one" and rank_in() == 1:
            state.step += 1
            state.check_every = 200
        try:
            train_step(state, mine(step))
        except RanksDiverged as error:
            return f"{step}: {error}"
    return "nothing was raised"


def ToyEncoderOf(seed: int) -> dict[str, torch.Tensor]:
    return ContrastiveObjective(ToyEncoder(seed=seed)).state_dict()


@pytest.mark.parametrize(
    ("how", "when", "what"),
    [
        ("never wrapped", "0: step 0: 6 of 10 parameters differ", "first 'model.towers.image.first.weight'"),
        ("drifted", "2: step 2: 1 of 10 parameters differ", "first 'model.towers.image.last.bias'"),
        ("another step", "2: ", "ranks are at different steps"),
        ("skipped one", "3: ", "ranks are at different steps"),
    ],
)
def test_ranks_with_different_weights_are_found_and_the_parameter_named(how, when, what):
    for answer in run(strangers, 2, how):
        assert answer.startswith(when)
        assert what in answer


def figures() -> list[dict[str, float]]:
    state = new_state()
    return [train_step(state, mine(step)) for step in range(2)]


def test_metrics_are_those_of_the_global_batch_on_every_rank():
    single = figures()
    assert single[0]["n_valid"] == ROWS - 1
    assert single[0]["n_bad"] == 1
    assert single[0]["temperature"] == pytest.approx(0.1)
    ranks = run(figures, 4)
    assert all(answer == ranks[0] for answer in ranks)
    for one, many in zip(single, ranks[0], strict=True):
        assert many == pytest.approx(one, rel=1e-4)


def unused_parameter() -> None:
    encoder = ToyEncoder()
    encoder.towers["image"].idle = torch.nn.Linear(2, 2)
    state = TrainState.create(ContrastiveObjective(encoder), schedule=SCHEDULE, seed=0)
    train_step(state, mine(0))


def test_a_parameter_without_part_in_the_loss_is_named_instead_of_hanging():
    with pytest.raises(
        RankFailed, match=r"2 trainable parameters take no part in the loss, first 'model.towers.image.idle"
    ):
        run(unused_parameter, 2)
    with pytest.raises(ConfigError, match="take no part"):
        unused_parameter()


def ranks_without_a_generator_in_common() -> torch.Tensor:
    state = new_state(dropout=0.5)
    with state.randomness(chunk=0):
        own = torch.rand(8)
    every = [torch.empty(8) for _ in range(world_size())]
    dist.all_gather(every, own)
    return torch.stack(every)


def test_ranks_draw_different_dropout():
    draws = run(ranks_without_a_generator_in_common, 2)[0]
    assert not torch.equal(draws[0], draws[1])
