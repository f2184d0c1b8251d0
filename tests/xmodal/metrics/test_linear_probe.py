"""A linear probe reads what is linearly separable, and chooses its penalty without the test vectors."""

import numpy as np
import pytest

from xmodal.errors import CorpusError
from xmodal.metrics.linear_probe import linear_probe

NAMES = np.array(["a", "b", "c"])


def clusters(rows: int, seed: int, noise: float) -> tuple[np.ndarray, list[str]]:
    draw = np.random.default_rng(seed)
    kind = draw.integers(0, 3, rows)
    vectors = np.eye(3, 8)[kind] + noise * draw.normal(size=(rows, 8))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True), NAMES[kind].tolist()


def test_separable_classes_are_classified_without_errors() -> None:
    result = linear_probe(*clusters(120, 0, 0.05), *clusters(60, 1, 0.05), seed=0)
    assert result.accuracy == 1 and (result.trained_on, result.tested_on, result.classes) == (120, 60, 3)
    assert result.interval(draws=200, seed=0) == (1.0, 1.0)


def test_shuffled_labels_give_chance() -> None:
    train, label = clusters(300, 0, 0.05)
    test, test_labels = clusters(300, 1, 0.05)
    shuffled = np.random.default_rng(2).permutation(label).tolist()
    result = linear_probe(train, shuffled, test, test_labels, seed=0)
    assert result.accuracy == pytest.approx(1 / 3, abs=0.15) and result.chance == pytest.approx(1 / 3, abs=0.1)


def test_the_penalty_does_not_depend_on_the_test_vectors() -> None:
    train = clusters(150, 0, 0.6)
    chosen = {linear_probe(*train, *clusters(90, seed, noise), seed=0).strength for seed, noise in ((1, 0.6), (2, 3))}
    assert len(chosen) == 1
    result = linear_probe(*train, *clusters(90, 1, 0.6), seed=0)
    assert result == linear_probe(*train, *clusters(90, 1, 0.6), seed=0)


def test_classes_without_training_vectors_are_wrong_and_counted() -> None:
    train, label = clusters(120, 0, 0.05)
    rows = [row for row, name in enumerate(label) if name != "c"]
    test, test_labels = clusters(60, 1, 0.05)
    result = linear_probe(train[rows], [label[row] for row in rows], test, test_labels, seed=0)
    assert result.unknown == test_labels.count("c") and result.accuracy == pytest.approx(1 - result.unknown / 60)


def test_a_single_class_raises() -> None:
    train, _ = clusters(10, 0, 0.05)
    with pytest.raises(CorpusError, match="at least two classes; all 10 training rows are"):
        linear_probe(train, ["a"] * 10, train, ["a"] * 10, seed=0)


def test_a_class_of_one_row_is_allowed() -> None:
    train, label = clusters(40, 0, 0.05)
    label[0] = "rare"
    assert linear_probe(train, label, *clusters(20, 1, 0.05), seed=0).accuracy > 0.9
