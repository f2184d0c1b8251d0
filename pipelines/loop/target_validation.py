"""Score a model in training on unlabelled rows of the target, between two steps.

The scores may choose a strength or a step: no label and no pair of the target is read. Predictions are over a bank of
the source's captions, at one fixed temperature, and the texts that images are paired with are those captions, too.
Every rank encodes its share, rank 0 scores.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pipelines.inference.encode import Embeddings
from pipelines.loop.validation import RetrievalEvaluator, ValidationRows
from pipelines.models.dual_encoder import model_of
from pipelines.runtime.rank import Rank
from xmodal.batch import Batch
from xmodal.metrics.model_selection import effective_rank, mean_cosine
from xmodal.metrics.validators import ValidatorInputs, bank_scores, compute_score, compute_scores
from xmodal.training.engine.evaluation_mode import evaluation_mode
from xmodal.training.engine.state import TrainState


@dataclass(frozen=True, eq=False)
class UnlabelledRows:
    """Held-out rows of the target without labels, and what to score on them."""

    held_out: ValidationRows  # of which one field is read
    bank: Batch  # captions whose probabilities are predicted
    scores: tuple[str, ...]  # by name; empty: all that need neither labels nor pairs

    def evaluator(self, rank: Rank) -> "LabelFreeEvaluator":
        """Return a rank's part in the evaluations."""
        return LabelFreeEvaluator(self, rank)


class LabelFreeEvaluator:
    """One rank's part in the evaluations: it encodes its share of the rows."""

    def __init__(self, rows: UnlabelledRows, rank: Rank) -> None:
        self._rows, self._rank = rows, rank
        self._encoder = RetrievalEvaluator(rows.held_out, rank)

    def due(self, step: int, *, last: bool) -> bool:
        """Return whether to evaluate after this step; alike on all ranks."""
        return self._encoder.due(step, last=last)

    def evaluate(self, state: TrainState) -> dict[str, float]:
        """Return `validation/target/...` on rank 0, elsewhere only the seconds; all ranks call it at the same step."""
        started = time.perf_counter()
        first, second = model_of(state).modalities
        embeddings = Embeddings.join(self._rank.gather([self._encoder.encode(state)]))
        with evaluation_mode(state):
            bank = model_of(state).encode(second, self._rows.bank.to(state.device)).cpu()
        metrics: dict[str, float] = {}
        if self._rank.first and len(embeddings.row) > 1:
            scores = label_free_scores(torch.from_numpy(embeddings.vectors[first]), bank, self._rows.scores)
            metrics = {f"validation/target/{name}": value for name, value in scores.items()}
        return metrics | {"validation/seconds": time.perf_counter() - started}


def label_free_scores(rows: Tensor, bank: Tensor, names: Sequence[str]) -> dict[str, float]:
    """Return scores by name (higher is better), and three metrics that show a collapse of the embeddings.

    These are `effective_rank`, `mean_cosine` of different rows, and `spread`, 1 - mean_cosine: 0 where all are alike.
    """
    inputs = ValidatorInputs(target=bank_scores(rows, bank), target_features=rows, texts=bank)
    scores = {name: compute_score(name, inputs) for name in names} if names else compute_scores(inputs)
    cosine = mean_cosine(rows)
    return scores | {"effective_rank": effective_rank(rows), "mean_cosine": cosine, "spread": 1 - cosine}


def check_score_names(names: Sequence[str]) -> None:
    """Raise ConfigError for a score that is not known, needs labels, or is made of the target's labels or pairs."""
    tiny = torch.eye(3)
    label_free_scores(tiny, tiny, names)
