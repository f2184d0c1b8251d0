"""Classify digits by captions ("a photo of the digit three") in place of a linear layer, as in CLIP."""

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
    """Unit embeddings of images and captions; a class is the caption of its first template, training draws any."""

    tokens: Tensor

    def __init__(self, hidden: int) -> None:
        super().__init__()
        captions = [[template.format(name).split() for template in TEMPLATES] for name in NAMES]
        all_captions = [caption for class_captions in captions for caption in class_captions]
        words = dict.fromkeys(word for caption in all_captions for word in caption)
        word_ids = {word: number for number, word in enumerate(words)}
        longest = max(map(len, all_captions))
        ids = [
            [[word_ids[word] for word in caption] + [-1] * (longest - len(caption)) for caption in class_captions]
            for class_captions in captions
        ]
        self.register_buffer("tokens", torch.tensor(ids))  # [10, templates, words]
        self.text = BagModel(BagConfig(vocab_size=len(word_ids), hidden_size=WIDTH, intermediate_size=WIDTH))
        self.text_projection = nn.Linear(WIDTH, WIDTH, bias=False)
        self.image_projection = nn.Linear(hidden, WIDTH, bias=False)
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def forward(self, hidden: Tensor) -> Tensor:
        """Return scores [N, 10] at the fixed temperature of validators."""
        return bank_scores(self.embed_images(hidden), self.embed_texts(self.tokens[:, 0]))

    def contrast(self, hidden: Tensor, label: Tensor) -> Tensor:
        """Return InfoNCE of images with a caption of their class; rows of one class are no negatives of each other."""
        template = torch.randint(len(TEMPLATES), label.shape)
        embeddings = self.embed_texts(self.tokens[label, template])
        return info_nce(self.embed_images(hidden), embeddings, self.log_scale, ids=label)

    def embed_images(self, hidden: Tensor) -> Tensor:
        """Return unit embeddings of images by their hidden layer."""
        return F.normalize(self.image_projection(hidden), dim=1)

    def embed_texts(self, tokens: Tensor) -> Tensor:
        """Return unit embeddings of captions by their word ids, -1 is padding."""
        pooled = self.text(tokens.clamp(min=0), (tokens >= 0).long()).pooler_output
        return F.normalize(self.text_projection(pooled), dim=1)
