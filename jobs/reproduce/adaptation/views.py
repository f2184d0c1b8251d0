"""Augment images of digits in ways that keep their class.

They are shifted, rotated and scaled by a little; each channel's contrast and brightness are changed; noise is added.
The kind `inverted` also turns half of the images into their negatives. That is knowledge about these two domains, not
about digits in general: in the MNIST-M-like set the ink of a digit is the negative of its background, so a bright digit
is as likely as a dark one.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

ROTATION, STRETCH, SHIFT = 0.25, 0.15, 0.07  # the largest: radians, share of the size, share of the side
CONTRAST, BRIGHTNESS, NOISE = 0.5, 0.25, 0.1  # largest change of a channel's factor and of its level; noise (sd)
KINDS = ("views", "inverted")


def augment(images: Tensor, *, kind: str) -> Tensor:
    """Return views of images, float [N, C, S, S] in [0, 1]; about in [-0.5, 1.5], drawn anew for every row and call."""
    count, channels = images.shape[:2]
    views = random_affine(images)
    if kind == "inverted":
        negative = torch.rand(count, 1, 1, 1) < 0.5
        views = torch.where(negative, 1 - views, views)
    factor, offset = 1 + CONTRAST * _uniform(count, channels, 1, 1), BRIGHTNESS * _uniform(count, channels, 1, 1)
    return (views - 0.5) * factor + 0.5 + offset + NOISE * torch.randn_like(views)


def random_affine(images: Tensor) -> Tensor:
    """Return images shifted, rotated and scaled at random; their edge pixels are repeated outside."""
    count = len(images)
    angle, scale = ROTATION * _uniform(count), 1 + STRETCH * _uniform(count)
    shift_x, shift_y = 2 * SHIFT * _uniform(count), 2 * SHIFT * _uniform(count)
    cos, sin = torch.cos(angle) * scale, torch.sin(angle) * scale
    affine = torch.stack([torch.stack([cos, -sin, shift_x], 1), torch.stack([sin, cos, shift_y], 1)], 1)
    grid = F.affine_grid(affine, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def _uniform(*shape: int) -> Tensor:
    """Return random numbers in [-1, 1)."""
    return 2 * torch.rand(*shape) - 1
