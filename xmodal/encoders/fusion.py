"""Fusions: modules that join the tokens of several modalities into one feature vector.

M: modalities.  N: tokens of one modality (1 for a vector).  D: width of the fused space.  Every fusion reads
`tokens[modality]` [B, N, W_m] and `mask[modality]` [B, N] (true for tokens that are present; a row may have none), and
keeps the order of the modalities that it was built with.
"""

from collections.abc import Mapping
from typing import cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from xmodal.errors import ConfigError, nearest

TokensByModality = Mapping[str, Float[Tensor, "B N W"]]
MasksByModality = Mapping[str, Bool[Tensor, "B N"]]


def mean_of_tokens(tokens: Float[Tensor, "B N W"], mask: Bool[Tensor, "B N"]) -> Float[Tensor, "B W"]:
    """Return the mean over the tokens that are present; zeros for a row without any."""
    weight = mask.to(tokens.dtype)[:, :, None]
    return (tokens * weight).sum(1) / weight.sum(1).clamp(min=1)


class Fusion(nn.Module):
    """Base of the fusions: the modalities with their widths, and the width of the output."""

    def __init__(self, widths: Mapping[str, int], dim: int) -> None:
        super().__init__()
        self.widths, self.dim = dict(widths), dim

    def means(self, tokens: TokensByModality, masks: MasksByModality) -> dict[str, Float[Tensor, "B W"]]:
        """Return the mean token of each modality."""
        return {name: mean_of_tokens(tokens[name], masks[name]) for name in self.widths}


class Concatenation(Fusion):
    """Concatenates the means; the classifier reads them all."""

    def __init__(self, widths: Mapping[str, int], dim: int) -> None:
        super().__init__(widths, sum(widths.values()))

    def forward(self, tokens: TokensByModality, masks: MasksByModality) -> Float[Tensor, "B D"]:
        return torch.cat(list(self.means(tokens, masks).values()), 1)


class Summation(Fusion):
    """Sums a linear map of each mean: late fusion, since the classifier is linear, too."""

    def __init__(self, widths: Mapping[str, int], dim: int) -> None:
        super().__init__(widths, dim)
        self.maps = nn.ModuleDict({name: nn.Linear(width, dim) for name, width in widths.items()})

    def forward(self, tokens: TokensByModality, masks: MasksByModality) -> Float[Tensor, "B D"]:
        parts = [self.maps[name](mean) for name, mean in self.means(tokens, masks).items()]
        return torch.stack(parts).sum(0)


class Gating(Fusion):
    """A gated multimodal unit (Arevalo et al. 2017, §3.2): each coordinate weighs the modalities by all of them."""

    def __init__(self, widths: Mapping[str, int], dim: int) -> None:
        super().__init__(widths, dim)
        self.maps = nn.ModuleDict({name: nn.Linear(width, dim) for name, width in widths.items()})
        self.gates = nn.Linear(sum(widths.values()), dim * len(widths))

    def forward(self, tokens: TokensByModality, masks: MasksByModality) -> Float[Tensor, "B D"]:
        means = self.means(tokens, masks)
        gates = self.gates(torch.cat(list(means.values()), 1)).unflatten(1, (len(means), self.dim)).softmax(1)
        hidden = torch.stack([torch.tanh(self.maps[name](mean)) for name, mean in means.items()], 1)
        return cast(Tensor, (gates * hidden).sum(1))


class Film(Fusion):
    """Feature-wise linear modulation (Perez et al. 2018): each further modality scales and shifts the features."""

    def __init__(self, widths: Mapping[str, int], dim: int) -> None:
        super().__init__(widths, dim)
        first, *others = widths
        self.base = nn.Linear(widths[first], dim)
        self.modulations = nn.ModuleDict({name: nn.Linear(widths[name], 2 * dim) for name in others})

    def forward(self, tokens: TokensByModality, masks: MasksByModality) -> Float[Tensor, "B D"]:
        means = self.means(tokens, masks)
        fused = self.base(means[next(iter(means))])
        for name, modulation in self.modulations.items():
            scale, shift = modulation(means[name]).chunk(2, 1)
            fused = (1 + scale) * fused + shift
        return cast(Tensor, fused)


class CrossModalTransformer(Fusion):
    """Every token attends to every token of every modality, layer after layer: dense cross-modal interaction.

    Tokens are mapped to `dim`, marked with their modality, and read out through one extra token. Absent tokens are
    masked; positions are left to the encoders.
    """

    def __init__(self, widths: Mapping[str, int], dim: int, *, depth: int = 2, heads: int = 4) -> None:
        super().__init__(widths, dim)
        if dim % heads:
            raise ConfigError(f"fusion: heads={heads} does not divide dim={dim}")
        self.maps = nn.ModuleDict({name: nn.Linear(width, dim) for name, width in widths.items()})
        self.kind = nn.Parameter(0.02 * torch.randn(len(widths), dim))
        self.summary = nn.Parameter(0.02 * torch.randn(dim))
        self.layers = nn.ModuleList([_TransformerLayer(dim, heads) for _ in range(depth)])
        self.norm = nn.LayerNorm(dim)

    def forward(self, tokens: TokensByModality, masks: MasksByModality) -> Float[Tensor, "B D"]:
        parts = [self.maps[name](tokens[name]) + self.kind[i] for i, name in enumerate(self.widths)]
        rows = parts[0].shape[0]
        hidden = torch.cat([self.summary.to(parts[0].dtype).expand(rows, 1, -1), *parts], 1)
        present = torch.cat([masks[name] for name in self.widths], 1)
        attention_mask = F.pad(present, (1, 0), value=True)[:, None, None, :]
        for layer in self.layers:
            hidden = layer(hidden, attention_mask)
        return cast(Tensor, self.norm(hidden[:, 0]))


class _TransformerLayer(nn.Module):
    """Pre-norm attention and a hidden layer, without dropout."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.queries_keys_values, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.hidden, self.output = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)

    def forward(self, x: Float[Tensor, "B N D"], attention_mask: Bool[Tensor, "B 1 1 N"]) -> Float[Tensor, "B N D"]:
        q, k, v = (
            part.unflatten(2, (self.heads, -1)).transpose(1, 2)
            for part in self.queries_keys_values(self.norm1(x)).chunk(3, 2)
        )
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=attention_mask).transpose(1, 2).flatten(2)
        x = x + self.out(attended)
        return x + cast(Tensor, self.output(F.gelu(self.hidden(self.norm2(x)))))


FUSIONS: Mapping[str, type[Fusion]] = {
    "concatenation": Concatenation,
    "summation": Summation,
    "gating": Gating,
    "film": Film,
    "transformer": CrossModalTransformer,
}


def build_fusion(name: str, widths: Mapping[str, int], dim: int) -> Fusion:
    """Build the fusion of this name; ConfigError for an unknown one (with the nearest), or fewer than two modalities.

    >>> build_fusion("concatenation", {"audio": 3, "video": 5}, dim=16).dim
    8
    """
    if name not in FUSIONS:
        raise ConfigError(f"unknown fusion {name!r}; {nearest(name, FUSIONS)}")
    if len(widths) < 2:
        raise ConfigError(f"a fusion joins two modalities or more, not {', '.join(widths) or 'none'}")
    return FUSIONS[name](widths, dim)
