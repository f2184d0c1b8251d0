"""A dual encoder small enough for a test, and batches for it."""

import math

import torch
from torch import nn
from torch.nn import functional as F

from xmodal.batch import Batch

PIXELS = (4, 4, 3)
WORDS = 11
TEXT_ROWS = 5


class ImageTower(nn.Module):
    def __init__(self, *, width: int, dropout: float, batch_norm: bool):
        super().__init__()
        self.first = nn.Linear(math.prod(PIXELS), width)
        self.norm = nn.BatchNorm1d(width) if batch_norm else nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)
        self.last = nn.Linear(width, 8)

    def forward(self, batch: Batch) -> torch.Tensor:
        pixels = batch.fields["image"].flatten(1).to(self.first.weight.dtype) / 255
        return self.last(self.dropout(torch.relu(self.norm(self.first(pixels)))))


class TextTower(nn.Module):
    def __init__(self, *, width: int, dropout: float):
        super().__init__()
        self.words = nn.Embedding(WORDS, width)
        self.dropout = nn.Dropout(dropout)
        self.last = nn.Linear(width, 8, bias=False)

    def forward(self, batch: Batch) -> torch.Tensor:
        return self.last(self.dropout(torch.tanh(self.words(batch.fields["text"]).mean(1))))


class ToyEncoder(nn.Module):
    modalities = ("image", "text")

    def __init__(self, *, width: int = 16, dropout: float = 0.0, batch_norm: bool = False, seed: int = 0):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            towers = {
                "image": ImageTower(width=width, dropout=dropout, batch_norm=batch_norm),
                "text": TextTower(width=width, dropout=dropout),
            }
        self.towers = nn.ModuleDict(towers)
        self.log_scale = nn.Parameter(torch.tensor(math.log(10.0)))
        self.logit_bias = nn.Parameter(torch.tensor(-2.0))

    def encode(self, modality: str, batch: Batch) -> torch.Tensor:
        return F.normalize(self.towers[modality](batch), dim=-1)

    @torch.no_grad()
    def clamp_(self) -> None:
        self.log_scale.clamp_(0, math.log(100.0))


def toy_batch(rows: int, *, seed: int = 0, masked: tuple[int, ...] = (), captions: int | None = None) -> Batch:
    """Return random pairs; `masked` rows are invalid, and at most `captions` different captions occur."""
    draw = torch.Generator().manual_seed(seed)
    image = torch.randint(0, 256, (rows, *PIXELS), generator=draw, dtype=torch.uint8)
    text = torch.randint(0, WORDS, (rows, TEXT_ROWS), generator=draw, dtype=torch.int32)
    text_id = torch.randint(0, captions or 10**12, (rows,), generator=draw)
    valid = torch.ones(rows, dtype=torch.bool)
    valid[list(masked)] = False
    fields = {"image": image, "text": text, "text_id": text_id}
    return Batch(torch.arange(rows) + 1000 * seed, valid, fields)


def part_of(batch: Batch, rank: int, world: int) -> Batch:
    """Return the rows of one rank."""
    size = len(batch) // world
    return batch[rank * size : (rank + 1) * size]
