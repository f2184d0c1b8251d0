"""Build the domain losses of a run with their critics, and save and load the critics of a checkpoint."""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from pipelines.config.domain import DomainConfig
from xmodal.errors import CheckpointError
from xmodal.training.objectives.alignment_points import AlignmentPoints
from xmodal.training.objectives.domain import DomainLoss
from xmodal.training.objectives.domain_strength import StrengthSchedule

CRITICS = "critics.safetensors"  # in a checkpoint, not in an exported model


def build_alignment_points(
    config: DomainConfig, dims: Mapping[str, int], steps: int, *, classes: int, seed: int
) -> AlignmentPoints:
    """Build a domain loss at each alignment point; its critics are drawn from the seed.

    `dims` is the width of the features at each point, `classes` the number of classes or captions whose probabilities
    the loss reads, `steps` those of the run, over which the strength follows its schedule.
    """
    torch.manual_seed(seed)
    losses = {
        point: DomainLoss(
            config.loss,
            dim,
            hidden=config.hidden,
            spectral=config.spectral,
            smoothing=config.smoothing,
            penalty=config.penalty,
            classes=classes,
            temperature=config.temperature,
        )
        for point, dim in dims.items()
    }
    strength = StrengthSchedule(peak=config.strength, steps=steps, schedule=config.schedule, gamma=config.gamma)
    return AlignmentPoints(losses, strength, critic_steps=config.critic_steps, critic_lr_scale=config.critic_gain)


def save_critics(points: AlignmentPoints, directory: Path) -> None:
    """Write the critics into a checkpoint's directory."""
    critics = {name: x.detach().cpu().contiguous() for name, x in points.state_dict().items()}
    save_file(critics, directory / CRITICS)


def load_critics(points: AlignmentPoints, directory: Path) -> None:
    """Read the critics of a checkpoint; CheckpointError where they are of other sizes, or are not there."""
    try:
        points.load_state_dict(load_file(directory / CRITICS))
    except (RuntimeError, OSError) as error:
        raise CheckpointError(f"{directory.name}: its critics are not those of this run ({error})") from error
