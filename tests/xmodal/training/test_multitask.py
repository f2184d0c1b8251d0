"""Multi-task objectives: gradients are weighted at the shared encoder, and rows without a label are ignored."""

import pytest
import torch
from torch.nn import functional as F

from xmodal.batch import Batch
from xmodal.encoders.inputs import ImageInput
from xmodal.encoders.multitask_classifier import MultitaskClassifier, SharedEncoder
from xmodal.encoders.small_resnet import ConvConfig, ConvModel
from xmodal.errors import ConfigError
from xmodal.gradients import FeatureSplitter, weighting
from xmodal.training.balance_options import GradientBalance
from xmodal.training.balanced_learning import build_task_objective
from xmodal.training.engine.state import TrainState
from xmodal.training.engine.step import train_step
from xmodal.training.objectives.multitask import TaskObjective

TASKS = {"easy": 3, "hard": 4, "other": 2}


def model() -> MultitaskClassifier:
    torch.manual_seed(0)
    config = ConvConfig(hidden_sizes=[8], depths=[1], stem_size=8, group_size=4, grid=2)
    encoder = SharedEncoder(ImageInput("image", size=16), ConvModel(config))
    return MultitaskClassifier(encoder, width=config.feature_size, classes=TASKS)


def batch(rows: int = 8, *, unlabelled: int = 0) -> Batch:
    draw = torch.Generator().manual_seed(1)
    labels = {f"{task}_label": torch.randint(0, count, (rows,), generator=draw) for task, count in TASKS.items()}
    labels["hard_label"][:unlabelled] = -1
    image = torch.randint(0, 256, (rows, 16, 16, 3), generator=draw, dtype=torch.uint8)
    return Batch(torch.arange(rows), torch.ones(rows, dtype=torch.bool), {"image": image, **labels})


def naive_gradients(classifier: MultitaskClassifier, rows: Batch) -> list[torch.Tensor]:
    """Return each task's gradient at the encoder, by plain autograd."""
    by_task = []
    for task in TASKS:
        score = classifier.heads[task](classifier.encoder(rows))
        loss = F.cross_entropy(score, rows.fields[f"{task}_label"], ignore_index=-1)
        gradients = torch.autograd.grad(loss, list(classifier.encoder.parameters()))
        by_task.append(torch.cat([g.flatten() for g in gradients]))
    return by_task


@pytest.mark.parametrize("method", ["uniform", "min_norm", "min_norm_scaled", "mmpareto", "pcgrad", "upgrad"])
@pytest.mark.parametrize("space", ["parameters", "features"])
def test_a_shared_encoder_receives_the_weighted_sum_of_the_tasks_gradients(method: str, space: str) -> None:
    classifier, rows = model(), batch(unlabelled=2)
    objective, parameter_space = build_task_objective(GradientBalance(method=method, space=space), classifier)
    losses = objective(rows)
    if parameter_space is not None:
        parameter_space.add(losses.by_objective)
        decision = parameter_space.decide()
    else:
        losses.sum.backward()
        decision = objective.splitter.decision
    assert decision.encoders == ("shared",) and decision.weights.shape == (1, 3)
    combined = torch.cat([p.grad.flatten() for p in classifier.encoder.parameters()])
    vectors = torch.stack(naive_gradients(classifier, rows))
    torch.testing.assert_close(combined, decision.weights[0].float() @ vectors, rtol=1e-4, atol=1e-6)
    if parameter_space is not None:
        torch.testing.assert_close(decision.gramian[0], (vectors @ vectors.T).double(), rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(decision.weights, weighting(method)(decision.gramian))


def test_heads_receive_unweighted_gradients_with_every_method() -> None:
    head_gradients = []
    for method in ("uniform", "mmpareto"):
        classifier = model()
        objective, _ = build_task_objective(GradientBalance(method=method), classifier)
        objective(batch()).sum.backward()
        head_gradients.append(torch.cat([p.grad.flatten() for p in classifier.heads.parameters()]))
    torch.testing.assert_close(*head_gradients)


def test_training_reduces_the_loss_and_reports_each_task() -> None:
    objective, space = build_task_objective(GradientBalance(method="mmpareto", space="parameters"), model())
    state = TrainState.create(objective, schedule=lambda step: 0.05, seed=0, space=space, optimizer="sgd")
    metrics = [train_step(state, batch()) for _ in range(60)]
    assert metrics[-1]["loss"] < 0.5 * metrics[0]["loss"]
    assert {"easy/accuracy", "hard/accuracy", "shared/cosine", "shared/conflict"} <= set(metrics[-1])


def test_training_one_task_freezes_the_other_heads() -> None:
    classifier = model()
    before = classifier.heads["hard"].weight.clone()
    objective = TaskObjective(classifier, only=["easy"])
    losses = objective(batch())
    losses.sum.backward()
    assert set(losses.tasks) == {"easy"} and classifier.heads["hard"].weight.grad is None
    assert torch.equal(classifier.heads["hard"].weight, before)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TaskObjective(model(), only=["esay"]), "no task 'esay'; did you mean 'easy'"),
        (lambda: TaskObjective(model(), splitter=FeatureSplitter(weighting("uniform"))), "2 objectives for 3 tasks"),
        (lambda: build_task_objective(GradientBalance(method="joint"), model()), "tasks have neither"),
        (lambda: MultitaskClassifier(model().encoder, width=32, classes={"one": 1}), "two classes or more"),
    ],
)
def test_invalid_tasks_and_methods_raise(make, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()
