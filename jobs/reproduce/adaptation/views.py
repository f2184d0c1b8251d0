"""Pictures in, changed pictures of the same digits out: what a class should not depend on.

Moved, turned and stretched by a little; each channel's contrast and brightness changed; noise added. `inverted` also
turns half of the pictures into their negatives. That one is knowledge of the domains and not of digits in general: in
the MNIST-M-like set the ink of a digit is the negative of what lies behind it, so a bright digit is as likely as a dark
one, and whoever did not know that would not have thought of it.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

TURN, STRETCH, SHIFT = 0.25, 0.15, 0.07  # radians, of the size, of the side
CONTRAST, BRIGHTNESS, NOISE = 0.5, 0.25, 0.1  # most change of a channel's factor, of its level; deviation
KINDS = ("views", "inverted")


def changed(pictures: Tensor, *, kind: str) -> Tensor:
    """float [N, C, S, S] in [0, 1] to the same size, about in [-0.5, 1.5]; drawn anew at every call, row by row."""
    count, channels = pictures.shape[:2]
    rows = moved(pictures)
    if kind == "inverted":
        negative = torch.rand(count, 1, 1, 1) < 0.5
        rows = torch.where(negative, 1 - rows, rows)
    factor, level = 1 + CONTRAST * _even(count, channels, 1, 1), BRIGHTNESS * _even(count, channels, 1, 1)
    return (rows - 0.5) * factor + 0.5 + level + NOISE * torch.randn_like(rows)


def moved(pictures: Tensor) -> Tensor:
    """Each picture's edge repeated where nothing is known."""
    count = len(pictures)
    turn, size = TURN * _even(count), 1 + STRETCH * _even(count)
    across, down = 2 * SHIFT * _even(count), 2 * SHIFT * _even(count)
    cos, sin = torch.cos(turn) * size, torch.sin(turn) * size
    affine = torch.stack([torch.stack([cos, -sin, across], 1), torch.stack([sin, cos, down], 1)], 1)
    grid = F.affine_grid(affine, list(pictures.shape), align_corners=False)
    return F.grid_sample(pictures, grid, padding_mode="border", align_corners=False)


def _even(*shape: int) -> Tensor:
    return 2 * torch.rand(*shape) - 1
