"""Both gradient spaces with frozen and absent modalities, accumulation, batch norm and mixed precision."""

import copy

import pytest
import torch
from torch import nn

from support.host_reads import HostReads
from support.two_modalities import (
    ENCODERS,
    MMPARETO,
    AudioVideo,
    conflicting_rows,
    encoder_vector,
    feature_step,
    gradients_of,
    model_of,
    naive_vectors,
    parameter_step,
    part_of,
    rows_of,
)
from tests.xmodal.gradients.test_weightings import ON_GRAMIANS
from xmodal.gradients import FeatureSplitter, ParameterSpace, weighting

STEPS = pytest.mark.parametrize("step", [parameter_step, feature_step])


@STEPS
def test_a_frozen_encoder_has_no_decision_and_no_gradient(step):
    model = model_of()
    model.encoders["video"].requires_grad_(False)
    rows = rows_of(8)
    decision = step(model, rows)
    assert decision.encoders == ("audio",)
    assert all(p.grad is None for p in model.encoders["video"].parameters())
    assert model.heads["video"].weight.grad.abs().sum() > 0
    assert encoder_vector(model, "audio").isfinite().all()


@STEPS
@pytest.mark.parametrize("name", ON_GRAMIANS)
def test_an_absent_modality_gets_the_multimodal_gradient_only(step, name):
    model = model_of()
    rows = rows_of(8) | {"video_here": torch.zeros(8, dtype=torch.float64)}
    decision = step(model, rows, weighting(name))
    assert all(g.isfinite().all() for g in gradients_of(model).values())
    assert decision.gramian[1, 1].tolist() == [0.0, 0.0]
    multimodal = naive_vectors(model_of(), rows)["video"][0]
    expected = {"stop_gradient": 0.0, "mmpareto": 1.5, "mmpareto_continuous": 1.5}.get(name, 1.0)
    torch.testing.assert_close(encoder_vector(model, "video"), expected * multimodal)


def test_a_loss_without_graph_counts_as_absent():
    model = model_of()
    space = ParameterSpace(model.partition, MMPARETO)
    space.add([model(rows_of(8))[0], torch.zeros(())])
    assert not space.decide().gramian[:, 1].any()
    torch.testing.assert_close(encoder_vector(model, "audio"), 1.5 * naive_vectors(model_of(), rows_of(8))["audio"][0])


def test_micro_batches_are_summed_and_decided_once():
    model = model_of()
    rows = conflicting_rows(model)
    whole = copy.deepcopy(model)
    expected = parameter_step(whole, rows)
    space = ParameterSpace(model.partition, MMPARETO)
    for _ in range(2):  # the second accumulation starts from zero
        for i in range(4):
            multimodal, unimodal, _ = model(part_of(rows, i, 4))
            space.add([multimodal / 4, unimodal / 4], last=i == 3)
        decision = space.decide()
    torch.testing.assert_close(decision.weights, expected.weights)
    torch.testing.assert_close(gradients_of(model), gradients_of(whole))


def test_in_feature_space_every_micro_batch_takes_its_own_decision():
    model, rows = model_of(), rows_of(8)
    model.splitter = FeatureSplitter(MMPARETO)
    total = {}
    for i in range(2):
        single = model_of()
        feature_step(single, part_of(rows, i, 2))
        for path, gradient in gradients_of(single).items():
            total[path] = total.get(path, 0) + gradient
        sum(model(part_of(rows, i, 2))[:2]).backward()
    torch.testing.assert_close(gradients_of(model), total)


@STEPS
def test_running_statistics_are_updated_once_per_forward(step):
    model, rows = model_of(norm=nn.BatchNorm1d), rows_of(8)
    once = copy.deepcopy(model)
    once(rows)
    step(model, rows)
    assert model.encoders["audio"][1].num_batches_tracked == 1
    torch.testing.assert_close(dict(model.named_buffers()), dict(once.named_buffers()))


@STEPS
@pytest.mark.parametrize("name", ["mmpareto", "upgrad", "min_norm"])
def test_a_step_never_waits_for_the_host(step, name):
    model, rows = model_of(), rows_of(8)
    step(model, rows, weighting(name))
    with HostReads() as reads:
        step(model, rows, weighting(name)).metrics()
    assert reads.seen == []


@STEPS
def test_a_gradient_scaler_gives_the_gradients_of_float32(step):
    exact, scaled, rows = AudioVideo(), AudioVideo(), rows_of(8, dtype=torch.float32)
    step(exact, rows)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12)
    optimizer = torch.optim.SGD(scaled.parameters(), lr=0.1)
    scaled_step(scaled, rows, step, scaler.scale)
    scaler.unscale_(optimizer)
    torch.testing.assert_close(gradients_of(scaled), gradients_of(exact), rtol=1e-5, atol=1e-7)


def scaled_step(model, rows, step, scale):
    """Run the same step with scaled losses."""
    forward = model.forward
    model.forward = lambda r: tuple(scale(loss) for loss in forward(r))
    step(model, rows)


@STEPS
@pytest.mark.parametrize("broken", [0, 1])
@pytest.mark.parametrize("name", ["mmpareto", "stop_gradient", "min_norm"])
def test_an_overflow_of_any_objective_makes_the_scaler_skip_the_step(step, broken, name):
    model, rows = AudioVideo(), rows_of(8, dtype=torch.float32)
    before = copy.deepcopy(model.state_dict())
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    forward = model.forward
    model.forward = lambda r: tuple(
        scaler.scale(loss) * (torch.inf if i == broken else 1) for i, loss in enumerate(forward(r))
    )
    step(model, rows, weighting(name))
    scaler.step(optimizer)
    scaler.update()
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
    assert scaler.get_scale() == 1.0


@STEPS
def test_bfloat16_features_are_weighed_like_float32_ones(step):
    rows = rows_of(64, seed=2, dtype=torch.float32)
    exact, low = AudioVideo(), AudioVideo()
    expected = step(exact, rows)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        decision = step(low, rows)
    assert decision.gramian.dtype == torch.float64
    assert all(g.dtype == torch.float32 for g in gradients_of(low).values())
    torch.testing.assert_close(decision.weights, expected.weights, rtol=0.1, atol=0.02)
    for n in ENCODERS:
        assert torch.cosine_similarity(encoder_vector(low, n), encoder_vector(exact, n), dim=0) > 0.99


@pytest.mark.gpu
@STEPS
@pytest.mark.parametrize("name", ["mmpareto", "mmpareto_continuous", "pcgrad"])
def test_on_a_gpu_nothing_synchronises_and_gradients_equal_those_on_a_cpu(step, name):
    on_cpu, on_gpu, rows = model_of(), model_of().cuda(), rows_of(8)
    step(on_cpu, rows, weighting(name))
    rows = {key: x.cuda() for key, x in rows.items()}
    step(on_gpu, rows, weighting(name))
    on_gpu.zero_grad()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step(on_gpu, rows, weighting(name)).metrics()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    actual = {path: gradient.cpu() for path, gradient in gradients_of(on_gpu).items()}
    torch.testing.assert_close(actual, gradients_of(on_cpu), rtol=1e-8, atol=1e-11)
