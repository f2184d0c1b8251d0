"""A small residual network: one feature vector per image, for little data and small images."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel, initialization
from transformers.modeling_outputs import BaseModelOutputWithPooling


class ConvConfig(PreTrainedConfig):
    """Configuration: `hidden_sizes[i]` channels and `depths[i]` blocks in stage i; each stage halves the resolution.

    So does the stem. The features are means over the cells of a `grid` x `grid` partition of the last map,
    concatenated: 1 ignores where things are, more distinguishes the top of a drawing from its bottom. Two numbers are
    rows and columns.
    """

    model_type = "xmodal-conv"
    __no_type_check__ = True  # transformers writes an __init__ that takes more than its signature says

    hidden_sizes: list[int] | tuple[int, ...] = (64, 128, 256)
    depths: list[int] | tuple[int, ...] = (1, 1, 1)
    stem_size: int = 32
    group_size: int = 16  # channels normalised together
    grid: int | list[int] | tuple[int, ...] = 1
    num_channels: int = 3

    @property
    def feature_size(self) -> int:
        """Return the width of the features."""
        rows, columns = self.cells
        return self.hidden_sizes[-1] * rows * columns

    @property
    def cells(self) -> tuple[int, int]:
        """Return rows and columns of the grid."""
        rows, columns = (self.grid, self.grid) if isinstance(self.grid, int) else self.grid
        return rows, columns


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (He et al. 2016).

    Groups of channels of one image are normalised together, not channels of the batch: an embedding then depends on its
    own row only, whatever the worker, the chunk or the padding.
    """

    def __init__(self, inputs: int, outputs: int, *, stride: int, group_size: int) -> None:
        super().__init__()
        groups = max(1, outputs // group_size)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm1 = nn.GroupNorm(groups, outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm2 = nn.GroupNorm(groups, outputs)
        same = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if same else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C2 H2 W2"]:
        """Return the block's output."""
        hidden = torch.relu(self.norm1(self.conv1(x)))
        # oneDNN of torch 2.13 writes out of bounds in the backward pass of strided 1x1 convolutions of fewer than 16
        # channels, channels last, on several threads.
        shortcut = self.shortcut(x if x.shape[1] >= 16 else x.contiguous())
        return torch.relu(self.norm2(self.conv2(hidden)) + shortcut)


class ConvModel(PreTrainedModel):
    """Stem, stages of blocks, means over the cells of a grid."""

    config: ConvConfig
    config_class = ConvConfig
    main_input_name = "pixel_values"

    def __init__(self, config: ConvConfig) -> None:
        super().__init__(config)
        stem = config.stem_size
        self.stem = nn.Conv2d(config.num_channels, stem, 3, 2, 1, bias=False)
        self.stages = nn.Sequential(*_stages(config))
        PreTrainedModel.post_init(self)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Conv2d):
            initialization.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.GroupNorm):
            initialization.ones_(module.weight)
            initialization.zeros_(module.bias)

    def forward(self, pixel_values: Float[Tensor, "B C H W"], **_: Any) -> BaseModelOutputWithPooling:
        """Return the last feature map and the features as `pooler_output`."""
        hidden = self.stages(torch.relu(self.stem(pixel_values)))
        return BaseModelOutputWithPooling(last_hidden_state=hidden, pooler_output=_means(hidden, *self.config.cells))


def _means(hidden: Float[Tensor, "B C H W"], rows: int, columns: int) -> Float[Tensor, "B F"]:
    """Return the means over rows x columns cells, channel by channel."""
    height, width = hidden.shape[2:]
    if height % rows == 0 and width % columns == 0:
        return F.avg_pool2d(hidden, (height // rows, width // columns)).flatten(1)
    row_shares, column_shares = (_shares(size, cells).to(hidden) for size, cells in ((height, rows), (width, columns)))
    return (row_shares.T @ hidden @ column_shares).flatten(1)


def _shares(size: int, cells: int) -> Float[Tensor, "S K"]:
    """Return how much of each of `size` positions belongs to each of `cells` equal parts [S, K]; columns sum to 1.

    A position on an edge is shared by its two cells. (torch's adaptive pooling would repeat it, and is not
    deterministic on GPUs.)
    """
    edges = torch.arange(cells + 1) * size / cells
    position = torch.arange(size)[:, None]
    overlap = torch.minimum(position + 1, edges[1:]) - torch.maximum(position, edges[:-1])
    return overlap.clamp(min=0) * cells / size


def _stages(config: ConvConfig) -> list[ResidualBlock]:
    """Return the blocks of all stages."""
    blocks, inputs = [], config.stem_size
    for outputs, depth in zip(config.hidden_sizes, config.depths, strict=True):
        for index in range(depth):
            stride = 2 if index == 0 else 1
            blocks.append(ResidualBlock(inputs, outputs, stride=stride, group_size=config.group_size))
            inputs = outputs
    return blocks


AutoConfig.register(ConvConfig.model_type, ConvConfig)
AutoModel.register(ConvConfig, ConvModel)
