"""The diagnosis of a trained classifier is complete, plain and repeatable, and does not change the model."""

import copy
import json

import pytest
import torch

from support.clip_batches import CLASSES, classifier, clip_batch
from xmodal.errors import CorpusError
from xmodal.metrics.classifier_diagnosis import collect_features, diagnose, objective_losses
from xmodal.training.objectives.classification import ClassificationObjective

QUICK = {"flat_batches": 2, "directions": 2, "points": 3, "iterations": 2}
BATCHES = [clip_batch(8, seed=seed, masked=(3,), unlabelled=(5,)) for seed in range(4)]


def test_the_diagnosis_is_complete_and_does_not_change_the_model():
    model = classifier().train()
    before = copy.deepcopy(model.state_dict())
    diagnosis = diagnose(model, BATCHES, held_out=[clip_batch(10, seed=9)], **QUICK)
    assert json.loads(json.dumps(diagnosis, allow_nan=False)) == diagnosis
    for name in model.modalities:
        gradients = diagnosis["gradients"][name]
        assert len(gradients["cosines"]) == len(gradients["unimodal"]["norms"]) == 4
        assert gradients["multimodal"]["covariance_trace"] > 0
        assert 0 <= diagnosis["accuracy"][name]["head"] <= 1 and 0 <= diagnosis["accuracy"][name]["probe"] <= 1
    assert diagnosis["flatness"]["rows"] == 12 and diagnosis["flatness"]["eigenvalue"]["iterations"] >= 2
    assert diagnosis["accuracy"]["chance"] == 1 / CLASSES
    assert diagnosis["accuracy"]["rows"] == 10 and diagnosis["accuracy"]["fitted_on"] == 24
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
    assert model.training and all(p.grad is None for p in model.parameters())
    assert diagnose(model, BATCHES, held_out=[clip_batch(10, seed=9)], **QUICK) == diagnosis


def test_without_held_out_rows_every_fourth_batch_is_for_testing():
    accuracy = diagnose(classifier(), BATCHES, **QUICK)["accuracy"]
    assert accuracy["rows"] == 6 and accuracy["fitted_on"] == 18


def test_untrained_heads_are_left_out():
    diagnosis = diagnose(classifier(), BATCHES, heads=False, **QUICK)
    assert set(diagnosis["gradients"]["audio"]) == {"multimodal"}
    assert diagnosis["accuracy"]["video"]["head"] is None and diagnosis["accuracy"]["video"]["probe"] >= 0


def test_the_losses_equal_those_of_training():
    model = classifier()
    actual, expected = objective_losses(model, BATCHES[0]), ClassificationObjective(model)(BATCHES[0]).by_objective
    for actual_loss, expected_loss in zip(actual, expected, strict=True):
        torch.testing.assert_close(actual_loss, expected_loss)


def test_a_probe_reads_labels_that_an_untrained_head_cannot():
    """The labels are a linear function of the features; the head has its initial weights."""
    model = classifier().eval()
    batches = [clip_batch(32, seed=seed) for seed in range(8)]
    all_features = torch.from_numpy(collect_features(model, batches)[0]["audio"])
    direction = torch.linalg.svd(all_features - all_features.mean(0), full_matrices=False).Vh[
        0
    ]  # in which they differ most
    for batch in batches:
        features = torch.from_numpy(collect_features(model, [batch])[0]["audio"])
        score = (features - features.mean(0)) @ direction
        batch.fields["label"].copy_((score > score.median()).long())
    accuracy = diagnose(model, batches[:6], held_out=batches[6:], **QUICK)["accuracy"]
    assert accuracy["audio"]["probe"] > 0.85 > accuracy["audio"]["head"]


def test_batches_without_labels_raise():
    blank = [clip_batch(4, seed=seed, unlabelled=(0, 1, 2, 3)) for seed in range(2)]
    with pytest.raises(CorpusError, match="no row has a class"):
        diagnose(classifier(), blank, **QUICK)
