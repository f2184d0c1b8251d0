"""A configuration of the domain in, the places with their critics out; and the file that keeps critics for a resume."""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from pipelines.config.domain import Domain
from xmodal.errors import CheckpointError
from xmodal.training.objectives.alignment_points import Places
from xmodal.training.objectives.domain import DomainLoss
from xmodal.training.objectives.domain_strength import Strength

CRITICS = "critics.safetensors"  # in a checkpoint, not in an exported model


def build_places(chosen: Domain, dims: Mapping[str, int], steps: int, *, classes: int, seed: int) -> Places:
    """A domain loss at each place, by the width of the features there; the critics are drawn from the seed.

    `classes` are those, or the captions, whose probabilities are read.
    """
    torch.manual_seed(seed)
    losses = {
        place: DomainLoss(
            chosen.loss,
            dim,
            hidden=chosen.hidden,
            spectral=chosen.spectral,
            smoothing=chosen.smoothing,
            penalty=chosen.penalty,
            classes=classes,
            temperature=chosen.temperature,
        )
        for place, dim in dims.items()
    }
    strength = Strength(peak=chosen.strength, steps=steps, schedule=chosen.schedule, gamma=chosen.gamma)
    return Places(losses, strength, critic_steps=chosen.critic_steps, critic_gain=chosen.critic_gain)


def save_critics(places: Places, directory: Path) -> None:
    critics = {name: x.detach().cpu().contiguous() for name, x in places.state_dict().items()}
    save_file(critics, directory / CRITICS)


def load_critics(places: Places, directory: Path) -> None:
    """CheckpointError where the critics are of other sizes, or are not there."""
    try:
        places.load_state_dict(load_file(directory / CRITICS))
    except (RuntimeError, OSError) as error:
        raise CheckpointError(f"{directory.name}: its critics are not those of this run ({error})") from error
