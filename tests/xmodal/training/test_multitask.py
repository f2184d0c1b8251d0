"""Tasks on a shared encoder: both spaces weigh the tasks' own gradients, heads get theirs, missing labels count not."""

import pytest
import torch
from torch.nn import functional as F

from xmodal.batch import Batch
from xmodal.encoders.inputs import Pixels
from xmodal.encoders.multitask_classifier import SharedEncoder, TaskClassifier
from xmodal.encoders.small_resnet import ConvConfig, ConvModel
from xmodal.errors import ConfigError
from xmodal.gradients import FeatureSplitter, weighting
from xmodal.training.balance_options import Balance
from xmodal.training.balanced_learning import balanced_tasks
from xmodal.training.engine.state import TrainState
from xmodal.training.engine.step import train_step
from xmodal.training.objectives.multitask import TaskObjective

TASKS = {"easy": 3, "hard": 4, "other": 2}


def model() -> TaskClassifier:
    torch.manual_seed(0)
    config = ConvConfig(hidden_sizes=[8], depths=[1], stem_size=8, group_size=4, grid=2)
    encoder = SharedEncoder(Pixels("image", size=16), ConvModel(config))
    return TaskClassifier(encoder, width=config.feature_size, classes=TASKS)


def batch(rows: int = 8, *, unlabelled: int = 0) -> Batch:
    draw = torch.Generator().manual_seed(1)
    labels = {f"{task}_label": torch.randint(0, count, (rows,), generator=draw) for task, count in TASKS.items()}
    labels["hard_label"][:unlabelled] = -1
    image = torch.randint(0, 256, (rows, 16, 16, 3), generator=draw, dtype=torch.uint8)
    return Batch(torch.arange(rows), torch.ones(rows, dtype=torch.bool), {"image": image, **labels})


def naive(one: TaskClassifier, rows: Batch) -> list[torch.Tensor]:
    """Each task's gradient at the encoder, by plain autograd."""
    found = []
    for task in TASKS:
        score = one.heads[task](one.encoder(rows))
        loss = F.cross_entropy(score, rows.fields[f"{task}_label"], ignore_index=-1)
        gradients = torch.autograd.grad(loss, list(one.encoder.parameters()))
        found.append(torch.cat([g.flatten() for g in gradients]))
    return found


@pytest.mark.parametrize("method", ["uniform", "min_norm", "min_norm_scaled", "mmpareto", "pcgrad", "upgrad"])
@pytest.mark.parametrize("space", ["parameters", "features"])
def test_a_shared_encoder_receives_the_weighted_sum_of_the_tasks_gradients(method: str, space: str) -> None:
    one, rows = model(), batch(unlabelled=2)
    objective, where = balanced_tasks(Balance(method=method, space=space), one)
    losses = objective(rows)
    if where is not None:
        where.add(losses.by_objective)
        decision = where.decide()
    else:
        losses.sum.backward()
        decision = objective.splitter.decision
    assert decision.encoders == ("shared",) and decision.weights.shape == (1, 3)
    own = torch.cat([p.grad.flatten() for p in one.encoder.parameters()])
    vectors = torch.stack(naive(one, rows))
    torch.testing.assert_close(own, decision.weights[0].float() @ vectors, rtol=1e-4, atol=1e-6)
    if where is not None:
        torch.testing.assert_close(decision.gramian[0], (vectors @ vectors.T).double(), rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(decision.weights, weighting(method)(decision.gramian))


def test_heads_receive_their_own_gradient_whatever_the_method() -> None:
    found = []
    for method in ("uniform", "mmpareto"):
        one = model()
        objective, _ = balanced_tasks(Balance(method=method), one)
        objective(batch()).sum.backward()
        found.append(torch.cat([p.grad.flatten() for p in one.heads.parameters()]))
    torch.testing.assert_close(*found)


def test_a_step_trains_the_tasks_and_reports_each() -> None:
    objective, space = balanced_tasks(Balance(method="mmpareto", space="parameters"), model())
    state = TrainState.create(objective, schedule=lambda step: 0.05, seed=0, space=space, optimizer="sgd")
    seen = [train_step(state, batch()) for _ in range(60)]
    assert seen[-1]["loss"] < 0.5 * seen[0]["loss"]
    assert {"easy/accuracy", "hard/accuracy", "shared/cosine", "shared/conflict"} <= set(seen[-1])


def test_one_task_alone_leaves_the_other_heads_as_they_were() -> None:
    one = model()
    before = one.heads["hard"].weight.clone()
    objective = TaskObjective(one, only=["easy"])
    losses = objective(batch())
    losses.sum.backward()
    assert set(losses.tasks) == {"easy"} and one.heads["hard"].weight.grad is None
    assert torch.equal(one.heads["hard"].weight, before)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TaskObjective(model(), only=["esay"]), "no task 'esay'; did you mean 'easy'"),
        (lambda: TaskObjective(model(), splitter=FeatureSplitter(weighting("uniform"))), "2 objectives for 3 tasks"),
        (lambda: balanced_tasks(Balance(method="joint"), model()), "tasks have neither"),
        (lambda: TaskClassifier(model().encoder, width=32, classes={"one": 1}), "two classes or more"),
    ],
)
def test_mistakes_are_named(make, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()
