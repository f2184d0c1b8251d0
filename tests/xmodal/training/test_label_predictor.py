"""A label predictor beside a contrastive loss: whose rows it learns from, and what meets at its encoder."""

import pytest
import torch
from torch.nn import functional as F

from support.adaptation_batches import both_domains, objective_of, state_of
from xmodal.training.engine.step import train_step
from xmodal.training.objectives.unlabelled import Unlabelled

BATCH = both_domains(shift=60, masked=(2, 9))
RULES = ("uniform", "mmpareto", "stop_gradient")


def gradients(objective, batch=BATCH) -> dict[str, torch.Tensor]:
    objective.zero_grad()
    objective(batch).sum.backward()
    return {name: p.grad.clone() for name, p in objective.named_parameters() if p.requires_grad}


def of(found, modality: str) -> torch.Tensor:
    start = f"contrast.model.towers.{modality}"
    return torch.cat([g.flatten() for name, g in found.items() if name.startswith(start)])


def test_it_learns_from_the_classes_of_valid_source_rows_alone() -> None:
    objective = objective_of(label=2.0)
    z, label = objective.embed(BATCH)["image"][:8], BATCH.fields["label"][:8]
    counted = BATCH.valid[:8] & (label >= 0)
    assert 0 < counted.sum() < 8 - 1
    expected = 2.0 * F.cross_entropy(objective.label.head(z[counted]), label[counted])
    torch.testing.assert_close(objective(BATCH).unimodal["label"], expected)
    right = (objective.label.head(z).argmax(1) == label)[counted].double().mean()
    assert objective.figures()["label/accuracy"] == right


def test_a_batch_without_a_class_has_no_label_loss() -> None:
    batch = both_domains(shift=60)
    batch.fields["label"][:8] = -1
    assert objective_of(label=1.0)(batch).unimodal["label"] == 0


@pytest.mark.parametrize("rule", RULES)
def test_both_gradients_of_an_encoder_are_weighed_and_the_domain_is_added_after(rule: str) -> None:
    """The contrastive loss and the encoder's own (labels, views), at its embeddings; the text encoder has none."""
    batch, own = both_domains(shift=60, views=True), {"unlabelled": Unlabelled(consistency=0.5)}
    contrast = gradients(objective_of(places=(), strength=0.0), batch)
    whole = gradients(objective_of(places=(), label=3.0, **own), batch)
    domain = gradients(objective_of(strength=0.7), batch)
    none, some = (objective_of(strength=s, label=3.0, rule=rule, **own) for s in (0.0, 0.7))
    decided, both = gradients(none, batch), gradients(some, batch)
    assert torch.equal(none.splitter.decision.gramian, some.splitter.decision.gramian)
    assert none.splitter.decision.encoders == ("image",)
    w_joint, w_own = none.splitter.decision.weights[0]
    expected = w_joint * of(contrast, "image") + w_own * (of(whole, "image") - of(contrast, "image"))
    torch.testing.assert_close(of(decided, "image"), expected, rtol=1e-6, atol=1e-10)
    added = of(domain, "image") - of(contrast, "image")
    torch.testing.assert_close(of(both, "image"), of(decided, "image") + added, rtol=1e-6, atol=1e-10)
    torch.testing.assert_close(of(decided, "text"), of(contrast, "text"))
    assert added.abs().max() > 1e-4 and (of(whole, "image") - of(contrast, "image")).abs().max() > 1e-4


def test_the_metrics_tell_of_labels_and_of_the_decision() -> None:
    metrics = train_step(state_of("dann", ("image",), label=0.5, rule="mmpareto"), BATCH)
    assert {"label/loss", "label/accuracy", "image/cosine", "image/conflict", "domain/strength"} <= metrics.keys()
    losses = metrics["contrastive/loss"] + 0.5 * metrics["label/loss"] + metrics["domain/image/loss"]
    assert metrics["loss"] == pytest.approx(losses, rel=1e-6)
