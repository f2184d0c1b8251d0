"""What adapting a dual encoder minimises: pairs against pairs alone, and a critic that the encoder learns against."""

import pytest
import torch

from support.adaptation_batches import SCHEDULE, both_domains, objective_of, share_of, state_of, weights
from xmodal.errors import ConfigError
from xmodal.training.engine.state import TrainState
from xmodal.training.engine.step import train_step
from xmodal.training.objective import ContrastiveObjective
from xmodal.training.objectives.adaptation import AdaptationObjective
from xmodal.training.objectives.domain import DomainLoss
from xmodal.training.objectives.domain_strength import Strength


def gradients(objective: AdaptationObjective, batch) -> dict[str, torch.Tensor]:
    objective.zero_grad()
    objective(batch).sum.backward()
    return {name: p.grad.clone() for name, p in objective.named_parameters() if p.requires_grad}


def of_encoder(found: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: g for name, g in found.items() if name.startswith("contrast.model.towers.image")}


def test_the_encoder_gets_the_reversed_gradient_times_the_strength_and_none_at_zero() -> None:
    batch = both_domains(shift=60)
    none, half, one = (gradients(objective_of(strength=s), batch) for s in (0.0, 0.5, 1.0))
    alone = gradients(objective_of(places=()), batch)
    for name, plain in of_encoder(alone).items():
        assert torch.equal(none[name], plain)
        torch.testing.assert_close(half[name] - plain, 0.5 * (one[name] - plain), rtol=1e-6, atol=1e-12)
    assert max((one[name] - plain).abs().max() for name, plain in of_encoder(alone).items()) > 1e-4


def test_the_encoder_ascends_the_loss_that_its_critic_descends() -> None:
    batch, objective = both_domains(shift=60), objective_of(strength=1.0)
    plain = gradients(objective_of(places=()), batch)
    found = gradients(objective, batch)
    objective.places.strength = -1.0  # as if there were no reversal
    unreversed = gradients(objective, batch)
    for name in of_encoder(found):
        torch.testing.assert_close(found[name] - plain[name], -(unreversed[name] - plain[name]), rtol=1e-6, atol=1e-12)
    for name in [name for name in found if name.startswith("places.")]:
        torch.testing.assert_close(found[name], unreversed[name])
    assert any(found[name].abs().max() > 0 for name in found if name.startswith("places."))


def test_rows_of_the_target_are_no_negatives_of_the_pairs() -> None:
    objective = objective_of(places=())
    few, many = both_domains(target=2, shift=10), both_domains(target=8, texts=8, shift=200)
    pairs = few[few.part("source")]
    expected = ContrastiveObjective(objective.model, mask_duplicates=True)(pairs).multimodal
    for batch in (few, many):
        kept = batch.fields["image"][:8]
        assert torch.equal(kept, pairs.fields["image"])
        batch.fields["text"][:8], batch.fields["text_id"][:8] = pairs.fields["text"], pairs.fields["text_id"]
        torch.testing.assert_close(objective(batch).multimodal, expected)


def test_masked_rows_change_nothing() -> None:
    clean = both_domains(rows=8, target=8, masked=(3, 11))
    dirty = both_domains(rows=8, target=8, masked=(3, 11))
    for row in (3, 11):
        dirty.fields["image"][row] = 255
    found, expected = (gradients(objective_of(), batch) for batch in (dirty, clean))
    for name in expected:
        torch.testing.assert_close(found[name], expected[name])


def test_the_metrics_tell_what_the_critic_knows_and_how_hard_the_encoder_is_pushed() -> None:
    state, batch = state_of("dann", ("image", "text"), strength=0.7), both_domains(texts=8, shift=60)
    task = gradients(objective_of(places=()), batch)
    both = gradients(objective_of("dann", ("image", "text"), strength=0.7), batch)
    metrics = train_step(state, batch)
    assert metrics["domain/strength"] == 0.7
    for place in ("image", "text"):
        assert 0 <= metrics[f"domain/{place}/accuracy"] <= 1
        assert metrics[f"domain/{place}/loss"] == pytest.approx(
            0.693147 * metrics[f"domain/{place}/loss_per_ln2"], rel=1e-4
        )
        assert 0 < metrics[f"{place}/source_spread"] < 1 and 0 < metrics[f"{place}/target_spread"] < 1
        assert metrics[f"{place}/centroid_distance"] > 0
    losses = metrics["domain/image/loss"] + metrics["domain/text/loss"] + metrics["contrastive/loss"]
    assert metrics["loss"] == pytest.approx(losses, rel=1e-6)
    assert metrics["image/gradient_ratio"] > 0
    assert any(not torch.equal(both[name], task[name]) for name in task)


def test_the_ratio_is_that_of_both_gradients_at_the_embeddings() -> None:
    batch, objective = both_domains(shift=60), objective_of(strength=0.5)
    z = {name: x.detach().requires_grad_() for name, x in objective.embed(batch).items()}
    losses = objective.loss(z, batch)
    (task,) = torch.autograd.grad(losses.multimodal, z["image"], retain_graph=True)
    (domain,) = torch.autograd.grad(losses.domain["image"], z["image"], retain_graph=True)
    losses = objective.loss(z, batch)
    losses.sum.backward()
    assert objective.figures()["image/gradient_ratio"].item() == pytest.approx((domain.norm() / task.norm()).item())


def test_a_collapsed_encoder_is_seen_in_its_spread() -> None:
    objective = objective_of(places=())
    with torch.no_grad():
        for p in objective.model.towers["image"].parameters():
            p.zero_()
        objective.model.towers["image"].last.bias.fill_(1.0)
    objective(both_domains())
    figures = objective.figures()
    assert figures["image/source_spread"] == pytest.approx(0.0, abs=1e-9)
    assert figures["text/source_spread"] > 0.05


def test_more_critic_steps_move_the_critic_alone_further() -> None:
    batch = both_domains(shift=60)
    once, thrice = (state_of("dann", ("image",), critic_steps=n) for n in (1, 3))
    for state in (once, thrice):
        train_step(state, batch)
    one, three = weights(once), weights(thrice)
    for name, x in one.items():
        assert torch.equal(x, three[name]) == (not name.startswith("places.")), name


def test_a_critic_may_learn_faster_than_the_encoders() -> None:
    """SGD without momentum and decay moves by rate x gradient, so the gain is seen as it is."""
    batch, before = both_domains(shift=60), weights(state_of("dann", ("image",)))
    moved = {}
    for gain in (1.0, 4.0):
        objective = objective_of("dann", ("image",), critic_gain=gain)
        still = {"optimizer": "sgd", "momentum": 0.0, "weight_decay": 0.0, "max_grad_norm": None}
        state = TrainState.create(objective, schedule=SCHEDULE, seed=3, **still)
        train_step(state, batch)
        moved[gain] = {name: x - before[name] for name, x in weights(state).items()}
    for name, x in moved[1.0].items():
        factor = 4.0 if name.startswith("places.") else 1.0
        torch.testing.assert_close(moved[4.0][name], factor * x, rtol=1e-6, atol=1e-12)


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ConfigError, match="no place 'txet'; did you mean 'text'"):
        objective_of(places=("txet",))
    with pytest.raises(ConfigError, match=r"unknown domain.loss 'dnan'; did you mean 'dann'"):
        DomainLoss("dnan", 8)
    with pytest.raises(ConfigError, match=r"domain.strength=-0.5 must not be negative"):
        Strength(peak=-0.5, steps=10)
    with pytest.raises(ConfigError, match=r"unknown domain.schedule 'rmap'; did you mean 'ramp'"):
        Strength(peak=1.0, steps=10, schedule="rmap")


def test_the_strength_is_a_function_of_the_step() -> None:
    rising = Strength(peak=0.4, steps=100)
    assert rising(0) == 0 and rising(10) == pytest.approx(0.4 * 0.4621, rel=1e-3)
    assert rising(50) == pytest.approx(0.4 * 0.9866, rel=1e-3) and rising(100) == rising(500)
    assert [Strength(peak=0.4, steps=100, schedule="constant")(step) for step in (0, 50)] == [0.4, 0.4]


def test_a_batch_knows_its_parts_also_in_chunks() -> None:
    batch = both_domains(rows=4, target=6, texts=2)
    assert batch.part("target") == slice(4, 10) and batch.part("nobody") == slice(12, 12)
    chunks = list(batch.chunks(5))
    assert [dict(chunk.parts) for chunk in chunks] == [
        {"source": 4, "target": 1, "target_text": 0},
        {"source": 0, "target": 5, "target_text": 0},
        {"source": 0, "target": 0, "target_text": 2},
    ]
    assert dict(share_of(batch, 1, 2).parts) == {"source": 2, "target": 3, "target_text": 1}
