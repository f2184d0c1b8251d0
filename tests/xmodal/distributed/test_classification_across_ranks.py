"""A classifier's step has the gradients of the global mean, for any number of ranks and chunks and any weighting."""

import pytest
import torch
from torch.nn import functional as F

from support.clip_batches import classifier, clip_batch
from support.gloo_ranks import run
from support.toy_encoder import part_of
from xmodal.distributed.ranks import current_rank, world_size
from xmodal.gradients import FeatureSplitter, ParameterSpace, Partition, weighting
from xmodal.training.engine.accumulation import backward
from xmodal.training.engine.schedule import CosineSchedule
from xmodal.training.engine.state import TrainState
from xmodal.training.engine.step import train_step
from xmodal.training.objectives.classification import ClassificationObjective

SCHEDULE = CosineSchedule(peak=1e-2, total_steps=100, warmup_steps=3)
SPACES = ("none", "features", "parameters")
BATCH = clip_batch(12, seed=1, masked=(0, 7), unlabelled=(5,))


def state_of(space: str = "none", rule: str = "uniform", *, rows_per_forward=None, fusion="concatenation", **options):
    model = classifier(fusion)
    splitter = FeatureSplitter(weighting(rule)) if space == "features" else None
    objective = ClassificationObjective(model, splitter=splitter)
    partition = Partition.from_module(objective, model.encoders)
    parameter_space = ParameterSpace(partition, weighting(rule)) if space == "parameters" else None
    options = {"optimizer": "sgd", "momentum": 0.9, **options}
    return TrainState.create(
        objective, schedule=SCHEDULE, seed=3, space=parameter_space, rows_per_forward=rows_per_forward, **options
    )


def gradients(state: TrainState) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in state.objective.named_parameters() if p.requires_grad}


def rank_gradients(space: str, rule: str, rows_per_forward: int | None) -> dict[str, torch.Tensor]:
    state = state_of(space, rule, rows_per_forward=rows_per_forward)
    backward(state, part_of(BATCH, current_rank(), world_size()))
    return gradients(state)


def all_gradients() -> dict[tuple[str, int | None], dict[str, torch.Tensor]]:
    return {(space, rows): rank_gradients(space, "uniform", rows) for space in SPACES for rows in (None, 2)}


def reference() -> dict[str, torch.Tensor]:
    """Return the gradients by definition: those of the sum of mean cross-entropies over the rows that count."""
    model, batch = classifier(), BATCH
    tokens, masks = model.encode(batch)
    labelled = batch.valid & (batch.fields["label"] >= 0)
    scores = [model.multimodal_scores(tokens, masks)]
    scores += [model.unimodal_scores(name, tokens, masks) for name in model.modalities]
    sum(F.cross_entropy(score[labelled], batch.fields["label"][labelled]) for score in scores).backward()
    return {f"model.{name}": p.grad for name, p in model.named_parameters()}


@pytest.mark.parametrize("world", [1, 2, 4])
def test_uniform_gradients_are_those_of_the_global_mean(world: int) -> None:
    expected = reference()
    for of_rank in [all_gradients()] if world == 1 else run(all_gradients, world):
        for actual in of_rank.values():
            assert actual.keys() == expected.keys()
            for name in expected:
                torch.testing.assert_close(actual[name], expected[name], rtol=1e-4, atol=1e-6)


def test_mmpareto_gives_the_same_weights_on_one_rank_and_two() -> None:
    expected = both_spaces()
    for actual in run(both_spaces, 2):
        for name, weight in expected.items():
            torch.testing.assert_close(actual[name], weight, rtol=1e-5, atol=1e-7)


def both_spaces() -> dict[str, torch.Tensor]:
    return {f"{space}/{name}": w for space in SPACES[1:] for name, w in rank_weights(space).items()}


def rank_weights(space: str) -> dict[str, torch.Tensor]:
    state = state_of(space, "mmpareto", fusion="transformer")
    for step in range(3):
        batch = clip_batch(12, seed=step, masked=(3,))
        metrics = train_step(state, part_of(batch, current_rank(), world_size()))
        assert {"audio/cosine", "video/conflict", "audio/accuracy", "multimodal/accuracy"} <= metrics.keys()
    return {name: p.detach().clone() for name, p in state.objective.named_parameters()}


def test_parameter_space_decides_once_for_all_chunks() -> None:
    """The decision is taken on the whole batch's gradients, however they were accumulated."""
    whole, chunked = (rank_gradients("parameters", "mmpareto", rows) for rows in (None, 4))
    for name in whole:
        torch.testing.assert_close(chunked[name], whole[name], rtol=1e-4, atol=1e-6)


def test_the_joint_loss_does_not_train_the_unimodal_heads() -> None:
    model = classifier()
    state = TrainState.create(ClassificationObjective(model, unimodal=False), schedule=SCHEDULE, seed=0)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    metrics = train_step(state, clip_batch(8))
    assert "audio/accuracy" not in metrics and metrics["multimodal/accuracy"] <= 1
    for name, p in model.named_parameters():
        assert name.startswith("heads") == bool(torch.equal(p, before[name]))


def test_a_batch_without_labels_changes_no_weight() -> None:
    state = state_of(weight_decay=0.0)
    before = {name: p.detach().clone() for name, p in state.objective.named_parameters()}
    assert train_step(state, clip_batch(4, unlabelled=(0, 1, 2, 3)))["loss"] == 0
    assert all(torch.equal(p, before[name]) for name, p in state.objective.named_parameters())


@pytest.mark.parametrize("options", [{}, {"optimizer": "adamw"}], ids=["sgd", "adamw"])
@pytest.mark.parametrize("space", SPACES)
def test_the_classifier_overfits_eight_clips(space: str, options: dict) -> None:
    state = state_of(space, "mmpareto" if space != "none" else "uniform", max_grad_norm=None, **options)
    batch = clip_batch(8, seed=4)
    first = train_step(state, batch)
    for _ in range(60):
        last = train_step(state, batch)
    assert last["loss"] < first["loss"] / 2 and last["multimodal/accuracy"] > 0.9
