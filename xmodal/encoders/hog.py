"""An image backbone of fixed features (histograms of oriented gradients and colours), for a few thousand images.

What a convolution has to learn from data is fixed here, so that a small corpus is spent on what the captions say.
Orientations as in Dalal & Triggs (2005), in cells of several sizes; colours as a joint histogram and a thumbnail.
"""

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel, initialization
from transformers.modeling_outputs import BaseModelOutputWithPooling


class HogConfig(PreTrainedConfig):
    """Configuration: `orientations` per cell of every grid of `grids`, `thumbnail`**2 pixels, `colours`**3 colour bins.

    `hidden_size` units with `dropout` before them read all of these; the features are both, concatenated.
    """

    model_type = "xmodal-hog"
    __no_type_check__ = True  # transformers writes an __init__ that takes more than its signature says

    orientations: int = 9
    grids: list[int] | tuple[int, ...] = (8, 16)
    thumbnail: int = 8
    colours: int = 4
    hidden_size: int = 1024
    dropout: float = 0.5

    @property
    def fixed_size(self) -> int:
        """Return how many numbers describe an image before anything is learned."""
        return self.orientations * sum(g * g for g in self.grids) + 3 * self.thumbnail**2 + self.colours**3

    @property
    def feature_size(self) -> int:
        """Return the width of the features."""
        return self.fixed_size + self.hidden_size


class HogModel(PreTrainedModel):
    """A fixed description of the image, normalised, concatenated with a hidden layer that reads it."""

    config: HogConfig
    config_class = HogConfig
    main_input_name = "pixel_values"

    def __init__(self, config: HogConfig) -> None:
        super().__init__(config)
        self.norm = nn.LayerNorm(config.fixed_size)
        self.dropout = nn.Dropout(config.dropout)
        self.hidden = nn.Linear(config.fixed_size, config.hidden_size)
        PreTrainedModel.post_init(self)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            initialization.normal_(module.weight, std=module.in_features**-0.5)
            initialization.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            initialization.ones_(module.weight)
            initialization.zeros_(module.bias)

    def forward(self, pixel_values: Float[Tensor, "B C H W"], **_: Any) -> BaseModelOutputWithPooling:
        """Return the features as `pooler_output`; pixels lie in 0..1, and every grid divides H and W."""
        description = self.dropout(self.norm(self.describe(pixel_values)))
        hidden = self.dropout(F.gelu(self.hidden(description)))
        return BaseModelOutputWithPooling(pooler_output=torch.cat([description, hidden.to(description.dtype)], 1))

    @torch.no_grad()
    def describe(self, pixels: Float[Tensor, "B C H W"]) -> Float[Tensor, "B F"]:
        """Return roots of histograms: orientations in each grid's cells, the thumbnail, and roots of colour shares."""
        config, pixels = self.config, pixels.float()
        orientations = oriented_gradients(pixels, config.orientations)
        parts = [_root_of_share(_cells(orientations, grid)) for grid in config.grids]
        return torch.cat(
            [*parts, _cells(pixels, config.thumbnail), 2 * colour_histogram(pixels, config.colours).sqrt()], 1
        )


def oriented_gradients(pixels: Float[Tensor, "B C H W"], orientations: int) -> Float[Tensor, "B O H W"]:
    """Return the strength of each pixel's gradient, split between the two nearest of `orientations` directions.

    The directions cover 180 degrees. The gradient is a central difference in the channel where it is strongest.
    """
    padded = F.pad(pixels, (1, 1, 1, 1), mode="replicate")
    x = (padded[:, :, 1:-1, 2:] - padded[:, :, 1:-1, :-2]) / 2
    y = (padded[:, :, 2:, 1:-1] - padded[:, :, :-2, 1:-1]) / 2
    strongest = (x * x + y * y).argmax(1, keepdim=True)
    x, y = x.gather(1, strongest), y.gather(1, strongest)
    direction = torch.atan2(y, x).remainder(math.pi) * (orientations / math.pi)
    distance = (direction - torch.arange(orientations, device=pixels.device)[None, :, None, None]).abs()
    share = (1 - torch.minimum(distance, orientations - distance)).clamp(
        min=0
    )  # the last direction is next to the first
    return share * (x * x + y * y).sqrt()


def colour_histogram(pixels: Float[Tensor, "B C H W"], levels: int) -> Float[Tensor, "B K"]:
    """Return the share of the image that each of `levels`**3 colours covers.

    >>> colour_histogram(torch.zeros(1, 3, 4, 4), 2)
    tensor([[1., 0., 0., 0., 0., 0., 0., 0.]])
    """
    level = (pixels * levels).long().clamp(0, levels - 1)
    colour = ((level[:, 0] * levels + level[:, 1]) * levels + level[:, 2]).flatten(1)
    return torch.stack([(colour == bin_).float().mean(1) for bin_ in range(levels**3)], 1)


def _cells(maps: Float[Tensor, "B C H W"], grid: int) -> Float[Tensor, "B F"]:
    """Return the means over the cells of a grid."""
    return F.avg_pool2d(maps, (maps.shape[2] // grid, maps.shape[3] // grid)).flatten(1)


def _root_of_share(histogram: Float[Tensor, "B F"]) -> Float[Tensor, "B F"]:
    """Return roots of normalised histograms, so that strong edges do not dominate; a blank image stays zero."""
    norm: Tensor = torch.linalg.vector_norm(histogram, dim=1, keepdim=True)
    return (histogram / (norm + 1e-6)).sqrt()


AutoConfig.register(HogConfig.model_type, HogConfig)
AutoModel.register(HogConfig, HogModel)
