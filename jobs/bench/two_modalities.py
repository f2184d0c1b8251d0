"""A classifier of two modalities, and one training step of it for each way to combine gradients.

The steps differ in the gradients only: forward on the same rows, one update by SGD. `published` is the recipe of
GeWu-Lab/MMPareto_ICML2024 (a339db39), rewritten: a backward for each of the three losses and one for their sum, copies
of every gradient, inner products tensor by tensor on the host, a rescale of each tensor.
"""

import functools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xmodal.encoders.small_resnet import ConvConfig, ConvModel
from xmodal.gradients import FeatureSplitter, ParameterSpace, Partition, weighting

CLASSES, MODALITIES, PATCH = 10, ("audio", "video"), 8
Rows = dict[str, Tensor]
Step = Callable[[Rows], None]


class Conv(nn.Module):
    """Encode pixels [B, 3, H, W] as features [B, width] by a residual network with group norm, two blocks a stage."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.net = ConvModel(ConvConfig(hidden_sizes=[width // 4, width // 2, width], depths=[2, 2, 2]))

    def forward(self, pixels: Tensor) -> Tensor:
        return self.net(pixels).pooler_output


class Transformer(nn.Module):
    """Encode pixels [B, 3, H, W] as features [B, width]: patches of 8 x 8, pre-norm blocks, mean over patches."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, PATCH, PATCH)
        layer = functools.partial(nn.TransformerEncoderLayer, width, width // 64, 4 * width, 0.0, F.gelu)
        self.layers = nn.Sequential(*(layer(batch_first=True, norm_first=True) for _ in range(depth)))

    def forward(self, pixels: Tensor) -> Tensor:
        return self.layers(self.patches(pixels).flatten(2).transpose(1, 2)).mean(1)


class TwoModalities(nn.Module):
    """Encoders, a linear head for each and one over both features; `forward` returns joint and unimodal losses."""

    def __init__(self, encoder: Callable[[], nn.Module], width: int, *, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.encoders = nn.ModuleDict({name: encoder() for name in MODALITIES})
        self.heads = nn.ModuleDict({name: nn.Linear(width, CLASSES) for name in MODALITIES})
        self.fusion = nn.Linear(len(MODALITIES) * width, CLASSES)
        self.splitter: FeatureSplitter | None = None

    def forward(self, rows: Rows) -> tuple[Tensor, list[Tensor]]:
        features = {name: encoder(rows[name]) for name, encoder in self.encoders.items()}
        joint, unimodal_features = (features, features) if self.splitter is None else self.splitter(features)
        logits = self.fusion(torch.cat([*joint.values()], 1))
        unimodal = [F.cross_entropy(self.heads[name](z), rows["label"]) for name, z in unimodal_features.items()]
        return F.cross_entropy(logits, rows["label"]), unimodal

    @property
    def partition(self) -> Partition:
        """The parameters of each encoder, and the rest."""
        return Partition.from_module(self, self.encoders)


MODELS: dict[str, Callable[[], TwoModalities]] = {
    "conv": lambda: TwoModalities(functools.partial(Conv, 256), 256),
    "transformer": lambda: TwoModalities(functools.partial(Transformer, 256, 4), 256),
    "wide": lambda: TwoModalities(functools.partial(Transformer, 512, 8), 512),  # 25 M parameters an encoder
    "small": lambda: TwoModalities(functools.partial(Conv, 64), 64),
}


def random_rows(count: int, size: int, *, seed: int = 0) -> Rows:
    """Return random images of `size` x `size` in both modalities, and random labels."""
    random = torch.Generator().manual_seed(seed)
    rows = {name: torch.randn(count, 3, size, size, generator=random) for name in MODALITIES}
    return rows | {"label": torch.randint(0, CLASSES, (count,), generator=random)}


def build_step(method: str, model: TwoModalities, forward: nn.Module | None = None, *, keep: bool = False) -> Step:
    """Return a function that takes one training step; `forward` is called instead of the model (a DDP wrapper).

    With `keep`, gradients stay allocated between steps, as in DDP's buckets.
    """
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    forward_module = forward or model
    if method == "features" and model.splitter is None:
        model.splitter = FeatureSplitter(weighting("mmpareto"))
    space = ParameterSpace(model.partition, weighting("mmpareto")) if method == "parameters" else None

    def step(rows: Rows) -> None:
        joint, unimodal = forward_module(rows)
        if space is not None:
            space.add([joint, torch.stack(unimodal).sum()])
            space.decide()
        elif method == "published":
            published_step(model, joint, unimodal)
        else:
            (joint + torch.stack(unimodal).sum()).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=not keep)

    return step


def published_step(model: TwoModalities, joint: Tensor, unimodal_losses: list[Tensor]) -> None:
    """Write `.grad` by four backward passes, decided on the host and rescaled tensor by tensor."""
    blocks = {name: list(encoder.parameters()) for name, encoder in model.encoders.items()}
    gradients: dict[str, list[list[Tensor]]] = {name: [] for name in blocks}
    flat: dict[str, list[Tensor]] = {name: [] for name in blocks}
    for names, loss in zip([MODALITIES, *([name] for name in MODALITIES)], [joint, *unimodal_losses], strict=True):
        loss.backward(retain_graph=True)
        for name in names:
            gradients[name].append([_gradient(p).clone() for p in blocks[name]])
            flat[name].append(torch.cat([g.flatten() for g in gradients[name][-1]]))
        model.zero_grad()
    shares = {name: _multimodal_weight(flat[name], gradients[name]) for name in blocks}
    (joint + torch.stack(unimodal_losses).sum()).backward()
    for name, block in blocks.items():
        for p, multimodal, unimodal in zip(block, *gradients[name], strict=True):
            direction = 2 * shares[name] * multimodal + 2 * (1 - shares[name]) * unimodal
            ratio = _gradient(p).clone().norm() / direction.norm()
            p.grad = ratio * direction * 1.5 if ratio > 1 else direction * 1.5


def _multimodal_weight(flat: Sequence[Tensor], gradients: Sequence[Sequence[Tensor]]) -> float:
    """Return the multimodal gradient's weight: a half without conflict, else that of the min-norm direction."""
    if F.cosine_similarity(flat[0], flat[1], dim=0) > 0:
        return 0.5
    multimodal, unimodal = gradients
    a, b, c = (
        sum(torch.mul(x, y).sum().item() for x, y in zip(first, second, strict=True))
        for first, second in ((multimodal, multimodal), (multimodal, unimodal), (unimodal, unimodal))
    )
    return (c - b) / (a + c - 2 * b)


def _gradient(p: nn.Parameter) -> Tensor:
    assert p.grad is not None
    return p.grad
