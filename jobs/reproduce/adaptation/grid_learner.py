"""A classifier of clips of two rooms in training: the objective, the places and the step of `jobs.adapt clips`.

An arm's method says what makes the rooms alike and what is done with both gradients of an encoder: `dann+mmpareto`.
"""

from functools import partial
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from jobs.reproduce.adaptation.arms import ORACLE, Arm
from jobs.reproduce.adaptation.batches import endless
from jobs.reproduce.adaptation.evaluation import Seen, judged
from jobs.reproduce.adaptation.experiment import Parts, Settings
from jobs.reproduce.grid import Word, network_of, view
from jobs.reproduce.row_batches import Rows
from xmodal.batch import Batch
from xmodal.encoders.fusion import mean_of_tokens
from xmodal.encoders.multimodal_classifier import MultimodalClassifier
from xmodal.training.balance_options import Balance
from xmodal.training.balanced_learning import balanced
from xmodal.training.domain_methods import METHODS, SOURCE, TARGET
from xmodal.training.engine.schedule import CosineSchedule
from xmodal.training.engine.state import TrainState
from xmodal.training.engine.step import train_step
from xmodal.training.objectives.alignment_points import Places
from xmodal.training.objectives.domain import DomainLoss
from xmodal.training.objectives.domain_strength import Strength

PART, WARM_UP, WEIGHT_DECAY, HIDDEN = 200, 20, 1e-4, (64,)
MMPARETO = "+mmpareto"


class Clips:
    """A learner (`jobs.reproduce.adaptation.experiment`) of one arm; the oracle learns from the target's labels too."""

    def __init__(self, word: Word, arm: Arm, seed: int, data: Parts, settings: Settings) -> None:
        self.arm, self.seed, self.settings = arm, seed, settings
        self.rows = {part: Rows(fields, partial(view, word)) for part, fields in data.items()}
        model = network_of(word, dict(data["source/train"]), seed)
        places = _places(arm, model, settings.steps, seed)
        balance = Balance(method="mmpareto" if arm.method.endswith(MMPARETO) else "uniform")
        objective, space = balanced(balance, model, places)
        warm_up = min(WARM_UP, settings.steps // 10)
        rate = CosineSchedule(peak=settings.sgd_rate or 0.05, total_steps=settings.steps, warmup_steps=warm_up)
        self.model, self.places = model, places
        self.state = TrainState.create(
            objective, schedule=rate, seed=seed, space=space, optimizer="sgd", weight_decay=WEIGHT_DECAY,
            max_grad_norm=None,
        )  # fmt: skip
        parts = [f"{domain}/train" for domain in ("source", "target")]
        self.draws = [np.random.default_rng((seed, place)) for place in range(len(parts))]
        self.streams = [
            (self.rows[part], endless(len(self.rows[part]), settings.batch_size, rng))
            for part, rng in zip(parts, self.draws, strict=True)
        ]
        self.series: list[dict[str, float]] = []

    def step(self, step: int, progress: float) -> dict[str, float]:
        streams = self.streams if self.places is not None or self.arm.method == ORACLE else self.streams[:1]
        found = [rows.batch(next(stream), rng) for (rows, stream), rng in zip(streams, self.draws, strict=False)]
        metrics = train_step(self.state, _joined(found, with_target=self.places is not None))
        figures = {"loss": metrics["loss"], "strength": metrics.get("domain/strength", 0.0)}
        for name, start, end in (("critic_accuracy", "domain/", "/accuracy"), ("domain_norm", "", "/gradient_ratio")):
            seen = [x for key, x in metrics.items() if key.startswith(start) and key.endswith(end)]
            figures |= {name: float(np.mean(seen))} if seen else {}
        figures |= {"task_norm": 1.0} if "domain_norm" in figures else {}  # the domain's is in units of the task's
        self.series.append(figures)
        return figures

    def judge(self, *, last: bool) -> dict[str, Any]:
        self.model.eval()
        seen = {part: self._see(part) for part in ("source/held", "source/test", "target/held", "target/test")}
        train = self._see("source/train")[0]
        self.model.train()
        held = self.rows["source/held"].fields["label"]
        found = judged(seen["source/held"][0], held, seen["target/held"][0], train, self.series)
        target = seen["target/test"][1]
        oracle = {"accuracy": target["multimodal"], **{name: target[name] for name in self.model.modalities}}
        whole = {**found, "source_test": seen["source/test"][1]["multimodal"], "oracle": oracle}
        if last:
            from jobs.reproduce.adaptation.evaluation import distances, projections

            pair = [seen[f"{domain}/test"][0].features.numpy() for domain in ("source", "target")]
            classes = [self.rows[f"{domain}/test"].fields["label"].numpy() for domain in ("source", "target")]
            whole |= {"gap": distances(*pair, seed=self.seed)}
            whole |= {"projection": projections(*pair, *classes)} if self.seed == 0 else {}
        return whole

    @torch.no_grad()
    def _see(self, part: str) -> tuple[Seen, dict[str, float]]:
        """What the fusion makes of every row, and the accuracy of it and of each head."""
        features, scores, labels = [], [], []
        for batch in self.rows[part].parts(PART):
            tokens, masks = self.model.encode(batch)
            means = [F.normalize(mean_of_tokens(x, masks[name]), dim=1) for name, x in tokens.items()]
            features.append(torch.cat(means, 1))
            scores.append(self.model.scores(batch))
            labels.append(batch.fields["label"])
        label = torch.cat(labels)
        whole = {name: torch.cat([one[name] for one in scores]) for name in scores[0]}
        right = {name: float((x.argmax(1) == label).float().mean()) for name, x in whole.items()}
        return Seen(features=torch.cat(features), scores=whole["multimodal"]), right


def _places(arm: Arm, model: MultimodalClassifier, steps: int, seed: int) -> Places | None:
    """A domain loss at each encoder; None for an arm that sees no target without labels."""
    method = arm.method.removesuffix(MMPARETO)
    if method not in METHODS:
        return None
    torch.manual_seed(seed)
    widths = {name: model.encoder(name).width for name in model.modalities}
    losses = {name: DomainLoss(method, width, hidden=HIDDEN) for name, width in widths.items()}
    return Places(losses, Strength(peak=arm.strength, steps=steps))


def _joined(batches: list[Batch], *, with_target: bool) -> Batch:
    """The rows of both domains; the second one's labels only where they are to be learned from."""
    fields = {name: torch.cat([one.fields[name] for one in batches]) for name in batches[0].fields}
    valid = torch.cat([one.valid for one in batches])
    parts = {}
    if with_target:
        fields["label"][len(batches[0]) :] = -1
        parts = {SOURCE: len(batches[0]), TARGET: len(batches[1])}
    return Batch(torch.arange(len(valid)), valid, fields, parts)
