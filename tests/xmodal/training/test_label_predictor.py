"""The label predictor of the adaptation objective: which rows it uses, and how its gradient is weighted."""

import pytest
import torch
from torch.nn import functional as F

from support.adaptation_batches import both_domains, make_objective, make_state
from xmodal.training.engine.step import train_step
from xmodal.training.objectives.unlabelled import UnlabelledLosses

BATCH = both_domains(shift=60, masked=(2, 9))
RULES = ("uniform", "mmpareto", "stop_gradient")


def gradients(objective, batch=BATCH) -> dict[str, torch.Tensor]:
    objective.zero_grad()
    objective(batch).sum.backward()
    return {name: p.grad.clone() for name, p in objective.named_parameters() if p.requires_grad}


def encoder_gradient(gradients, modality: str) -> torch.Tensor:
    start = f"contrast.model.towers.{modality}"
    return torch.cat([g.flatten() for name, g in gradients.items() if name.startswith(start)])


def test_label_loss_is_over_valid_source_rows_with_a_class() -> None:
    objective = make_objective(label=2.0)
    z, label = objective.embed(BATCH)["image"][:8], BATCH.fields["label"][:8]
    counted = BATCH.valid[:8] & (label >= 0)
    assert 0 < counted.sum() < 8 - 1
    expected = 2.0 * F.cross_entropy(objective.label.head(z[counted]), label[counted])
    torch.testing.assert_close(objective(BATCH).unimodal["label"], expected)
    right = (objective.label.head(z).argmax(1) == label)[counted].double().mean()
    assert objective.metrics()["label/accuracy"] == right


def test_a_batch_without_a_class_has_no_label_loss() -> None:
    batch = both_domains(shift=60)
    batch.fields["label"][:8] = -1
    assert make_objective(label=1.0)(batch).unimodal["label"] == 0


@pytest.mark.parametrize("rule", RULES)
def test_own_losses_are_weighted_and_domain_gradients_are_added_after(rule: str) -> None:
    """The image encoder has losses of its own (labels, views) and is weighted; the text encoder has none."""
    batch, losses = both_domains(shift=60, views=True), {"unlabelled": UnlabelledLosses(consistency=0.5)}
    contrast = gradients(make_objective(points=(), strength=0.0), batch)
    whole = gradients(make_objective(points=(), label=3.0, **losses), batch)
    domain = gradients(make_objective(strength=0.7), batch)
    without_domain, with_domain = (make_objective(strength=s, label=3.0, balance=rule, **losses) for s in (0.0, 0.7))
    weighted, both = gradients(without_domain, batch), gradients(with_domain, batch)
    assert torch.equal(without_domain.splitter.decision.gramian, with_domain.splitter.decision.gramian)
    assert without_domain.splitter.decision.encoders == ("image",)
    w_joint, w_unimodal = without_domain.splitter.decision.weights[0]
    contrastive = encoder_gradient(contrast, "image")
    unimodal = encoder_gradient(whole, "image") - contrastive
    expected = w_joint * contrastive + w_unimodal * unimodal
    torch.testing.assert_close(encoder_gradient(weighted, "image"), expected, rtol=1e-6, atol=1e-10)
    added = encoder_gradient(domain, "image") - contrastive
    torch.testing.assert_close(
        encoder_gradient(both, "image"), encoder_gradient(weighted, "image") + added, rtol=1e-6, atol=1e-10
    )
    torch.testing.assert_close(encoder_gradient(weighted, "text"), encoder_gradient(contrast, "text"))
    assert added.abs().max() > 1e-4 and unimodal.abs().max() > 1e-4


def test_metrics_have_label_loss_and_weighting_decision() -> None:
    metrics = train_step(make_state("dann", ("image",), label=0.5, balance="mmpareto"), BATCH)
    assert {"label/loss", "label/accuracy", "image/cosine", "image/conflict", "domain/strength"} <= metrics.keys()
    losses = metrics["contrastive/loss"] + 0.5 * metrics["label/loss"] + metrics["domain/image/loss"]
    assert metrics["loss"] == pytest.approx(losses, rel=1e-6)
