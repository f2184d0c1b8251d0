"""A class is the normalised mean of its normalised prompts; an image belongs to the nearest class."""

import numpy as np
import pytest
import torch

from xmodal.errors import ConfigError
from xmodal.metrics.zero_shot import class_embeddings, fill_templates, zero_shot


def test_every_template_is_filled_with_every_name() -> None:
    assert fill_templates(["cat", "{x}"], ["a {}.", "{}"]) == ["a cat.", "cat", "a {x}.", "{x}"]
    for template in ("a photo", "{} and {}", "{0}"):
        with pytest.raises(ConfigError, match=r"exactly one \{\} for the class"):
            fill_templates(["cat"], [template])


def test_a_class_is_the_mean_of_unit_vectors_not_of_the_vectors() -> None:
    """By hand: prompts (3, 4) and (0, 2) are (0.6, 0.8) and (0, 1); their mean (0.3, 0.9) over its length."""
    vectors = {"a cat": [3.0, 4.0], "cat!": [0.0, 2.0], "a dog": [5.0, 0.0], "dog!": [0.0, -1.0]}
    embeddings = class_embeddings(
        lambda texts: torch.tensor([vectors[t] for t in texts]), ["cat", "dog"], ["a {}", "{}!"]
    )
    length = (0.3**2 + 0.9**2) ** 0.5
    assert embeddings[0].tolist() == pytest.approx([0.3 / length, 0.9 / length])
    assert embeddings[1].tolist() == pytest.approx([0.5**0.5, -(0.5**0.5)])


def test_accuracy_is_over_images_and_recall_over_classes() -> None:
    classes = torch.eye(3)
    images = torch.tensor([[3.0, 2, 1], [3, 1, 2], [1, 2, 3], [1, 3, 2], [3, 1, 2]])
    result = zero_shot(images, torch.tensor([0, 0, 1, 1, 0]), classes, ks=(1, 2))
    assert result.rank.tolist() == [1, 1, 2, 1, 1]
    assert result.accuracy == {1: 0.8, 2: 1.0}
    assert result.mean_class_recall == (1 + 0.5) / 2
    assert result.chance() == pytest.approx(
        {"zero_shot/accuracy@1": 1 / 3, "zero_shot/accuracy@2": 2 / 3, "zero_shot/mean_class_recall": 1 / 3}
    )
    intervals = result.intervals(draws=500, seed=0)
    assert intervals["zero_shot/accuracy@2"] == (1.0, 1.0)
    low, high = intervals["zero_shot/accuracy@1"]
    assert low <= 0.8 <= high


def test_a_constant_model_gets_chance() -> None:
    draw = np.random.default_rng(0)
    label = torch.from_numpy(draw.integers(0, 10, 2000))
    result = zero_shot(torch.ones(2000, 4), label, torch.ones(10, 4))
    assert result.accuracy[1] == pytest.approx(0.1, abs=0.03) and result.accuracy[5] == pytest.approx(0.5, abs=0.05)
    assert result.mean_class_recall == pytest.approx(0.1)
