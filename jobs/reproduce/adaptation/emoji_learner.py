"""Train a small dual encoder on image descriptors and bags of tokens: pairs of the source, images of the target.

The contrastive loss is on the source's pairs, half icons and half emoji; the domain loss is between the unit embeddings
of both vendors' images. Images of the target are never negatives.
"""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from jobs.reproduce.adaptation.arms import MATCHING, ORACLE, OWN_STATISTICS, PAIRS, AdaptationArm
from jobs.reproduce.adaptation.batches import endless_batches, record_gradient_norm
from jobs.reproduce.adaptation.emoji_data import HOG, VOCABULARY
from jobs.reproduce.adaptation.evaluation import ModelOutputs, domain_distances, project_domains, score_outputs
from jobs.reproduce.adaptation.experiment import AdaptationSettings, Parts
from xmodal.encoders.bag_of_tokens import BagConfig, BagModel
from xmodal.losses.contrastive import info_nce
from xmodal.losses.gradient_reversal import dann_ramp
from xmodal.losses.pseudo_pairs import best_assignment, mutual_nearest_neighbours
from xmodal.metrics.retrieval import retrieve
from xmodal.metrics.validators import bank_scores
from xmodal.training.domain_methods import DOMAIN_METHODS, PROBABILITY_METHODS
from xmodal.training.objectives.domain import DomainFeatures, DomainLoss

WIDTH, HIDDEN, DROPOUT, TEXT_WIDTH = 128, 512, 0.4, 256
WARMUP_STEPS, WEIGHT_DECAY, MAX_LOG_SCALE = 50, 0.2, math.log(100)
CRITIC_GAIN = 10.0  # factor of the critic's learning rate: at the encoder's rate it lags behind the encoder
VENDORS = ("noto", "openmoji")
PSEUDO_PAIRS_FROM, PSEUDO_PAIRS_EVERY = 0.3, 40  # share of the run before the first assignment, steps between two


class EmojiNet(nn.Module):
    """Return unit embeddings [N, 128] of image descriptors [N, F] or tokens [N, L].

    With `statistics`, the descriptors of each vendor are first normalised to mean 0 and deviation 1 of that vendor's
    train images (unlabelled), which corresponds to domain-specific batch normalisation.
    """

    def __init__(self, statistics: dict[str, tuple[Tensor, Tensor]]) -> None:
        super().__init__()
        self.statistics = statistics
        self.norm, self.dropout = nn.LayerNorm(HOG.fixed_size), nn.Dropout(DROPOUT)
        self.hidden = nn.Linear(HOG.fixed_size, HIDDEN)
        self.direct_projection = nn.Linear(HOG.fixed_size, WIDTH, bias=False)
        self.hidden_projection = nn.Linear(HIDDEN, WIDTH)
        self.text = BagModel(BagConfig(vocab_size=VOCABULARY, hidden_size=TEXT_WIDTH))
        self.text_projection = nn.Linear(TEXT_WIDTH, WIDTH, bias=False)
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def embed_images(self, descriptors: Tensor, vendor: str) -> Tensor:
        """Return unit embeddings of image descriptors [N, F] of one vendor."""
        rows = descriptors.float()
        if vendor in self.statistics:
            mean, deviation = self.statistics[vendor]
            rows = (rows - mean) / deviation
        normalised = self.dropout(self.norm(rows))
        hidden = self.dropout(F.gelu(self.hidden(normalised)))
        return F.normalize(self.direct_projection(normalised) + self.hidden_projection(hidden), dim=1)

    def embed_texts(self, tokens: Tensor) -> Tensor:
        """Return unit embeddings of tokens [N, L]; -1 is padding."""
        valid = tokens >= 0
        valid[:, 0] |= ~valid.any(1)  # a caption of unknown characters only has no token
        ids = tokens.long().clamp(min=0)
        return F.normalize(self.text_projection(self.text(ids, valid.long()).pooler_output), dim=1)


class PseudoPairs:
    """The text that each image of the target is taken for: `text` int64 [N], -1 where none.

    An image gets a text where both are each other's nearest among all, or, with `matched`, by the best assignment of
    all images to different texts (`xmodal.losses.pseudo_pairs`). The first assumes nothing; the second assumes that the
    target shows the texts' concepts, about equally often. The similarity of image and text is that to the mean of the
    text and the source's image of it. The texts are the source's: a concept that the source lacks cannot be assigned
    correctly.
    """

    def __init__(self, count: int, *, matched: bool) -> None:
        self.text, self.matched = torch.full((count,), -1), matched

    def update(self, images: Tensor, texts: Tensor, source_images: Tensor) -> None:
        """Assign texts anew, from unit rows of target images [N, D], source texts [P, D] and their images [P, D]."""
        self.text = torch.full_like(self.text, -1)
        concepts = (texts + source_images) / 2
        pairs = best_assignment(images @ concepts.T) if self.matched else mutual_nearest_neighbours(images, concepts)
        self.text[pairs[:, 0]] = pairs[:, 1]


class EmojiLearner:
    """Trains one arm on emoji; a `Learner`. The oracle learns from OpenMoji's pairs too."""

    def __init__(self, arm: AdaptationArm, seed: int, data: Parts, settings: AdaptationSettings) -> None:
        torch.manual_seed(seed)
        self.arm, self.seed, self.data, self.settings = arm, seed, data, settings
        method_parts = arm.method.split("+")
        method = next((name for name in method_parts if name in DOMAIN_METHODS), None)
        normalised_vendors = VENDORS if OWN_STATISTICS in method_parts else ()
        self.net = EmojiNet({vendor: _statistics(data[f"{vendor}/train"]["views"]) for vendor in normalised_vendors})
        target_images = len(data["openmoji/train"]["query"])
        with_pairs = bool({PAIRS, MATCHING} & {*method_parts})
        self.pseudo_pairs = PseudoPairs(target_images, matched=MATCHING in method_parts) if with_pairs else None
        bank = len(data["noto/train"]["query"])
        self.domain = DomainLoss(method, WIDTH, classes=bank) if method else None
        groups = [{"params": [*self.net.parameters()], "gain": 1.0}]
        if self.domain is not None and self.domain.critic is not None:
            groups.append({"params": [*self.domain.parameters()], "gain": CRITIC_GAIN})
        self.optimizer = torch.optim.AdamW(groups, weight_decay=WEIGHT_DECAY)
        self.rng = np.random.default_rng((seed, 7))
        rows_per_part = settings.batch_size // 2
        self.streams = {
            part: endless_batches(len(data[part]["views"]), rows_per_part, self.rng)
            for part in ("icons/train", "noto/train", "openmoji/train")
        }
        self.ids = _ids(data)
        self.series: list[dict[str, float]] = []

    def step(self, step: int, progress: float) -> dict[str, float]:
        parts = ["icons/train", "noto/train"] + (["openmoji/train"] if self.arm.method == ORACLE else [])
        rows_by_part = {part: next(self.streams[part]) for part in self.streams}
        images = {
            part: self.net.embed_images(self._view(part, rows), part.split("/")[0])
            for part, rows in rows_by_part.items()
        }
        texts = torch.cat([self.net.embed_texts(self._caption(part, rows_by_part[part])) for part in parts])
        ids = torch.cat([self.ids[part][rows_by_part[part]] for part in parts])
        norms: dict[str, float] = {}
        task_images = {**images, "noto/train": record_gradient_norm(images["noto/train"], "task_norm", norms)}
        loss = info_nce(torch.cat([task_images[part] for part in parts]), texts, self.net.log_scale, ids=ids)
        strength, metrics = self.arm.strength * dann_ramp(progress), dict[str, float]()
        if self.domain is not None:
            domain_loss, domain_metrics = self._align(images, strength, norms)
            loss, metrics = loss + domain_loss, domain_metrics
        if self.pseudo_pairs is not None:
            loss = loss + self.arm.strength * self._pseudo_pair_loss(
                images["openmoji/train"], rows_by_part["openmoji/train"], step, progress
            )
        self._update(loss, step, progress)
        step_metrics = {"loss": float(loss.detach()), "strength": strength, **metrics, **norms}
        self.series.append(step_metrics)
        return step_metrics

    def _align(self, images: dict[str, Tensor], strength: float, norms: dict[str, float]) -> tuple[Tensor, Any]:
        assert self.domain is not None
        source = record_gradient_norm(images["noto/train"], "domain_norm", norms)
        target = images["openmoji/train"]
        valid = [torch.ones(len(rows), dtype=torch.bool) for rows in (source, target)]
        bank = None
        if self.domain.method in PROBABILITY_METHODS:
            with torch.no_grad():
                bank = self.net.embed_texts(self.data["noto/train"]["query"])
        features = DomainFeatures(source=source, target=target, valid_source=valid[0], valid_target=valid[1], bank=bank)
        loss, domain_metrics = self.domain(features, strength)
        metrics = {"domain_loss": float(domain_metrics["loss"])}
        if "accuracy" in domain_metrics:
            metrics["critic_accuracy"] = float(domain_metrics["accuracy"])
        return loss, metrics

    def _pseudo_pair_loss(self, images: Tensor, rows: Tensor, step: int, progress: float) -> Tensor:
        """Return the contrastive loss of the images that a text was assigned to, with captions of that text."""
        assert self.pseudo_pairs is not None
        if progress >= PSEUDO_PAIRS_FROM and step % PSEUDO_PAIRS_EVERY == 0:
            self.net.eval()
            source_images, texts = self._embeddings("noto/train")
            self.pseudo_pairs.update(self._embeddings("openmoji/train")[0], texts, source_images)
            self.net.train()
        text = self.pseudo_pairs.text[rows]
        assigned = text >= 0
        if assigned.sum() < 2:
            return images.sum() * 0
        captions = self.net.embed_texts(self._caption("noto/train", text[assigned]))
        return info_nce(images[assigned], captions, self.net.log_scale.detach(), ids=text[assigned])

    def _update(self, loss: Tensor, step: int, progress: float) -> None:
        peak_rate = self.settings.adamw_rate or 1e-3
        rate = peak_rate * min(1.0, (step + 1) / WARMUP_STEPS) * (1 + math.cos(math.pi * progress)) / 2
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["gain"]
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.net.log_scale.data.clamp_(0, MAX_LOG_SCALE)

    def evaluate(self, *, last: bool) -> dict[str, Any]:
        self.net.eval()
        embeddings = {part: self._embeddings(part) for part in self.data if not part.startswith("icons")}
        self.net.train()
        bank = embeddings["noto/train"][1]
        held_out, target = embeddings["noto/held"], embeddings["openmoji/train"]
        source_outputs = ModelOutputs(features=held_out[0], scores=bank_scores(held_out[0], held_out[1]))
        target_outputs = ModelOutputs(features=target[0], scores=bank_scores(target[0], bank))
        train_outputs = ModelOutputs(features=embeddings["noto/train"][0], scores=source_outputs.scores)
        scores = score_outputs(
            source_outputs, torch.arange(len(held_out[0])), target_outputs, train_outputs, self.series, texts=bank
        )
        oracle = _recalls(*target, "seen") | _recalls(*embeddings["openmoji/test"], "unseen")
        result = {**scores, "source_test": _recalls(*embeddings["noto/test"], "noto")["noto_r10"], "oracle": oracle}
        if last:
            pair = embeddings["noto/test"][0].numpy(), embeddings["openmoji/test"][0].numpy()
            result["gap"] = domain_distances(*pair, seed=self.seed)
            if self.seed == 0:
                concept = np.arange(len(pair[0]))
                result["projection"] = project_domains(*pair, concept, concept)
        return result

    @torch.no_grad()
    def _embeddings(self, part: str) -> tuple[Tensor, Tensor]:
        rows = self.data[part]
        return self.net.embed_images(rows["views"][:, 0], part.split("/")[0]), self.net.embed_texts(rows["query"])

    def _view(self, part: str, rows: Tensor) -> Tensor:
        views = self.data[part]["views"]
        return views[rows, torch.from_numpy(self.rng.integers(views.shape[1], size=len(rows)))]

    def _caption(self, part: str, rows: Tensor) -> Tensor:
        captions = self.data[part]["captions"]
        return captions[rows, torch.from_numpy(self.rng.integers(captions.shape[1], size=len(rows)))]


def _recalls(images: Tensor, texts: Tensor, name: str) -> dict[str, float]:
    """Return recall at 1, 5 and 10 of images by their query, each concept once; and at 10 of queries by their image."""
    concept = torch.arange(len(images))
    image_search, text_search = retrieve(texts, images, concept, concept), retrieve(images, texts, concept, concept)
    return {f"{name}_r{k}": image_search.recall[k] for k in (1, 5, 10)} | {f"{name}_back_r10": text_search.recall[10]}


def _statistics(views: Tensor) -> tuple[Tensor, Tensor]:
    rows = views.flatten(0, 1).float()
    return rows.mean(0), rows.std(0).clamp(min=1e-3)


def _ids(data: Parts) -> dict[str, Tensor]:
    """Return one number for each query, the same in every part: equal numbers are the same concept."""
    parts = ("icons/train", "noto/train", "openmoji/train")
    rows = torch.cat([data[part]["query"] for part in parts])
    numbers = torch.unique(rows, dim=0, return_inverse=True)[1]
    return dict(zip(parts, numbers.split([len(data[part]["query"]) for part in parts]), strict=True))
