"""Train a classifier of clips of two rooms, with the objective and the step of `jobs.classify`.

The method of an arm names the domain loss and how the gradients of an encoder are balanced: `dann+mmpareto`.
"""

from functools import partial
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from jobs.reproduce.adaptation.arms import ORACLE, AdaptationArm
from jobs.reproduce.adaptation.batches import endless_batches
from jobs.reproduce.adaptation.evaluation import ModelOutputs, domain_distances, project_domains, score_outputs
from jobs.reproduce.adaptation.experiment import AdaptationSettings, Parts
from jobs.reproduce.grid import Word, build_network, view
from jobs.reproduce.row_batches import RowDataset
from xmodal.batch import Batch
from xmodal.encoders.fusion import mean_of_tokens
from xmodal.encoders.multimodal_classifier import MultimodalClassifier
from xmodal.training.balance_options import GradientBalance
from xmodal.training.balanced_learning import build_objective
from xmodal.training.domain_methods import DOMAIN_METHODS, SOURCE, TARGET
from xmodal.training.engine.schedule import CosineSchedule
from xmodal.training.engine.state import TrainState
from xmodal.training.engine.step import train_step
from xmodal.training.objectives.alignment_points import AlignmentPoints
from xmodal.training.objectives.domain import DomainLoss
from xmodal.training.objectives.domain_strength import StrengthSchedule

ROWS_PER_BATCH, WARMUP_STEPS, WEIGHT_DECAY, HIDDEN = 200, 20, 1e-4, (64,)  # rows evaluated together; of the critic
MMPARETO = "+mmpareto"


class ClipLearner:
    """Trains one arm on clips; a `Learner`. The oracle learns from the target's labels too."""

    def __init__(self, word: Word, arm: AdaptationArm, seed: int, data: Parts, settings: AdaptationSettings) -> None:
        self.arm, self.seed, self.settings = arm, seed, settings
        self.rows = {part: RowDataset(fields, partial(view, word)) for part, fields in data.items()}
        model = build_network(word, dict(data["source/train"]), seed)
        alignment = _alignment_points(arm, model, settings.steps, seed)
        balance = GradientBalance(method="mmpareto" if arm.method.endswith(MMPARETO) else "uniform")
        objective, space = build_objective(balance, model, alignment)
        warmup_steps = min(WARMUP_STEPS, settings.steps // 10)
        rate = CosineSchedule(peak=settings.sgd_rate or 0.05, total_steps=settings.steps, warmup_steps=warmup_steps)
        self.model, self.alignment = model, alignment
        self.state = TrainState.create(
            objective, schedule=rate, seed=seed, space=space, optimizer="sgd", weight_decay=WEIGHT_DECAY,
            max_grad_norm=None,
        )  # fmt: skip
        parts = [f"{domain}/train" for domain in ("source", "target")]
        self.generators = [np.random.default_rng((seed, number)) for number in range(len(parts))]
        self.streams = [
            (self.rows[part], endless_batches(len(self.rows[part]), settings.batch_size, rng))
            for part, rng in zip(parts, self.generators, strict=True)
        ]
        self.series: list[dict[str, float]] = []

    def step(self, step: int, progress: float) -> dict[str, float]:
        streams = self.streams if self.alignment is not None or self.arm.method == ORACLE else self.streams[:1]
        batches = [rows.batch(next(stream), rng) for (rows, stream), rng in zip(streams, self.generators, strict=False)]
        metrics = train_step(self.state, _join_batches(batches, with_target=self.alignment is not None))
        result = {"loss": metrics["loss"], "strength": metrics.get("domain/strength", 0.0)}
        for name, start, end in (("critic_accuracy", "domain/", "/accuracy"), ("domain_norm", "", "/gradient_ratio")):
            values = [x for key, x in metrics.items() if key.startswith(start) and key.endswith(end)]
            result |= {name: float(np.mean(values))} if values else {}
        result |= {"task_norm": 1.0} if "domain_norm" in result else {}  # the domain's is in units of the task's
        self.series.append(result)
        return result

    def evaluate(self, *, last: bool) -> dict[str, Any]:
        self.model.eval()
        outputs = {part: self._outputs(part) for part in ("source/held", "source/test", "target/held", "target/test")}
        train = self._outputs("source/train")[0]
        self.model.train()
        held_out_label = self.rows["source/held"].fields["label"]
        scores = score_outputs(outputs["source/held"][0], held_out_label, outputs["target/held"][0], train, self.series)
        target = outputs["target/test"][1]
        oracle = {"accuracy": target["multimodal"], **{name: target[name] for name in self.model.modalities}}
        result = {**scores, "source_test": outputs["source/test"][1]["multimodal"], "oracle": oracle}
        if last:
            pair = [outputs[f"{domain}/test"][0].features.numpy() for domain in ("source", "target")]
            classes = [self.rows[f"{domain}/test"].fields["label"].numpy() for domain in ("source", "target")]
            result |= {"gap": domain_distances(*pair, seed=self.seed)}
            result |= {"projection": project_domains(*pair, *classes)} if self.seed == 0 else {}
        return result

    @torch.no_grad()
    def _outputs(self, part: str) -> tuple[ModelOutputs, dict[str, float]]:
        """Return fused features and scores of every row, and the accuracy of the fusion and of each head."""
        features, scores, labels = [], [], []
        for batch in self.rows[part].ordered_batches(ROWS_PER_BATCH):
            tokens, masks = self.model.encode(batch)
            pooled = [F.normalize(mean_of_tokens(x, masks[name]), dim=1) for name, x in tokens.items()]
            features.append(torch.cat(pooled, 1))
            scores.append(self.model.scores(batch))
            labels.append(batch.fields["label"])
        label = torch.cat(labels)
        all_scores = {name: torch.cat([batch_scores[name] for batch_scores in scores]) for name in scores[0]}
        accuracy = {name: float((x.argmax(1) == label).float().mean()) for name, x in all_scores.items()}
        return ModelOutputs(features=torch.cat(features), scores=all_scores["multimodal"]), accuracy


def _alignment_points(arm: AdaptationArm, model: MultimodalClassifier, steps: int, seed: int) -> AlignmentPoints | None:
    """Return a domain loss at each encoder; None for an arm that has no unlabelled target."""
    method = arm.method.removesuffix(MMPARETO)
    if method not in DOMAIN_METHODS:
        return None
    torch.manual_seed(seed)
    widths = {name: model.encoder(name).width for name in model.modalities}
    losses = {name: DomainLoss(method, width, hidden=HIDDEN) for name, width in widths.items()}
    return AlignmentPoints(losses, StrengthSchedule(peak=arm.strength, steps=steps))


def _join_batches(batches: list[Batch], *, with_target: bool) -> Batch:
    """Return the rows of all batches in one; `with_target` hides the labels of the second and names both roles."""
    fields = {name: torch.cat([batch.fields[name] for batch in batches]) for name in batches[0].fields}
    valid = torch.cat([batch.valid for batch in batches])
    parts = {}
    if with_target:
        fields["label"][len(batches[0]) :] = -1
        parts = {SOURCE: len(batches[0]), TARGET: len(batches[1])}
    return Batch(torch.arange(len(valid)), valid, fields, parts)
