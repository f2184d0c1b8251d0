"""The adaptation objective: contrastive loss on source pairs only, domain losses, extra critic updates and metrics."""

import pytest
import torch

from support.adaptation_batches import SCHEDULE, both_domains, make_objective, make_state, rank_rows, weights
from xmodal.errors import ConfigError
from xmodal.training.engine.state import TrainState
from xmodal.training.engine.step import train_step
from xmodal.training.objectives.adaptation import AdaptationObjective
from xmodal.training.objectives.contrastive import ContrastiveObjective
from xmodal.training.objectives.domain import DomainLoss
from xmodal.training.objectives.domain_strength import StrengthSchedule


def gradients(objective: AdaptationObjective, batch) -> dict[str, torch.Tensor]:
    objective.zero_grad()
    objective(batch).sum.backward()
    return {name: p.grad.clone() for name, p in objective.named_parameters() if p.requires_grad}


def image_encoder_only(gradients: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: g for name, g in gradients.items() if name.startswith("contrast.model.towers.image")}


def test_domain_gradient_of_the_encoder_is_proportional_to_the_strength() -> None:
    batch = both_domains(shift=60)
    none, half, full = (gradients(make_objective(strength=s), batch) for s in (0.0, 0.5, 1.0))
    alone = gradients(make_objective(points=()), batch)
    for name, plain in image_encoder_only(alone).items():
        assert torch.equal(none[name], plain)
        torch.testing.assert_close(half[name] - plain, 0.5 * (full[name] - plain), rtol=1e-6, atol=1e-12)
    assert max((full[name] - plain).abs().max() for name, plain in image_encoder_only(alone).items()) > 1e-4


def test_encoder_and_critic_have_opposite_domain_gradients() -> None:
    batch, objective = both_domains(shift=60), make_objective(strength=1.0)
    plain = gradients(make_objective(points=()), batch)
    reversed_ = gradients(objective, batch)
    objective.places.strength = -1.0  # cancels the reversal
    unreversed = gradients(objective, batch)
    for name in image_encoder_only(reversed_):
        torch.testing.assert_close(
            reversed_[name] - plain[name], -(unreversed[name] - plain[name]), rtol=1e-6, atol=1e-12
        )
    critic = [name for name in reversed_ if name.startswith("places.")]
    for name in critic:
        torch.testing.assert_close(reversed_[name], unreversed[name])
    assert any(reversed_[name].abs().max() > 0 for name in critic)


def test_target_rows_are_not_negatives_of_source_pairs() -> None:
    objective = make_objective(points=())
    few, many = both_domains(target=2, shift=10), both_domains(target=8, texts=8, shift=200)
    pairs = few[few.rows_of("source")]
    expected = ContrastiveObjective(objective.model, mask_duplicates=True)(pairs).multimodal
    for batch in (few, many):
        assert torch.equal(batch.fields["image"][:8], pairs.fields["image"])
        batch.fields["text"][:8], batch.fields["text_id"][:8] = pairs.fields["text"], pairs.fields["text_id"]
        torch.testing.assert_close(objective(batch).multimodal, expected)


def test_content_of_masked_rows_does_not_change_gradients() -> None:
    clean = both_domains(rows=8, target=8, masked=(3, 11))
    dirty = both_domains(rows=8, target=8, masked=(3, 11))
    for row in (3, 11):
        dirty.fields["image"][row] = 255
    with_noise, expected = (gradients(make_objective(), batch) for batch in (dirty, clean))
    for name in expected:
        torch.testing.assert_close(with_noise[name], expected[name])


def test_metrics_have_critic_accuracy_and_losses_and_gradient_ratio() -> None:
    state, batch = make_state("dann", ("image", "text"), strength=0.7), both_domains(texts=8, shift=60)
    task = gradients(make_objective(points=()), batch)
    both = gradients(make_objective("dann", ("image", "text"), strength=0.7), batch)
    metrics = train_step(state, batch)
    assert metrics["domain/strength"] == 0.7
    for point in ("image", "text"):
        assert 0 <= metrics[f"domain/{point}/accuracy"] <= 1
        assert metrics[f"domain/{point}/loss"] == pytest.approx(
            0.693147 * metrics[f"domain/{point}/loss_per_ln2"], rel=1e-4
        )
        assert 0 < metrics[f"{point}/source_spread"] < 1 and 0 < metrics[f"{point}/target_spread"] < 1
        assert metrics[f"{point}/centroid_distance"] > 0
    losses = metrics["domain/image/loss"] + metrics["domain/text/loss"] + metrics["contrastive/loss"]
    assert metrics["loss"] == pytest.approx(losses, rel=1e-6)
    assert metrics["image/gradient_ratio"] > 0
    assert any(not torch.equal(both[name], task[name]) for name in task)


def test_gradient_ratio_is_domain_norm_over_task_norm_at_the_embeddings() -> None:
    batch, objective = both_domains(shift=60), make_objective(strength=0.5)
    z = {name: x.detach().requires_grad_() for name, x in objective.embed(batch).items()}
    losses = objective.loss(z, batch)
    (task,) = torch.autograd.grad(losses.multimodal, z["image"], retain_graph=True)
    (domain,) = torch.autograd.grad(losses.domain["image"], z["image"], retain_graph=True)
    losses = objective.loss(z, batch)
    losses.sum.backward()
    assert objective.metrics()["image/gradient_ratio"].item() == pytest.approx((domain.norm() / task.norm()).item())


def test_spread_of_a_collapsed_encoder_is_zero() -> None:
    objective = make_objective(points=())
    with torch.no_grad():
        for p in objective.model.towers["image"].parameters():
            p.zero_()
        objective.model.towers["image"].last.bias.fill_(1.0)
    objective(both_domains())
    metrics = objective.metrics()
    assert metrics["image/source_spread"] == pytest.approx(0.0, abs=1e-9)
    assert metrics["text/source_spread"] > 0.05


def test_extra_critic_steps_change_only_the_critic() -> None:
    batch = both_domains(shift=60)
    one_step, three_steps = (make_state("dann", ("image",), critic_steps=n) for n in (1, 3))
    for state in (one_step, three_steps):
        train_step(state, batch)
    after_one, after_three = weights(one_step), weights(three_steps)
    for name, x in after_one.items():
        assert torch.equal(x, after_three[name]) == (not name.startswith("places.")), name


def test_critic_lr_scale_multiplies_the_update_of_the_critic_only() -> None:
    """SGD without momentum and decay changes a weight by rate * gradient, so the scale can be read from the update."""
    batch, before = both_domains(shift=60), weights(make_state("dann", ("image",)))
    updates = {}
    for scale in (1.0, 4.0):
        objective = make_objective("dann", ("image",), critic_lr_scale=scale)
        options = {"optimizer": "sgd", "momentum": 0.0, "weight_decay": 0.0, "max_grad_norm": None}
        state = TrainState.create(objective, schedule=SCHEDULE, seed=3, **options)
        train_step(state, batch)
        updates[scale] = {name: x - before[name] for name, x in weights(state).items()}
    for name, x in updates[1.0].items():
        factor = 4.0 if name.startswith("places.") else 1.0
        torch.testing.assert_close(updates[4.0][name], factor * x, rtol=1e-6, atol=1e-12)


def test_invalid_options_raise_with_the_nearest_name() -> None:
    with pytest.raises(ConfigError, match="no alignment point 'txet'; did you mean 'text'"):
        make_objective(points=("txet",))
    with pytest.raises(ConfigError, match=r"unknown domain.loss 'dnan'; did you mean 'dann'"):
        DomainLoss("dnan", 8)
    with pytest.raises(ConfigError, match=r"domain.strength=-0.5 must be finite and at least 0"):
        StrengthSchedule(peak=-0.5, steps=10)
    with pytest.raises(ConfigError, match=r"unknown domain.schedule 'rmap'; did you mean 'ramp'"):
        StrengthSchedule(peak=1.0, steps=10, schedule="rmap")


def test_strength_follows_the_ramp_of_the_paper() -> None:
    ramp = StrengthSchedule(peak=0.4, steps=100)
    assert ramp(0) == 0 and ramp(10) == pytest.approx(0.4 * 0.4621, rel=1e-3)
    assert ramp(50) == pytest.approx(0.4 * 0.9866, rel=1e-3) and ramp(100) == ramp(500)
    assert [StrengthSchedule(peak=0.4, steps=100, schedule="constant")(step) for step in (0, 50)] == [0.4, 0.4]


def test_chunks_and_rank_parts_of_a_batch_have_their_roles() -> None:
    batch = both_domains(rows=4, target=6, texts=2)
    assert batch.rows_of("target") == slice(4, 10) and batch.rows_of("nobody") == slice(12, 12)
    chunks = list(batch.chunks(5))
    assert [dict(chunk.role_sizes) for chunk in chunks] == [
        {"source": 4, "target": 1, "target_text": 0},
        {"source": 0, "target": 5, "target_text": 0},
        {"source": 0, "target": 0, "target_text": 2},
    ]
    assert dict(rank_rows(batch, 1, 2).role_sizes) == {"source": 2, "target": 3, "target_text": 1}
