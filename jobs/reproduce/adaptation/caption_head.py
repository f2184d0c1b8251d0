"""A hidden layer of pictures of digits in, scores by captions ("a photo of the digit three") out, as in CLIP."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xmodal.encoders.bag_of_tokens import BagConfig, BagModel
from xmodal.losses.contrastive import info_nce
from xmodal.metrics.validators import bank_scores

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
TEMPLATES = ("a photo of the digit {}", "a handwritten {}", "the number {}", "{}")
WIDTH = 64


class CaptionHead(nn.Module):
    """Pictures' unit rows beside those of captions. A class is its first template's caption; training draws any."""

    tokens: Tensor

    def __init__(self, hidden: int) -> None:
        super().__init__()
        said = [[template.format(name).split() for template in TEMPLATES] for name in NAMES]
        number = {
            word: k for k, word in enumerate(dict.fromkeys(w for one in said for caption in one for w in caption))
        }
        longest = max(len(caption) for one in said for caption in one)
        ids = [[[number[w] for w in caption] + [-1] * (longest - len(caption)) for caption in one] for one in said]
        self.register_buffer("tokens", torch.tensor(ids))  # [10, templates, words]
        self.text = BagModel(BagConfig(vocab_size=len(number), hidden_size=WIDTH, intermediate_size=WIDTH))
        self.of_text, self.of_picture = nn.Linear(WIDTH, WIDTH, bias=False), nn.Linear(hidden, WIDTH, bias=False)
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def forward(self, hidden: Tensor) -> Tensor:
        """Scores [N, 10] at the fixed temperature of validators."""
        return bank_scores(self.pictures(hidden), self.captions(self.tokens[:, 0]))

    def contrast(self, hidden: Tensor, label: Tensor) -> Tensor:
        """InfoNCE of pictures with a caption of their class; equal classes are no negatives of each other."""
        template = torch.randint(len(TEMPLATES), label.shape)
        said = self.captions(self.tokens[label, template])
        return info_nce(self.pictures(hidden), said, self.log_scale, ids=label)

    def pictures(self, hidden: Tensor) -> Tensor:
        return F.normalize(self.of_picture(hidden), dim=1)

    def captions(self, tokens: Tensor) -> Tensor:
        return F.normalize(self.of_text(self.text(tokens.clamp(min=0), (tokens >= 0).long()).pooler_output), dim=1)
