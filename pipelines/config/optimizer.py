"""Configuration of the optimizer: batch size, length, learning rate and its schedule, precision."""

import math
from dataclasses import dataclass
from typing import Literal

from xmodal.errors import ConfigError
from xmodal.training.engine.schedule import CosineSchedule


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW or SGD, with a linear warm-up and half a cosine to the final learning rate."""

    batch_size: int = 256
    """number of rows in every step over all workers together; each pair is a negative of all
    others"""
    epochs: float = 32.0  # length of the run in passes over the largest corpus, at its share of the batch
    steps: int | None = None  # length of the run in steps; None: --epochs
    learning_rate: float = 5e-4  # highest learning rate, at the end of the warm-up
    final_learning_rate: float = 0.0  # learning rate at the last step
    warmup_steps: int | None = None  # number of steps of the linear warm-up; None: a tenth of the run, at most 2000
    optimizer: Literal["adamw", "sgd"] = "adamw"
    """adamw, or sgd with momentum, as most work on balanced multimodal learning uses"""
    momentum: float = 0.9  # momentum of sgd
    weight_decay: float = 0.2  # weight decay of matrices; gains, biases and the temperature have none
    betas: tuple[float, float] = (0.9, 0.98)  # decay rates of AdamW's two moments
    eps: float = 1e-6  # constant in AdamW's denominator
    max_grad_norm: float | None = 1.0
    """largest norm of the gradient, to which longer ones are clipped; None: no clipping"""
    precision: Literal["fp32", "bf16"] = "fp32"
    """number format of the encoders' forward pass; losses and weights are always fp32"""
    rows_per_forward: int | None = None
    """number of rows of a worker in one forward pass: fewer take less memory and give the same
    gradients, for one forward pass more; None: all"""

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
        """Return the learning rate as a function of the step, for a run of `steps`."""
        warmup = min(2000, steps // 10) if self.warmup_steps is None else self.warmup_steps
        return CosineSchedule(
            peak=self.learning_rate, total_steps=steps, warmup_steps=warmup, floor=self.final_learning_rate
        )
