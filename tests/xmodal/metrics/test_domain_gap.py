"""Distances between domains lie inside their band without a shift and far above it with one."""

import numpy as np
import pytest
import torch

from xmodal.errors import CorpusError
from xmodal.losses.discrepancy import mmd
from xmodal.metrics.domain_gap import mmd_permutation_band, neighbour_mixing, proxy_a_distance
from xmodal.metrics.modality_gap import modality_gap
from xmodal.metrics.projection import project


def draw(rows, dim=6, seed=0, shift=0.0):
    return (np.random.default_rng(seed).normal(size=(rows, dim)) + shift).astype(np.float32)


@pytest.mark.parametrize("probe", ["linear", "mlp"])
def test_a_fresh_probe_detects_exactly_a_shift(probe):
    same = proxy_a_distance(draw(150), draw(300, seed=1), seed=0, probe=probe, shuffles=6)
    assert same.rows == 150 and abs(same.value) < 0.5 and abs(same.null) < 0.4
    shifted = proxy_a_distance(draw(150), draw(300, seed=1, shift=1.5), seed=0, probe=probe, shuffles=6)
    assert shifted.value > 1.7 > shifted.high


def test_only_the_nonlinear_probe_separates_a_shell_from_a_ball():
    ball, shell = draw(300, 2), draw(300, 2, seed=1)
    shell = 3 * shell / np.linalg.norm(shell, axis=1, keepdims=True)
    linear = proxy_a_distance(ball, shell, seed=0, shuffles=0)
    curved = proxy_a_distance(ball, shell, seed=0, probe="mlp", shuffles=0)
    assert linear.value < 0.6 and curved.value > 1.0


def test_mmd_lies_in_its_band_without_a_shift_and_above_it_with_one():
    inside = [mmd_permutation_band(draw(60, seed=2 * s), draw(60, seed=2 * s + 1), seed=s) for s in range(20)]
    assert sum(gap.low <= gap.value <= gap.high for gap in inside) >= 16
    shifted = mmd_permutation_band(draw(60), draw(60, seed=1, shift=0.7), seed=0)
    assert shifted.value > shifted.high and shifted.low < 0 < shifted.high and abs(shifted.null) < 0.01


def test_the_reported_mmd_equals_the_loss():
    source, target = draw(40), draw(40, seed=1, shift=0.5)
    valid = torch.ones(40, dtype=torch.bool)
    value = mmd(*(torch.from_numpy(x).double() for x in (source, target)), valid, valid)
    assert mmd_permutation_band(source, target, seed=0, shuffles=1).value == pytest.approx(float(value), rel=1e-3)


def test_neighbour_mixing_is_1_without_a_shift_and_0_far_apart():
    assert neighbour_mixing(draw(200), draw(300, seed=1), seed=0) == pytest.approx(1.0, abs=0.1)
    assert neighbour_mixing(draw(200), draw(300, seed=1, shift=9.0), seed=0) == 0.0


def test_too_few_rows_raise():
    with pytest.raises(CorpusError, match="9 source and 40 target rows"):
        proxy_a_distance(draw(9), draw(40), seed=0)
    with pytest.raises(CorpusError, match="too few to project"):
        project(draw(1), draw(2))


def test_the_modality_gap_separates_means_from_covariances():
    rows = draw(400).astype(np.float64)
    shifted = modality_gap(rows, rows + np.array([3.0, 4.0, 0, 0, 0, 0]))
    assert shifted.centroid == pytest.approx(5.0) and shifted.distribution == pytest.approx(0.0, abs=1e-3)
    scaled = modality_gap(rows, rows.mean(0) + 3 * (rows - rows.mean(0)))
    assert scaled.centroid == pytest.approx(0.0, abs=1e-9)
    expected = 2 * np.sqrt(np.trace(np.cov(rows.T, bias=True)))
    assert scaled.distribution == pytest.approx(expected)


@pytest.mark.parametrize("method", ["pca", "tsne"])
def test_a_projection_separates_distant_domains(method):
    source, target = project(draw(30), draw(20, seed=1, shift=20.0), method)
    assert source.shape == (30, 2) and target.shape == (20, 2)
    spread = max(source.std(0).max(), target.std(0).max())
    assert np.linalg.norm(source.mean(0) - target.mean(0)) > spread
