"""How a run minimises its loss."""

import math
from dataclasses import dataclass
from typing import Literal

from xmodal.errors import ConfigError
from xmodal.training.engine.schedule import CosineSchedule


@dataclass(frozen=True, kw_only=True)
class Optim:
    """How it is minimised: AdamW or SGD, linear warm-up, half a cosine."""

    batch_size: int = 256  # pairs over all workers; every one is a negative of every other
    epochs: float = 32.0  # passes over the longest corpus, at its share of the batch
    steps: int | None = None  # instead of epochs
    learning_rate: float = 5e-4  # at the end of the warm-up
    final_learning_rate: float = 0.0  # at the last step
    warmup_steps: int | None = None  # None: a tenth of the steps, at most 2000
    optimizer: Literal["adamw", "sgd"] = "adamw"  # sgd: as balanced multimodal learning was published with
    momentum: float = 0.9  # of sgd
    weight_decay: float = 0.2  # of matrices; none of gains, biases and the temperature
    betas: tuple[float, float] = (0.9, 0.98)  # of AdamW's moments
    eps: float = 1e-6  # of AdamW's denominator
    max_grad_norm: float | None = 1.0  # gradients are shortened to this norm; None: as they are
    precision: Literal["fp32", "bf16"] = "fp32"  # of the towers; losses and weights stay in fp32
    rows_per_forward: int | None = None  # per worker; smaller: less memory for the same gradients, one forward more

    def __post_init__(self) -> None:
        rules = {
            "batch_size": (self.batch_size >= 2, "be at least 2: a contrastive loss needs negatives"),
            "epochs": (0 < self.epochs < math.inf, "be positive and finite"),
            "steps": (self.steps is None or self.steps >= 1, "be at least 1"),
            "learning_rate": (0 < self.learning_rate < 1, "lie in (0, 1)"),
            "final_learning_rate": (0 <= self.final_learning_rate <= self.learning_rate, "lie in [0, learning_rate]"),
            "warmup_steps": (self.warmup_steps is None or self.warmup_steps >= 0, "not be negative"),
            "weight_decay": (0 <= self.weight_decay < 1, "lie in [0, 1)"),
            "momentum": (0 <= self.momentum < 1, "lie in [0, 1)"),
            "betas": (all(0 <= beta < 1 for beta in self.betas), "lie in [0, 1)"),
            "eps": (0 < self.eps < 1, "lie in (0, 1)"),
            "max_grad_norm": (self.max_grad_norm is None or 0 < self.max_grad_norm < math.inf, "be positive or None"),
            "rows_per_forward": (self.rows_per_forward is None or self.rows_per_forward >= 1, "be at least 1"),
        }
        for name, (holds, rule) in rules.items():
            if not holds:
                raise ConfigError(f"{name}={getattr(self, name)} must {rule}")

    def schedule(self, steps: int) -> CosineSchedule:
        warmup = min(2000, steps // 10) if self.warmup_steps is None else self.warmup_steps
        return CosineSchedule(
            peak=self.learning_rate, total_steps=steps, warmup_steps=warmup, floor=self.final_learning_rate
        )
