"""Ranks move together or not at all: bit-identical resume, no update on non-finite values, diverged ranks."""

import pytest
import torch
import torch.distributed as dist

from support.gloo_ranks import RankFailed, run
from support.toy_encoder import ToyEncoder, part_of, toy_batch
from xmodal.distributed.rank_consistency import RanksDiverged
from xmodal.distributed.ranks import current_rank, world_size
from xmodal.errors import ConfigError, NonFiniteLoss
from xmodal.training.engine.schedule import CosineSchedule
from xmodal.training.engine.state import TrainState
from xmodal.training.engine.state_io import load_state, state_json, state_tensors
from xmodal.training.engine.step import train_step
from xmodal.training.objectives.contrastive import ContrastiveObjective

SCHEDULE = CosineSchedule(peak=1e-2, total_steps=100, warmup_steps=3)
ROWS = 24


def new_state(*, rows_per_forward: int | None = None, check_every: int = 200, **toy) -> TrainState:
    objective = ContrastiveObjective(ToyEncoder(**toy), mask_duplicates=True)
    return TrainState.create(
        objective, schedule=SCHEDULE, seed=3, rows_per_forward=rows_per_forward, check_every=check_every
    )


def rank_batch(step: int):
    return part_of(toy_batch(ROWS, seed=step, captions=15, masked=(step % ROWS,)), current_rank(), world_size())


def weights(state: TrainState) -> dict[str, torch.Tensor]:
    return {name: x.clone() for name, x in state.objective.state_dict().items()}


def restored_state(state: TrainState, **options) -> TrainState:
    """Return the state of a new process, restored from what a checkpoint stores."""
    tensors = {name: x.clone() for name, x in state_tensors(state).items()}
    restored = new_state(**options)
    restored.objective.load_state_dict(weights(state))
    load_state(restored, tensors, state_json(state))
    return restored


def resume_is_exact() -> bool:
    """Return whether resuming is exact with dropout and accumulation, and with batch statistics."""
    accumulating = {"dropout": 0.3, "rows_per_forward": 4, "width": 200}
    return _resume_is_exact(accumulating) and _resume_is_exact({"dropout": 0.3, "batch_norm": True, "width": 200})


def _resume_is_exact(options: dict) -> bool:
    torch.rand(current_rank() + 1)  # the global generator must not matter
    whole, first = new_state(**options), new_state(**options)
    metrics = [train_step(whole, rank_batch(step)) for step in range(6)]
    parts = [train_step(first, rank_batch(step)) for step in range(3)]
    second = restored_state(first, seed=99, **options)
    torch.rand(5)
    parts += [train_step(second, rank_batch(step)) for step in range(3, 6)]
    same = [torch.equal(x, weights(second)[name]) for name, x in weights(whole).items()]
    moments = state_tensors(second)
    same += [torch.equal(x, moments[name]) for name, x in state_tensors(whole).items()]
    return all(same) and metrics == parts and second.step == whole.step == 6


@pytest.mark.parametrize("world", [1, 2, 4])
def test_resume_is_bit_identical(world):
    assert all(run(resume_is_exact, world))


def nonfinite_step(rows_per_forward: int | None, broken: str) -> tuple[str, bool, int]:
    """Run a step with NaN on rank 1; return the error, whether the state is unchanged, and the step."""
    state = new_state(rows_per_forward=rows_per_forward, dropout=0.1, batch_norm=True)
    train_step(state, rank_batch(0))
    before, moments = weights(state), {k: x.clone() for k, x in state_tensors(state).items()}
    batch = rank_batch(1)
    if broken == "rows" and current_rank() == 1:
        tower = state.objective.model.towers["text"]
        tower.register_forward_hook(lambda m, i, z: z.masked_fill(i[0].row.eq(1015)[:, None], torch.nan))
    if broken == "gradient" and current_rank() == 1:
        state.objective.model.towers["text"].last.weight.register_hook(lambda g: g * torch.inf)
    try:
        train_step(state, batch)
    except NonFiniteLoss as error:
        unchanged = all(torch.equal(x, weights(state)[k]) for k, x in before.items())
        unchanged &= all(torch.equal(x, state_tensors(state)[k]) for k, x in moments.items())
        return str(error), unchanged, state.step
    return "nothing was raised", False, state.step


@pytest.mark.parametrize("rows_per_forward", [None, 5])
def test_nan_on_one_rank_raises_on_all_before_the_update_and_names_the_row(rows_per_forward):
    answers = run(nonfinite_step, 2, rows_per_forward, "rows")
    assert answers[0] == answers[1]
    message, unchanged, step = answers[0]
    assert unchanged
    assert step == 1
    assert "step 1: the loss is nan" in message
    assert "rank 1: 1015." in message


def test_a_non_finite_gradient_of_finite_rows_names_no_row():
    for message, unchanged, _ in run(nonfinite_step, 2, None, "gradient"):
        assert unchanged
        assert "No single row is to blame" in message


def broken_weight() -> str:
    state = new_state()
    with torch.no_grad():
        state.objective.model.towers["text"].last.weight[0, 0] = torch.nan
    with pytest.raises(NonFiniteLoss) as raised:
        train_step(state, rank_batch(0))
    return str(raised.value)


def test_a_non_finite_weight_is_named():
    assert all("'model.towers.text.last.weight' itself is not finite" in message for message in run(broken_weight, 2))


def divergence_error(how: str) -> str:
    """Let the ranks diverge in the given way and return when and how it is reported."""
    state = new_state(check_every=2)
    if how == "never wrapped":
        state.ddp = None
        state.objective.load_state_dict(toy_weights(current_rank()))
    for step in range(4):
        if step == 2 and how == "drifted" and current_rank() == 1:
            with torch.no_grad():
                state.objective.model.towers["image"].last.bias[3] += 1e-6
        if step == 2 and how == "another step" and current_rank() == 1:
            state.step = 4
        if step == 3 and how == "skipped one" and current_rank() == 1:
            state.step += 1
            state.check_every = 200
        try:
            train_step(state, rank_batch(step))
        except RanksDiverged as error:
            return f"{step}: {error}"
    return "nothing was raised"


def toy_weights(seed: int) -> dict[str, torch.Tensor]:
    return ContrastiveObjective(ToyEncoder(seed=seed)).state_dict()


@pytest.mark.parametrize(
    ("how", "prefix", "message"),
    [
        ("never wrapped", "0: step 0: 6 of 10 parameters differ", "first 'model.towers.image.first.weight'"),
        ("drifted", "2: step 2: 1 of 10 parameters differ", "first 'model.towers.image.last.bias'"),
        ("another step", "2: ", "ranks are at different steps"),
        ("skipped one", "3: ", "ranks are at different steps"),
    ],
)
def test_diverged_ranks_raise_with_the_differing_parameter(how, prefix, message):
    for answer in run(divergence_error, 2, how):
        assert answer.startswith(prefix)
        assert message in answer


def two_steps() -> list[dict[str, float]]:
    state = new_state()
    return [train_step(state, rank_batch(step)) for step in range(2)]


def test_metrics_are_those_of_the_global_batch_on_every_rank():
    single = two_steps()
    assert single[0]["n_valid"] == ROWS - 1
    assert single[0]["n_bad"] == 1
    assert single[0]["temperature"] == pytest.approx(0.1)
    ranks = run(two_steps, 4)
    assert all(answer == ranks[0] for answer in ranks)
    for expected, actual in zip(single, ranks[0], strict=True):
        assert actual == pytest.approx(expected, rel=1e-4)


def noticed_steps() -> list[int]:
    state = new_state()
    counts = []
    for number in range(3):
        state.notice = number > 0 and current_rank() in (1, 3)
        train_step(state, rank_batch(number))
        counts.append(state.notices)
    return counts


def test_every_rank_learns_of_another_ranks_notice_in_the_same_step():
    assert run(noticed_steps, 4) == [[0, 2, 2]] * 4


def unused_parameter() -> None:
    encoder = ToyEncoder()
    encoder.towers["image"].idle = torch.nn.Linear(2, 2)
    state = TrainState.create(ContrastiveObjective(encoder), schedule=SCHEDULE, seed=0)
    train_step(state, rank_batch(0))


def test_an_unused_parameter_is_named_instead_of_hanging():
    with pytest.raises(
        RankFailed, match=r"2 trainable parameters take no part in the loss, first 'model.towers.image.idle"
    ):
        run(unused_parameter, 2)
    with pytest.raises(ConfigError, match="take no part"):
        unused_parameter()


def dropout_draws() -> torch.Tensor:
    """Return the random numbers that each rank draws for its dropout."""
    state = new_state(dropout=0.5)
    with state.randomness(chunk=0):
        draw = torch.rand(8)
    draws = [torch.empty(8) for _ in range(world_size())]
    dist.all_gather(draws, draw)
    return torch.stack(draws)


def test_ranks_draw_different_dropout():
    draws = run(dropout_draws, 2)[0]
    assert not torch.equal(draws[0], draws[1])
