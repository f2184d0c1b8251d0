"""What a training stage brings to the loop: how its model is made, and how it becomes files of a checkpoint."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray
import torch

from xmodal.training.engine.state import TrainState


@dataclass(frozen=True, kw_only=True)
class StageModel:
    """The functions by which every rank makes, saves and loads a stage's model.

    `start` is what the model begins with, such as a tokenizer or weights. It is passed to `make_state` and `save`, and
    travels to the ranks through the object store: see `shared`.
    """

    start: Any
    make_state: Callable[[Any, torch.device], TrainState]  # (start, device) -> the training state of step 0
    save: Callable[[Any, TrainState, Path], None]  # (start, state, directory): writes the model's files
    load: Callable[[TrainState, Path], None]  # (state, directory): reads them into the state

    def shared(self) -> "StageModel":
        """Return the same with a reference to `start`, small enough to be sent to every rank."""
        return replace(self, start=ray.put(self.start))

    def new_state(self, device: torch.device) -> TrainState:
        """Make the training state of step 0 on a rank."""
        return self.make_state(ray.get(self.start), device)

    def save_files(self, state: TrainState, directory: Path) -> None:
        """Write the model's files into a directory."""
        self.save(ray.get(self.start), state, directory)
