"""What is said of a trained classifier: complete, plain, the same on a second look, and nothing moves."""

import copy
import json

import pytest
import torch

from support.clip_batches import CLASSES, classifier, clip_batch
from xmodal.errors import CorpusError
from xmodal.metrics.classifier_diagnosis import diagnose, features_of, losses_of
from xmodal.training.objectives.classification import ClassificationObjective

QUICK = {"flat_batches": 2, "directions": 2, "points": 3, "iterations": 2}
BATCHES = [clip_batch(8, seed=seed, masked=(3,), unlabelled=(5,)) for seed in range(4)]


def test_all_three_are_found_and_nothing_moves():
    model = classifier().train()
    before = copy.deepcopy(model.state_dict())
    found = diagnose(model, BATCHES, held_out=[clip_batch(10, seed=9)], **QUICK)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    for name in model.modalities:
        gradients = found["gradients"][name]
        assert len(gradients["cosines"]) == len(gradients["unimodal"]["norms"]) == 4
        assert gradients["multimodal"]["covariance_trace"] > 0
        assert 0 <= found["accuracy"][name]["head"] <= 1 and 0 <= found["accuracy"][name]["probe"] <= 1
    assert found["flatness"]["rows"] == 12 and found["flatness"]["eigenvalue"]["iterations"] >= 2
    assert found["accuracy"]["chance"] == 1 / CLASSES
    assert found["accuracy"]["rows"] == 10 and found["accuracy"]["fitted_on"] == 24
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
    assert model.training and all(p.grad is None for p in model.parameters())
    assert diagnose(model, BATCHES, held_out=[clip_batch(10, seed=9)], **QUICK) == found


def test_without_held_out_rows_each_fourth_batch_judges_and_fits_nothing():
    found = diagnose(classifier(), BATCHES, **QUICK)["accuracy"]
    assert found["rows"] == 6 and found["fitted_on"] == 18


def test_heads_that_were_never_trained_say_nothing():
    found = diagnose(classifier(), BATCHES, heads=False, **QUICK)
    assert set(found["gradients"]["audio"]) == {"multimodal"}
    assert found["accuracy"]["video"]["head"] is None and found["accuracy"]["video"]["probe"] >= 0


def test_the_losses_are_those_that_training_minimises():
    model = classifier()
    mine, theirs = losses_of(model, BATCHES[0]), ClassificationObjective(model)(BATCHES[0]).by_objective
    for one, other in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one, other)


def test_a_probe_finds_what_an_encoder_knows_and_its_head_does_not():
    """Labels that the features hold, behind a head as it was drawn."""
    model = classifier().eval()
    batches = [clip_batch(32, seed=seed) for seed in range(8)]
    known = torch.from_numpy(features_of(model, batches)[0]["audio"])
    direction = torch.linalg.svd(known - known.mean(0), full_matrices=False).Vh[0]  # in which they differ most
    for batch in batches:
        features = torch.from_numpy(features_of(model, [batch])[0]["audio"])
        score = (features - features.mean(0)) @ direction
        batch.fields["label"].copy_((score > score.median()).long())
    accuracy = diagnose(model, batches[:6], held_out=batches[6:], **QUICK)["accuracy"]
    assert accuracy["audio"]["probe"] > 0.85 > accuracy["audio"]["head"]


def test_rows_without_a_class_are_refused():
    blank = [clip_batch(4, seed=seed, unlabelled=(0, 1, 2, 3)) for seed in range(2)]
    with pytest.raises(CorpusError, match="no row has a class"):
        diagnose(classifier(), blank, **QUICK)
