"""Both gradient spaces in one process: gradients, audits, tasks, extra objectives, and errors for invalid uses."""

import copy

import pytest
import torch
from torch import nn

from support.two_modalities import (
    ENCODERS,
    INPUTS,
    MMPARETO,
    conflicting_rows,
    encoder_vector,
    feature_step,
    gradients_of,
    model_of,
    naive_vectors,
    parameter_step,
    part_of,
    rows_of,
    uniform_gradients,
)
from tests.xmodal.gradients.test_weightings import ON_GRAMIANS
from xmodal.distributed.synchrony import find_unsynchronised
from xmodal.errors import ConfigError
from xmodal.gradients import Auditor, FeatureSplitter, ParameterSpace, Partition, weighting
from xmodal.gradients.gramian import compute_gramian


@pytest.mark.parametrize("name", ON_GRAMIANS)
def test_parameter_space_gives_the_weighted_sum_of_autograd_gradients(name):
    model, choose = model_of(), weighting(name)
    rows = conflicting_rows(model)
    vectors, uniform = naive_vectors(model, rows), uniform_gradients(model, rows)
    decision = parameter_step(model, rows, choose)
    for i, encoder in enumerate(ENCODERS):
        gramian = compute_gramian(vectors[encoder])
        torch.testing.assert_close(decision.gramian[i], gramian)
        expected = choose(gramian) @ torch.stack(vectors[encoder])
        torch.testing.assert_close(encoder_vector(model, encoder), expected)
        torch.testing.assert_close(decision.norm[i], expected.norm())
        products = torch.stack(vectors[encoder]) @ expected
        torch.testing.assert_close(decision.alignment[i], products)
    for path, gradient in gradients_of(model).items():
        if not path.startswith("encoders"):
            torch.testing.assert_close(gradient, uniform[path])


@pytest.mark.parametrize("name", ON_GRAMIANS)
def test_feature_space_weights_apply_to_the_parameters(name):
    model, choose = model_of(), weighting(name)
    rows = conflicting_rows(model)
    vectors, uniform = naive_vectors(model, rows), uniform_gradients(model, rows)
    decision = feature_step(model, rows, choose)
    for i, encoder in enumerate(ENCODERS):
        expected = decision.weights[i] @ torch.stack(vectors[encoder])
        torch.testing.assert_close(encoder_vector(model, encoder), expected)
        torch.testing.assert_close(decision.weights[i], choose(decision.gramian[i]))
    for path, gradient in gradients_of(model).items():
        if not path.startswith("encoders"):
            torch.testing.assert_close(gradient, uniform[path])


def test_per_tensor_weights_follow_the_published_rule_and_raise_in_feature_space():
    model, choose = model_of(), weighting("mmpareto_per_tensor", gamma=1.5)
    rows = conflicting_rows(model)
    pure = copy.deepcopy(model)
    plain = uniform_gradients(model, rows)
    parameter_step(pure, rows, weighting("min_norm_scaled"))
    decision = parameter_step(model, rows, choose)
    for path, p in pure.encoders.named_parameters():
        ratio = max(1.0, (plain[f"encoders.{path}"].norm() / p.grad.norm()).item())
        torch.testing.assert_close(dict(model.encoders.named_parameters())[path].grad, 1.5 * ratio * p.grad)
    for i, encoder in enumerate(ENCODERS):
        torch.testing.assert_close(decision.norm[i], encoder_vector(model, encoder).norm())
    with pytest.raises(ConfigError, match="use the parameter space"):
        FeatureSplitter(choose)


def orthonormal_rows(seed):
    rows = rows_of(4, seed=seed)
    for name in INPUTS:
        rows[name] = torch.linalg.qr(rows[name].T)[0].T.contiguous()
    return rows


@pytest.mark.parametrize("seed", range(5))
def test_spaces_agree_for_a_linear_encoder_with_orthonormal_inputs(seed):
    """g_k = X' delta_k, so <g_i, g_j> = <delta_i, X X' delta_j> = <delta_i, delta_j>."""
    rows = orthonormal_rows(seed)
    first, second = model_of(linear=True), model_of(linear=True)
    in_parameter_space, in_feature_space = parameter_step(first, rows), feature_step(second, rows)
    torch.testing.assert_close(in_parameter_space.gramian, in_feature_space.gramian)
    torch.testing.assert_close(gradients_of(first), gradients_of(second))


def audit_of(model, losses):
    auditor = Auditor(model.partition, MMPARETO, splitter=model.splitter)
    auditor.add(losses, model.features)
    return auditor.result()


def test_an_audit_reports_both_decisions_and_changes_nothing():
    model = model_of()
    model.splitter = FeatureSplitter(MMPARETO)
    rows = conflicting_rows(model)
    multimodal, unimodal, _ = model(rows)
    result = audit_of(model, [multimodal, unimodal])
    assert gradients_of(model) == {}
    assert model.splitter.decision is None
    (multimodal + unimodal).backward()
    torch.testing.assert_close(result.feature_weights, model.splitter.decision.weights)
    updates = [encoder_vector(model, n) for n in ENCODERS]
    other = copy.deepcopy(model_of())
    torch.testing.assert_close(result.parameter_weights, parameter_step(other, rows).weights)
    for i, n in enumerate(ENCODERS):
        cosine = torch.cosine_similarity(updates[i], encoder_vector(other, n), dim=0)
        assert result.angle_degrees[i].item() == pytest.approx(torch.rad2deg(torch.acos(cosine)).item(), abs=1e-3)
    assert result.metrics().keys() >= {"audit/audio/same_sign", "audit/video/weight_gap", "audit/audio/feature_cosine"}
    assert (result.same_sign == ((result.feature_gramians < 0).flatten(1).any(1))).all()


def test_an_audit_of_agreeing_spaces_has_angle_0():
    model = model_of(linear=True)
    multimodal, unimodal, _ = model(orthonormal_rows(1))
    result = audit_of(model, [multimodal, unimodal])
    assert result.same_sign.all()
    assert result.angle_degrees.max() < 1e-6
    assert result.weight_gap.max() < 1e-10


STEPS = pytest.mark.parametrize("step", [parameter_step, feature_step])


@STEPS
def test_an_extra_objective_is_added_after_the_decision(step):
    model, rows = model_of(), None
    rows = conflicting_rows(model)
    plain, with_extra = copy.deepcopy(model), copy.deepcopy(model)
    without = step(plain, rows)
    decision = step(with_extra, rows, extra=-0.7)  # reversed, as a domain critic's gradient is
    torch.testing.assert_close(decision.weights, without.weights)
    torch.testing.assert_close(decision.gramian, without.gramian)
    _, _, extra_loss = model(rows)
    (-0.7 * extra_loss).backward()
    for path, p in model.named_parameters():
        added = torch.zeros_like(p) if p.grad is None else p.grad
        total = dict(with_extra.named_parameters())[path].grad - dict(plain.named_parameters())[path].grad
        torch.testing.assert_close(total, added, atol=1e-12, rtol=1e-7)


class Tasks(nn.Module):
    """Tasks of different difficulty on one shared encoder."""

    def __init__(self, count: int):
        super().__init__()
        torch.manual_seed(0)
        self.shared = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 4))
        self.heads = nn.ModuleList(nn.Linear(4, 1) for _ in range(count))

    def forward(self, x, splitter=None):
        z = self.shared(x)
        split = splitter({"shared": z}) if splitter else [{"shared": z}] * len(self.heads)
        target = torch.sin(torch.arange(len(x), dtype=x.dtype))[:, None]
        return [
            (head(s["shared"]) - (-1) ** k * 3**k * target).square().mean()
            for k, (head, s) in enumerate(zip(self.heads, split, strict=True))
        ]


@pytest.mark.parametrize("count", [2, 3, 5])
@pytest.mark.parametrize("name", ["mmpareto", "upgrad", "min_norm"])
def test_tasks_on_a_shared_encoder_are_weighed_as_objectives(count, name):
    model, choose = Tasks(count).double(), weighting(name)
    x = torch.randn(7, 5, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    block = list(model.shared.parameters())
    rows = [torch.cat([g.flatten() for g in torch.autograd.grad(loss, block)]) for loss in model_losses(model, x)]
    space = ParameterSpace(Partition.from_module(model, {"shared": model.shared}), choose, objectives=count)
    space.add(model(x))
    decision = space.decide()
    gradient = torch.cat([p.grad.flatten() for p in block])
    torch.testing.assert_close(gradient, choose(compute_gramian(rows)) @ torch.stack(rows))
    assert (torch.stack(rows) @ gradient >= -1e-9 * gradient.norm()).all()
    splitter = FeatureSplitter(choose, objectives=count)
    other = Tasks(count).double()
    sum(other(x, splitter)).backward()
    torch.testing.assert_close(
        torch.cat([p.grad.flatten() for p in other.shared.parameters()]),
        splitter.decision.weights[0] @ torch.stack(rows),
    )
    assert decision.encoders == ("shared",)


def model_losses(model, x):
    """Return each task's loss with a graph of its own."""
    return [model(x)[k] for k in range(len(model.heads))]


def test_decisions_have_named_metrics():
    metrics = parameter_step(model_of(), conflicting_rows(model_of())).metrics()
    assert metrics["audio/conflict"] == 1
    assert metrics["audio/cosine"] < 0
    assert metrics["audio/length"].item() == pytest.approx(1.5)
    assert set(metrics) >= {"video/norm_0", "video/norm_1", "video/weight_0", "video/weight_1"}


@STEPS
@pytest.mark.parametrize("limits", [(0.1, 10.0), (1.0, 1.0)], ids=["free", "limited"])
def test_the_rescale_metric_is_the_papers_factor_before_limits(step, limits):
    """s = |sum g| / |sum 2 a g| with the min-norm weights a; with limits of 1 the step is shorter, s is not."""
    model = model_of()
    rows = conflicting_rows(model)
    decision = step(model, rows, weighting("mmpareto", rescale=limits))
    metrics = decision.metrics()
    for i, encoder in enumerate(ENCODERS):
        (a, b), (_, c) = decision.gramian[i].tolist()
        s = 1.0
        if b < 0:
            m = (c - b) / (a + c - 2 * b)
            s = ((a + 2 * b + c) / (4 * (m * m * a + 2 * m * (1 - m) * b + (1 - m) ** 2 * c))) ** 0.5
        assert metrics[f"{encoder}/rescale"].item() == pytest.approx(s)
        assert metrics[f"{encoder}/length"].item() == pytest.approx(1.5 if limits[1] > s else 1.5 / s)
    assert max(metrics[f"{encoder}/rescale"] for encoder in ENCODERS) > 1.01


def test_an_audit_in_pieces_equals_that_of_the_whole_batch():
    """Means over rows: each of four equal pieces has a quarter of the loss."""
    model, rows = model_of(), rows_of(8)
    multimodal, unimodal, _ = model(rows)
    whole = audit_of(model, [multimodal, unimodal])
    auditor = Auditor(model.partition, MMPARETO)
    for _ in range(2):  # the second audit starts from zero
        for i in range(4):
            multimodal, unimodal, _ = model(part_of(rows, i, 4))
            auditor.add([multimodal / 4, unimodal / 4], model.features)
        result = auditor.result()
    assert result.encoders == whole.encoders
    torch.testing.assert_close(result.metrics(), whole.metrics())
    with pytest.raises(ConfigError, match="nothing to audit"):
        auditor.result()


def test_features_may_be_tokens():
    z = torch.randn(2, 3, 4, requires_grad=True)
    splitter = FeatureSplitter(MMPARETO)
    multimodal, unimodal = splitter({"audio": z})
    (multimodal["audio"].sum() + unimodal["audio"].square().sum()).backward()
    assert z.grad.shape == z.shape
    assert splitter.decision.gramian[0, 0, 0] == pytest.approx(24)


def test_without_gradients_features_are_returned_uncopied():
    splitter = FeatureSplitter(MMPARETO)
    z = torch.ones(2, 3)
    with torch.no_grad():
        multimodal, unimodal = splitter({"audio": z})
    assert multimodal["audio"] is z is unimodal["audio"]


def test_invalid_uses_raise_a_config_error():
    model = model_of()
    with pytest.raises(ConfigError, match="belongs to the encoders 'audio' and 'video'"):
        Partition.from_module(model, {"audio": model.encoders["audio"], "video": model.encoders["audio"]})
    with pytest.raises(ConfigError, match="'audio' is not part of the module"):
        Partition.from_module(model.fusion, {"audio": model.encoders["audio"]})
    space = ParameterSpace(model.partition, MMPARETO)
    with pytest.raises(ConfigError, match="nothing to decide on"):
        space.decide()
    with pytest.raises(ConfigError, match="3 losses were given for 2 objectives"):
        space.add(list(model(rows_of(4))))
    multimodal, unimodal, extra = model(rows_of(4))
    space.add([multimodal, unimodal], last=False)
    with pytest.raises(ConfigError, match="every micro-batch"):
        space.add([multimodal, unimodal], extra=extra)
    mixed = model_of()
    mixed.fusion.float()
    with pytest.raises(ConfigError, match="one dtype"):
        ParameterSpace(mixed.partition, MMPARETO).add([torch.zeros(()), torch.zeros(())])
    with pytest.raises(ConfigError, match="both features and trainable"):
        Auditor(model.partition, MMPARETO).add([multimodal, unimodal], {})
    with pytest.raises(ConfigError, match="at least 1"):
        FeatureSplitter(MMPARETO, objectives=0)
    assert not find_unsynchronised(list(model.parameters())).any()
