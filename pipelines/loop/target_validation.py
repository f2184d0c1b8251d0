"""Target rows without labels and a state in training -> scores that may choose a strength or a step, between two steps.

Predictions are over a bank of the source's captions, at one fixed temperature, and the texts to pair pictures with are
those captions too. Every rank encodes its share, rank 0 scores. No label and no pair of the target is read.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pipelines.inference.encode import Encoded
from pipelines.loop.validation import HeldOut, Measurer
from pipelines.models.dual_encoder import model_of
from pipelines.runtime.rank import Rank
from xmodal.batch import Batch
from xmodal.metrics.model_selection import effective_rank, mean_cosine
from xmodal.metrics.validators import Evidence, bank_scores, score, scores
from xmodal.training.engine.evaluation_mode import evaluating
from xmodal.training.engine.state import TrainState


@dataclass(frozen=True, eq=False)
class TargetRows:
    """The rows that a run looks at, the bank, and which scores are wanted (empty: all that the rows suffice for)."""

    held_out: HeldOut
    bank: Batch
    names: tuple[str, ...]

    def measurer(self, rank: Rank) -> "TargetMeasurer":
        return TargetMeasurer(self, rank)


class TargetMeasurer:
    """One rank's part in the measurements."""

    def __init__(self, wanted: TargetRows, rank: Rank) -> None:
        self._wanted, self._rank = wanted, rank
        self._measurer = Measurer(wanted.held_out, rank)

    def due(self, step: int, *, last: bool) -> bool:
        return self._measurer.due(step, last=last)

    def measure(self, state: TrainState) -> dict[str, float]:
        """`validation/target/...` on rank 0, only the seconds elsewhere; all ranks call it at the same step."""
        began = time.perf_counter()
        first, second = model_of(state).modalities
        found = Encoded.join(self._rank.gather([self._measurer.encode(state)]))
        with evaluating(state):
            bank = model_of(state).encode(second, self._wanted.bank.to(state.device)).cpu()
        figures: dict[str, float] = {}
        if self._rank.first and len(found.row) > 1:
            named = label_free(torch.from_numpy(found.vectors[first]), bank, self._wanted.names)
            figures = {f"validation/target/{name}": value for name, value in named.items()}
        return figures | {"validation/seconds": time.perf_counter() - began}


def label_free(rows: Tensor, bank: Tensor, names: Sequence[str]) -> dict[str, float]:
    """Scores by name (higher is better), and what a collapse is seen by.

    `effective_rank`, `mean_cosine` of different rows, and `spread`, 1 - mean_cosine: 0 where all are alike.
    """
    evidence = Evidence(target=bank_scores(rows, bank), target_features=rows, texts=bank)
    found = {name: score(name, evidence) for name in names} if names else scores(evidence)
    cosine = mean_cosine(rows)
    return found | {"effective_rank": effective_rank(rows), "mean_cosine": cosine, "spread": 1 - cosine}


def check_names(names: Sequence[str]) -> None:
    """ConfigError for a score that is not known, needs labels, or is made of the target's labels or pairs."""
    tiny = torch.eye(3)
    label_free(tiny, tiny, names)
