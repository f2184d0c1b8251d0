"""Classification without training: names of classes and prompt templates in, one text embedding for each class out.

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
class ZeroShot:
    """How well pictures are sorted into classes. `accuracy[k]`: share whose class is among the first k.

    `mean_class_recall`: accuracy@1 of each class that occurs, averaged. Chance: a guess among all classes.
    """

    pictures: int
    classes: int
    accuracy: Mapping[int, float]
    mean_class_recall: float
    rank: np.ndarray = field(repr=False, compare=False)  # int64 [pictures], of the right class

    def as_metrics(self) -> dict[str, float]:
        found = {f"zero_shot/accuracy@{k}": share for k, share in self.accuracy.items()}
        return found | {"zero_shot/mean_class_recall": self.mean_class_recall}

    def chance(self) -> dict[str, float]:
        found = {f"zero_shot/accuracy@{k}": min(1.0, k / self.classes) for k in self.accuracy}
        return found | {"zero_shot/mean_class_recall": 1 / self.classes}

    def intervals(self, *, draws: int, seed: int) -> dict[str, tuple[float, float]]:
        """95 % bootstrap intervals of the accuracies, over pictures."""
        return {
            f"zero_shot/accuracy@{k}": interval_of_share(share, self.pictures, draws=draws, seed=seed)
            for k, share in self.accuracy.items()
        }


def prompts(names: Sequence[str], templates: Sequence[str]) -> list[str]:
    """Every template filled with the first name, then with the second, ...; ConfigError for one without a place."""
    for template in templates:
        if template.count("{}") != 1:
            raise ConfigError(f"template {template!r}: the class goes where one {{}} stands, e.g. 'a photo of a {{}}.'")
    return [template.replace("{}", name) for name in names for template in templates]


def class_embeddings(
    encode: Callable[[list[str]], Float[Tensor, "P D"]], names: Sequence[str], templates: Sequence[str] = TEMPLATES
) -> Float[Tensor, "C D"]:
    """One unit vector for each class; `encode` embeds a list of prompts."""
    vectors = F.normalize(encode(prompts(names, templates)).double(), dim=1)
    means = vectors.reshape(len(names), len(templates), -1).mean(1)
    return F.normalize(means, dim=1).float()


def zero_shot(
    images: Float[Tensor, "R D"], label: Int64[Tensor, "R"], classes: Float[Tensor, "C D"], ks: Sequence[int] = (1, 5)
) -> ZeroShot:
    """Sort pictures of classes `label` (0 .. C - 1) to the nearest class; ties as in retrieval, to the first class."""
    rank = ranks(images, classes, label, torch.arange(len(classes))).numpy()
    hit = rank == 1
    kinds = label.numpy()
    return ZeroShot(
        pictures=len(rank),
        classes=len(classes),
        accuracy={k: float((rank <= k).mean()) for k in ks},
        mean_class_recall=float(np.mean([hit[kinds == kind].mean() for kind in np.unique(kinds)])),
        rank=rank,
    )
