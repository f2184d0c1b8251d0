"""Train the paper's network for digits with its schedules, on two domains in memory.

Ganin et al. 2016: two convolutions of 5 x 5 (32, 48 maps, each with ReLU and pooling), a label predictor 100-100-10, a
critic of 100 hidden units on the 768 features; SGD with momentum 0.9 at a rate of mu / (1 + 10 p)^0.75, and a strength
that rises with 2 / (1 + exp(-10 p)) - 1. CDAN's critic reads the predictor's last hidden layer x prediction, and the
discrepancies compare that layer. Convolutions are rounded to bfloat16: a third of their time where the processor can.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from jobs.reproduce.adaptation.alignment import AlignmentLoss
from jobs.reproduce.adaptation.arms import ORACLE, AdaptationArm
from jobs.reproduce.adaptation.batches import endless_batches, record_gradient_norm
from jobs.reproduce.adaptation.caption_head import CaptionHead
from jobs.reproduce.adaptation.evaluation import ModelOutputs, domain_distances, project_domains, score_outputs
from jobs.reproduce.adaptation.experiment import AdaptationSettings, Parts
from jobs.reproduce.adaptation.views import KINDS, augment
from jobs.reproduce.digits import CLASSES
from xmodal.losses.consistency import consistency_loss
from xmodal.losses.gradient_reversal import dann_ramp

FEATURES, HIDDEN = 768, 100
ROWS_PER_BATCH = 500  # rows evaluated together


class DigitNet(nn.Module):
    """Return features [N, 768], the last hidden layer [N, 100] and class scores [N, 10] of images uint8 [N, 28, 28, 3].

    With `captions` the label predictor's last layer is replaced by a text encoder, as in CLIP.
    """

    mean: Tensor

    def __init__(self, mean: Tensor, *, captions: bool = False) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.features = nn.Sequential(
            nn.Conv2d(3, 32, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(32, 48, 5), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(),
        )  # fmt: skip
        self.hidden = nn.Sequential(nn.Linear(FEATURES, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, HIDDEN), nn.ReLU())
        self.classes = CaptionHead(HIDDEN) if captions else nn.Linear(HIDDEN, CLASSES)

    def encode(self, images: Tensor) -> Tensor:
        """Return the features of images uint8 [N, 28, 28, 3]."""
        return self.features_of(to_float(images))

    def features_of(self, images: Tensor) -> Tensor:
        """Return the features of images [N, 3, 28, 28] in [0, 1]."""
        centred = (images - self.mean[:, None, None]).contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            return self.features(centred).float()

    def loss(self, features: Tensor, label: Tensor) -> Tensor:
        """Return the cross-entropy of the classes, or the contrastive loss with their captions."""
        hidden = self.hidden(features)
        if isinstance(self.classes, CaptionHead):
            return self.classes.contrast(hidden, label)
        return F.cross_entropy(self.classes(hidden), label)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        features = self.encode(images)
        hidden = self.hidden(features)
        return features, hidden, self.classes(hidden)


def to_float(images: Tensor) -> Tensor:
    """Return images uint8 [N, 28, 28, 3] as float [N, 3, 28, 28] in [0, 1]."""
    return images.permute(0, 3, 1, 2).float() / 255


class DigitLearner:
    """Trains one arm on digits; a `Learner`. The oracle learns from the target's labels too."""

    def __init__(
        self, arm: AdaptationArm, seed: int, data: Parts, settings: AdaptationSettings, *, captions: bool = False
    ) -> None:
        torch.manual_seed(seed)
        self.arm, self.seed, self.data, self.settings = arm, seed, data, settings
        train_images = [data[f"{domain}/train"]["image"] for domain in ("source", "target")]
        mean = torch.stack([x.float().mean((0, 1, 2)) / 255 for x in train_images]).mean(0)
        self.net = DigitNet(mean, captions=captions).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        method_parts = arm.method.split("+")
        self.views = next((kind for kind in KINDS if kind in method_parts), None)
        self.on_source = next((kind for kind in KINDS if f"source-{kind}" in method_parts), None)
        self.alignment = AlignmentLoss(arm.method, dim=FEATURES, hidden=HIDDEN, classes=CLASSES, critic=(HIDDEN,))
        parameters = [*self.net.parameters(), *self.alignment.parameters()]
        self.optimizer = torch.optim.SGD(parameters, lr=settings.sgd_rate or 0.01, momentum=0.9)
        generators = [np.random.default_rng((seed, number)) for number in range(len(train_images))]
        self.streams = [
            endless_batches(len(x), settings.batch_size, rng) for x, rng in zip(train_images, generators, strict=True)
        ]
        self.series: list[dict[str, float]] = []

    def step(self, step: int, progress: float) -> dict[str, float]:
        (images, label), (target_images, target_label) = (
            (self.data[f"{domain}/train"]["image"][rows], self.data[f"{domain}/train"]["label"][rows])
            for domain, rows in zip(("source", "target"), (next(stream) for stream in self.streams), strict=True)
        )
        features = self.net.encode(torch.cat([images, target_images]))
        norms: dict[str, float] = {}
        task, domain = (record_gradient_norm(features, name, norms) for name in ("task_norm", "domain_norm"))
        if self.arm.method == ORACLE:
            label = torch.cat([label, target_label])
        loss = self.net.loss(task[: len(label)], label)
        hidden, strength = self.net.hidden(domain), self.arm.strength * dann_ramp(progress)
        scores = self.net.classes(hidden)
        loss = loss + self.alignment(domain, hidden, scores, len(images), strength)
        if self.views is not None:
            loss = loss + strength * self._view_consistency(target_images, scores[len(images) :])
        if self.on_source is not None:
            augmented = self.net.features_of(augment(to_float(images), kind=self.on_source))
            loss = loss + strength * self.net.loss(augmented, label)
        self.optimizer.param_groups[0]["lr"] = (self.settings.sgd_rate or 0.01) / (1 + 10 * progress) ** 0.75
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        metrics = {"loss": float(loss.detach()), "strength": strength, **self.alignment.metrics, **norms}
        self.series.append(metrics)
        return metrics

    def _view_consistency(self, images: Tensor, scores: Tensor) -> Tensor:
        """Return the loss of augmented target images against confident predictions on the images as they are."""
        assert self.views is not None
        features = self.net.features_of(augment(to_float(images), kind=self.views))
        augmented_scores = self.net.classes(self.net.hidden(features))
        return consistency_loss(scores, augmented_scores, torch.ones(len(images), dtype=torch.bool))

    def evaluate(self, *, last: bool) -> dict[str, Any]:
        self.net.eval()
        outputs = {part: self._outputs(part) for part in ("source/held", "source/test", "target/held", "target/test")}
        train = self._outputs("source/train", max_rows=2 * ROWS_PER_BATCH)
        self.net.train()
        label = {part: self.data[part]["label"] for part in outputs}
        accuracy = {p: float((s.scores.argmax(1) == label[p]).float().mean()) for p, s in outputs.items()}
        scores = score_outputs(outputs["source/held"], label["source/held"], outputs["target/held"], train, self.series)
        oracle = {"accuracy": accuracy["target/test"]}
        result = {**scores, "source_test": accuracy["source/test"], "oracle": oracle}
        if last:
            pair = outputs["source/test"].features.numpy(), outputs["target/test"].features.numpy()
            classes = label["source/test"].numpy(), label["target/test"].numpy()
            result |= {"gap": domain_distances(*pair, seed=self.seed)}
            result |= {"projection": project_domains(*pair, *classes)} if self.seed == 0 else {}
        return result

    @torch.no_grad()
    def _outputs(self, part: str, max_rows: int | None = None) -> ModelOutputs:
        images = self.data[part]["image"][:max_rows]
        batches = [self.net(batch) for batch in images.split(ROWS_PER_BATCH)]
        _, hidden, scores = (torch.cat(column) for column in zip(*batches, strict=True))
        return ModelOutputs(features=hidden, scores=scores)
