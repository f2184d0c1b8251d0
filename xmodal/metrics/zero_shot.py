"""Zero-shot classification: class embeddings from names and prompt templates, and the accuracy of image embeddings.

C: classes.  T: templates.  D: width.  As in CLIP (Radford et al. 2021, §3.1.4): every prompt's embedding is normalised,
a class is their mean, normalised again.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional as F

from xmodal.errors import ConfigError
from xmodal.metrics.bootstrap import interval_of_share
from xmodal.metrics.retrieval_ranks import ranks

TEMPLATES = (
    "{}",
    "a photo of a {}.",
    "a picture of a {}.",
    "an image of the {}.",
    "a drawing of a {}.",
    "a close-up of a {}.",
    "a small {}.",
    "a large {}.",
)


@dataclass(frozen=True, kw_only=True)
class ZeroShotResult:
    """The accuracy of zero-shot classification. `accuracy[k]`: share of images whose class is among the first k.

    `mean_class_recall`: accuracy@1 of each class that occurs, averaged. Chance is a guess among all classes.
    """

    images: int
    classes: int
    accuracy: Mapping[int, float]
    mean_class_recall: float
    rank: np.ndarray = field(repr=False, compare=False)  # int64 [images], of the right class

    def as_metrics(self) -> dict[str, float]:
        """Return flat names for a log: `zero_shot/accuracy@1`, ..., `zero_shot/mean_class_recall`."""
        metrics = {f"zero_shot/accuracy@{k}": share for k, share in self.accuracy.items()}
        return metrics | {"zero_shot/mean_class_recall": self.mean_class_recall}

    def chance(self) -> dict[str, float]:
        """Return the values that guessing gives, under the same names."""
        metrics = {f"zero_shot/accuracy@{k}": min(1.0, k / self.classes) for k in self.accuracy}
        return metrics | {"zero_shot/mean_class_recall": 1 / self.classes}

    def intervals(self, *, draws: int, seed: int) -> dict[str, tuple[float, float]]:
        """Return 95 % bootstrap intervals of the accuracies, over images."""
        return {
            f"zero_shot/accuracy@{k}": interval_of_share(share, self.images, draws=draws, seed=seed)
            for k, share in self.accuracy.items()
        }


def fill_templates(names: Sequence[str], templates: Sequence[str]) -> list[str]:
    """Return every template filled with the first name, then with the second, ...; ConfigError without one placeholder.

    >>> fill_templates(["cat", "dog"], ["a photo of a {}."])
    ['a photo of a cat.', 'a photo of a dog.']
    """
    for template in templates:
        if template.count("{}") != 1:
            raise ConfigError(f"template {template!r} needs exactly one {{}} for the class, e.g. 'a photo of a {{}}.'")
    return [template.replace("{}", name) for name in names for template in templates]


def class_embeddings(
    encode: Callable[[list[str]], Float[Tensor, "P D"]], names: Sequence[str], templates: Sequence[str] = TEMPLATES
) -> Float[Tensor, "C D"]:
    """Return one unit vector for each class; `encode` embeds a list of prompts."""
    vectors = F.normalize(encode(fill_templates(names, templates)).double(), dim=1)
    means = vectors.reshape(len(names), len(templates), -1).mean(1)
    return F.normalize(means, dim=1).float()


def zero_shot(
    images: Float[Tensor, "R D"], label: Int64[Tensor, "R"], classes: Float[Tensor, "C D"], ks: Sequence[int] = (1, 5)
) -> ZeroShotResult:
    """Assign images of classes `label` (0 .. C - 1) to the nearest class; ties as in retrieval, to the first class.

    >>> zero_shot(torch.eye(3), torch.tensor([0, 1, 1]), torch.eye(3), ks=(1,)).accuracy
    {1: 0.6666666666666666}
    """
    rank = ranks(images, classes, label, torch.arange(len(classes))).numpy()
    hit = rank == 1
    labels = label.numpy()
    return ZeroShotResult(
        images=len(rank),
        classes=len(classes),
        accuracy={k: float((rank <= k).mean()) for k in ks},
        mean_class_recall=float(np.mean([hit[labels == label_value].mean() for label_value in np.unique(labels)])),
        rank=rank,
    )
