"""The paper's network for digits and its schedules: two domains in memory in, a learner out.

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

from jobs.reproduce.adaptation.alignment import Alignment
from jobs.reproduce.adaptation.arms import ORACLE, Arm
from jobs.reproduce.adaptation.batches import endless, tapped
from jobs.reproduce.adaptation.caption_head import CaptionHead
from jobs.reproduce.adaptation.evaluation import Seen, judged
from jobs.reproduce.adaptation.experiment import Parts, Settings
from jobs.reproduce.adaptation.views import KINDS, changed
from jobs.reproduce.digits import CLASSES
from xmodal.losses.consistency import consistency
from xmodal.losses.gradient_reversal import ramp

FEATURES, HIDDEN = 768, 100
PART = 500  # rows judged together


class DigitNet(nn.Module):
    """uint8 pictures [N, 28, 28, 3] in; features [N, 768], last hidden layer [N, 100] and scores [N, 10] out.

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

    def encode(self, pictures: Tensor) -> Tensor:
        return self.features_of(shown(pictures))

    def features_of(self, pictures: Tensor) -> Tensor:
        """Of pictures [N, 3, 28, 28] in [0, 1]."""
        given = (pictures - self.mean[:, None, None]).contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            return self.features(given).float()

    def loss(self, features: Tensor, label: Tensor) -> Tensor:
        """Cross-entropy of the classes, or the contrastive loss with their captions."""
        hidden = self.hidden(features)
        if isinstance(self.classes, CaptionHead):
            return self.classes.contrast(hidden, label)
        return F.cross_entropy(self.classes(hidden), label)

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        features = self.encode(pictures)
        hidden = self.hidden(features)
        return features, hidden, self.classes(hidden)


def shown(pictures: Tensor) -> Tensor:
    """uint8 [N, 28, 28, 3] to float [N, 3, 28, 28] in [0, 1]."""
    return pictures.permute(0, 3, 1, 2).float() / 255


class Digits:
    """A learner (`jobs.reproduce.adaptation.experiment`) of one arm; the oracle learns from the target's labels too."""

    def __init__(self, arm: Arm, seed: int, data: Parts, settings: Settings, *, captions: bool = False) -> None:
        torch.manual_seed(seed)
        self.arm, self.seed, self.data, self.settings = arm, seed, data, settings
        pictures = [data[f"{domain}/train"]["image"] for domain in ("source", "target")]
        mean = torch.stack([x.float().mean((0, 1, 2)) / 255 for x in pictures]).mean(0)
        self.net = DigitNet(mean, captions=captions).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        parts = arm.method.split("+")
        self.views = next((kind for kind in KINDS if kind in parts), None)
        self.on_source = next((kind for kind in KINDS if f"source-{kind}" in parts), None)
        self.alignment = Alignment(arm.method, dim=FEATURES, hidden=HIDDEN, classes=CLASSES, critic=(HIDDEN,))
        parameters = [*self.net.parameters(), *self.alignment.parameters()]
        self.optimizer = torch.optim.SGD(parameters, lr=settings.sgd_rate or 0.01, momentum=0.9)
        draws = [np.random.default_rng((seed, place)) for place in range(len(pictures))]
        self.streams = [endless(len(x), settings.batch_size, rng) for x, rng in zip(pictures, draws, strict=True)]
        self.series: list[dict[str, float]] = []

    def step(self, step: int, progress: float) -> dict[str, float]:
        (pictures, label), (others, other_label) = (
            (self.data[f"{domain}/train"]["image"][rows], self.data[f"{domain}/train"]["label"][rows])
            for domain, rows in zip(("source", "target"), (next(stream) for stream in self.streams), strict=True)
        )
        features = self.net.encode(torch.cat([pictures, others]))
        norms: dict[str, float] = {}
        task, domain = tapped(features, "task_norm", norms), tapped(features, "domain_norm", norms)
        if self.arm.method == ORACLE:
            label = torch.cat([label, other_label])
        loss = self.net.loss(task[: len(label)], label)
        hidden, strength = self.net.hidden(domain), self.arm.strength * ramp(progress)
        scores = self.net.classes(hidden)
        loss = loss + self.alignment(domain, hidden, scores, len(pictures), strength)
        if self.views is not None:
            loss = loss + strength * self._agreement(others, scores[len(pictures) :])
        if self.on_source is not None:
            seen = self.net.features_of(changed(shown(pictures), kind=self.on_source))
            loss = loss + strength * self.net.loss(seen, label)
        self.optimizer.param_groups[0]["lr"] = (self.settings.sgd_rate or 0.01) / (1 + 10 * progress) ** 0.75
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        figures = {"loss": float(loss.detach()), "strength": strength, **self.alignment.figures, **norms}
        self.series.append(figures)
        return figures

    def _agreement(self, pictures: Tensor, scores: Tensor) -> Tensor:
        """What the classes of changed pictures lack to those that the model is sure of for the pictures as they are."""
        assert self.views is not None
        again = self.net.classes(self.net.hidden(self.net.features_of(changed(shown(pictures), kind=self.views))))
        return consistency(scores, again, torch.ones(len(pictures), dtype=torch.bool))

    def judge(self, *, last: bool) -> dict[str, Any]:
        self.net.eval()
        seen = {part: self._see(part) for part in ("source/held", "source/test", "target/held", "target/test")}
        train = self._see("source/train", most=2 * PART)
        self.net.train()
        label = {part: self.data[part]["label"] for part in seen}
        right = {p: float((s.scores.argmax(1) == label[p]).float().mean()) for p, s in seen.items()}
        found = judged(seen["source/held"], label["source/held"], seen["target/held"], train, self.series)
        oracle = {"accuracy": right["target/test"]}
        whole = {**found, "source_test": right["source/test"], "oracle": oracle}
        if last:
            from jobs.reproduce.adaptation.evaluation import distances, projections

            pair = seen["source/test"].features.numpy(), seen["target/test"].features.numpy()
            classes = label["source/test"].numpy(), label["target/test"].numpy()
            whole |= {"gap": distances(*pair, seed=self.seed)}
            whole |= {"projection": projections(*pair, *classes)} if self.seed == 0 else {}
        return whole

    @torch.no_grad()
    def _see(self, part: str, most: int | None = None) -> Seen:
        pictures = self.data[part]["image"][:most]
        parts = [self.net(some) for some in pictures.split(PART)]
        _, hidden, scores = (torch.cat(column) for column in zip(*parts, strict=True))
        return Seen(features=hidden, scores=scores)
