"""One training step in one process: AdamW, clipping, clamping, learning, compiled towers, and error messages."""

import math

import pytest
import torch
from torch import nn

from support.toy_encoder import ToyEncoder, toy_batch
from xmodal.errors import ConfigError, NonFiniteLoss
from xmodal.training.engine.compilation import compile_towers
from xmodal.training.engine.finite_check import nonfinite_rows
from xmodal.training.engine.optimizer import decay_groups, set_learning_rate
from xmodal.training.engine.schedule import CosineSchedule
from xmodal.training.engine.state import TrainState
from xmodal.training.engine.step import train_step
from xmodal.training.objectives.contrastive import ContrastiveObjective

SCHEDULE = CosineSchedule(peak=1e-2, total_steps=200, warmup_steps=3)


def new_state(*, toy: dict | None = None, loss="info_nce", schedule=SCHEDULE, **options) -> TrainState:
    objective = ContrastiveObjective(ToyEncoder(**(toy or {})), loss)
    return TrainState.create(objective, schedule=schedule, **({"seed": 3} | options))


def gradients_of(state: TrainState, batch) -> dict[str, torch.Tensor]:
    state.objective(batch).sum.backward()
    gradients = {n: p.grad.clone() for n, p in state.objective.named_parameters() if p.requires_grad}
    state.optimizer.zero_grad()
    return gradients


@pytest.mark.parametrize("max_grad_norm", [None, 1e-3, 1e3])
def test_first_update_is_adamw_of_the_clipped_gradient(max_grad_norm):
    """Loshchilov & Hutter 2019, algorithm 2, at t = 1: the corrected moments are g and g squared."""
    state, batch = new_state(max_grad_norm=max_grad_norm, weight_decay=0.1), toy_batch(8)
    before = {n: p.detach().clone() for n, p in state.objective.named_parameters()}
    gradients = gradients_of(state, batch)
    norm = math.sqrt(sum(float(g.double().square().sum()) for g in gradients.values()))
    metrics = train_step(state, batch)
    assert metrics["grad_norm"] == pytest.approx(norm, rel=1e-5)
    clip = 1.0 if max_grad_norm is None else min(1.0, max_grad_norm / norm)
    rate = SCHEDULE(0)
    assert metrics["lr"] == rate
    for name, p in state.objective.named_parameters():
        if not p.requires_grad:
            assert torch.equal(p, before[name])
            continue
        g, decay = clip * gradients[name], 0.1 if p.ndim >= 2 else 0.0
        expected = before[name] * (1 - rate * decay) - rate * g / (g.abs() + 1e-6)
        torch.testing.assert_close(p.detach(), expected, rtol=1e-4, atol=1e-6)


def test_every_trainable_parameter_is_in_one_group_and_only_matrices_decay():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.LayerNorm(4), nn.Embedding(5, 6))
    model[2].weight.requires_grad_(False)
    decayed, others = decay_groups(model, 0.3)
    assert [p.shape for p in decayed["params"]] == [(2, 1, 3, 3)]
    assert [p.shape for p in others["params"]] == [(2,), (4,), (4,)]
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.3, 0.0)


@pytest.mark.parametrize("loss", ["info_nce", "sigmoid"])
@pytest.mark.parametrize("rows_per_forward", [None, 5])
def test_a_small_batch_can_be_memorized(loss, rows_per_forward):
    state = new_state(toy={"width": 64}, loss=loss, rows_per_forward=rows_per_forward)
    batch = toy_batch(16)
    losses = [train_step(state, batch)["loss"] for _ in range(150)]
    assert losses[-1] < 0.15 < losses[0]


def test_scale_beyond_its_limit_is_clamped_and_counted():
    state = new_state()
    train_step(state, toy_batch(8))
    with torch.no_grad():
        state.objective.model.log_scale.fill_(math.log(150.0))
    steps = [train_step(state, toy_batch(8, seed=i)) for i in range(3)]
    assert steps[1]["logit_scale"] == pytest.approx(100.0)
    assert steps[0]["clamps"] == 0
    assert steps[1]["clamps"] == 1
    assert steps[2]["temperature"] == pytest.approx(1 / steps[2]["logit_scale"])


def test_nonfinite_rows_names_the_row_of_a_nonfinite_input():
    batch = toy_batch(6, seed=2)
    batch.fields["score"] = torch.ones(6, 2)
    batch.fields["score"][4, 1] = torch.inf
    assert nonfinite_rows(new_state(rows_per_forward=4), batch).tolist() == [2004]


def test_error_lists_20_rows_and_counts_the_others():
    state = new_state()
    state.objective.model.towers["text"].register_forward_hook(lambda m, i, z: z * torch.nan)
    with pytest.raises(NonFiniteLoss, match=r"rank 0: 0, 1, .* and 12 more\. Look"):
        train_step(state, toy_batch(32))


def test_step_switches_to_training_mode_after_an_evaluation():
    states = [new_state(toy={"dropout": 0.5}) for _ in range(2)]
    states[1].objective.eval()
    assert train_step(states[0], toy_batch(8)) == train_step(states[1], toy_batch(8))
    loaded = ContrastiveObjective(ToyEncoder(dropout=0.5).eval())
    TrainState.create(loaded, schedule=SCHEDULE, seed=0)
    assert loaded.model.towers["image"].dropout.training


def test_step_neither_uses_nor_changes_the_global_generator():
    states = [new_state(toy={"dropout": 0.5}) for _ in range(2)]
    torch.manual_seed(1)
    first = train_step(states[0], toy_batch(8))
    assert torch.initial_seed() == 1
    torch.manual_seed(2)
    assert train_step(states[1], toy_batch(8)) == first


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "bf61"}, "did you mean 'bf16'"),
        ({"rows_per_forward": 0}, "rows_per_forward=0"),
        ({"check_every": 0}, "check_every=0"),
    ],
)
def test_impossible_options_raise(options, message):
    with pytest.raises(ConfigError, match=message):
        new_state(**options)


def test_impossible_objectives_raise():
    with pytest.raises(ConfigError, match="did you mean 'sigmoid'"):
        ContrastiveObjective(ToyEncoder(), "sigmoit")
    model = ToyEncoder()
    model.logit_bias = None
    with pytest.raises(ConfigError, match="needs a model with a logit bias"):
        ContrastiveObjective(model, "sigmoid")
    frozen = ContrastiveObjective(ToyEncoder()).requires_grad_(False)
    with pytest.raises(ConfigError, match="no parameter is trainable"):
        TrainState.create(frozen, schedule=SCHEDULE, seed=0)


def test_compiled_towers_give_the_same_metrics_and_parameter_names():
    eager, compiled = new_state(), new_state()
    compile_towers(compiled.objective.model.towers, backend="aot_eager")
    assert compiled.objective.state_dict().keys() == eager.objective.state_dict().keys()
    for step in range(2):
        expected, metrics = (train_step(s, toy_batch(8, seed=step)) for s in (eager, compiled))
        assert metrics == pytest.approx(expected, rel=1e-4)


def failing_backend(graph, inputs):
    raise RuntimeError("no code for this device")


def test_a_failed_compilation_raises_instead_of_running_eagerly():
    state = new_state()
    compile_towers(state.objective.model.towers, backend=failing_backend)
    with pytest.raises(Exception, match="no code for this device"):
        train_step(state, toy_batch(8))


def test_every_group_gets_the_learning_rate_times_its_gain():
    groups = [{"params": [nn.Parameter(torch.ones(1))]}, {"params": [nn.Parameter(torch.ones(1))], "gain": 2.0}]
    optimizer = torch.optim.SGD(groups, lr=1.0)
    set_learning_rate(optimizer, 0.1)
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.2]
