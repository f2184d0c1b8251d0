"""A small dual encoder on described pictures and bags of tokens: pairs of a source and pictures of a target in.

The contrastive loss is of the source's pairs, half icons and half emoji; the domain loss is between the emoji of both
vendors, at the unit embeddings of their pictures. Pictures of the target are never negatives.
"""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from jobs.reproduce.adaptation.arms import MATCHING, ORACLE, OWN, PAIRS, Arm
from jobs.reproduce.adaptation.batches import endless, tapped
from jobs.reproduce.adaptation.emoji_data import HOG, VOCABULARY
from jobs.reproduce.adaptation.evaluation import Seen, distances, judged, projections
from jobs.reproduce.adaptation.experiment import Parts, Settings
from xmodal.encoders.bag_of_tokens import BagConfig, BagModel
from xmodal.losses.contrastive import info_nce
from xmodal.losses.gradient_reversal import ramp
from xmodal.losses.pseudo_pairs import best_assignment, mutual_nearest
from xmodal.metrics.retrieval import retrieve
from xmodal.metrics.validators import bank_scores
from xmodal.training.domain_methods import METHODS, WITH_BANK
from xmodal.training.objectives.domain import DomainLoss, Domains

WIDTH, HIDDEN, DROPOUT, TOKENS = 128, 512, 0.4, 256
WARM_UP, WEIGHT_DECAY, LARGEST = 50, 0.2, math.log(100)
CRITIC_GAIN = 10.0  # of the critic's learning rate: at the encoder's own it lags behind what it is to judge
VENDORS = ("noto", "openmoji")
GUESS_FROM, GUESS_EVERY = 0.3, 40  # share of the run before the first guesses, steps between new ones


class EmojiNet(nn.Module):
    """Descriptions of pictures [N, F] or tokens [N, L] in, unit rows [N, 128] out.

    With statistics of their own, the pictures of each vendor are first brought to the mean 0 and deviation 1 of that
    vendor's train pictures (unlabelled): the fixed description's counterpart of domain-specific normalisation.
    """

    def __init__(self, statistics: dict[str, tuple[Tensor, Tensor]]) -> None:
        super().__init__()
        self.statistics = statistics
        self.norm, self.dropout = nn.LayerNorm(HOG.fixed_size), nn.Dropout(DROPOUT)
        self.hidden = nn.Linear(HOG.fixed_size, HIDDEN)
        self.direct, self.of_hidden = nn.Linear(HOG.fixed_size, WIDTH, bias=False), nn.Linear(HIDDEN, WIDTH)
        self.text = BagModel(BagConfig(vocab_size=VOCABULARY, hidden_size=TOKENS))
        self.of_text = nn.Linear(TOKENS, WIDTH, bias=False)
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def pictures(self, described: Tensor, vendor: str) -> Tensor:
        rows = described.float()
        if vendor in self.statistics:
            mean, deviation = self.statistics[vendor]
            rows = (rows - mean) / deviation
        given = self.dropout(self.norm(rows))
        hidden = self.dropout(F.gelu(self.hidden(given)))
        return F.normalize(self.direct(given) + self.of_hidden(hidden), dim=1)

    def captions(self, tokens: Tensor) -> Tensor:
        there = tokens >= 0
        there[:, 0] |= ~there.any(1)  # a caption of unknown characters only
        ids = tokens.long().clamp(min=0)
        return F.normalize(self.of_text(self.text(ids, there.long()).pooler_output), dim=1)


class Guesses:
    """Which text each picture of the target is taken for: `text` int64 [N], -1 where none.

    A text is guessed where picture and text are each other's nearest among all, or, when `matched`, by the assignment
    of all pictures to different texts that is best as a whole (`xmodal.losses.pseudo_pairs`). The first supposes
    nothing; the second that the target shows the texts' concepts, about equally often. A text is as near as it and the
    source's own picture of it are, on average. The texts are the source's: a concept that it lacks can only be guessed
    wrongly, or not.
    """

    def __init__(self, count: int, *, matched: bool) -> None:
        self.text, self.matched = torch.full((count,), -1), matched

    def renew(self, pictures: Tensor, texts: Tensor, shown: Tensor) -> None:
        """Unit rows: pictures of the target [N, D]; texts of the source [P, D] and the pictures that they describe."""
        self.text = torch.full_like(self.text, -1)
        concepts = (texts + shown) / 2
        pairs = best_assignment(pictures @ concepts.T) if self.matched else mutual_nearest(pictures, concepts)
        self.text[pairs[:, 0]] = pairs[:, 1]


class Emoji:
    """A learner (`jobs.reproduce.adaptation.experiment`) of one arm; the oracle learns from openmoji's pairs too."""

    def __init__(self, arm: Arm, seed: int, data: Parts, settings: Settings) -> None:
        torch.manual_seed(seed)
        self.arm, self.seed, self.data, self.settings = arm, seed, data, settings
        parts = arm.method.split("+")
        method = next((name for name in parts if name in METHODS), None)
        self.net = EmojiNet({v: _statistics(data[f"{v}/train"]["views"]) for v in VENDORS} if OWN in parts else {})
        pictures = len(data["openmoji/train"]["query"])
        self.guesses = Guesses(pictures, matched=MATCHING in parts) if {PAIRS, MATCHING} & {*parts} else None
        bank = len(data["noto/train"]["query"])
        self.domain = DomainLoss(method, WIDTH, classes=bank) if method else None
        groups = [{"params": [*self.net.parameters()], "gain": 1.0}]
        if self.domain is not None and self.domain.critic is not None:
            groups.append({"params": [*self.domain.parameters()], "gain": CRITIC_GAIN})
        self.optimizer = torch.optim.AdamW(groups, weight_decay=WEIGHT_DECAY)
        self.rng = np.random.default_rng((seed, 7))
        half = settings.batch_size // 2
        self.streams = {
            part: endless(len(data[part]["views"]), half, self.rng)
            for part in ("icons/train", "noto/train", "openmoji/train")
        }
        self.ids = _ids(data)
        self.series: list[dict[str, float]] = []

    def step(self, step: int, progress: float) -> dict[str, float]:
        parts = ["icons/train", "noto/train"] + (["openmoji/train"] if self.arm.method == ORACLE else [])
        drawn = {part: next(self.streams[part]) for part in self.streams}
        pictures = {part: self.net.pictures(self._view(part, rows), part.split("/")[0]) for part, rows in drawn.items()}
        texts = torch.cat([self.net.captions(self._caption(part, drawn[part])) for part in parts])
        ids = torch.cat([self.ids[part][drawn[part]] for part in parts])
        norms: dict[str, float] = {}
        known = {p: tapped(z, "task_norm", norms) if p == "noto/train" else z for p, z in pictures.items()}
        loss = info_nce(torch.cat([known[part] for part in parts]), texts, self.net.log_scale, ids=ids)
        strength, figures = self.arm.strength * ramp(progress), dict[str, float]()
        if self.domain is not None:
            added, found = self._align(pictures, strength, norms)
            loss, figures = loss + added, found
        if self.guesses is not None:
            loss = loss + self.arm.strength * self._guessed(
                pictures["openmoji/train"], drawn["openmoji/train"], step, progress
            )
        self._update(loss, step, progress)
        seen = {"loss": float(loss.detach()), "strength": strength, **figures, **norms}
        self.series.append(seen)
        return seen

    def _align(self, pictures: dict[str, Tensor], strength: float, norms: dict[str, float]) -> tuple[Tensor, Any]:
        assert self.domain is not None
        source = tapped(pictures["noto/train"], "domain_norm", norms)
        target = pictures["openmoji/train"]
        valid = [torch.ones(len(rows), dtype=torch.bool) for rows in (source, target)]
        bank = None
        if self.domain.method in WITH_BANK:
            with torch.no_grad():
                bank = self.net.captions(self.data["noto/train"]["query"])
        rows = Domains(source=source, target=target, valid_source=valid[0], valid_target=valid[1], bank=bank)
        loss, found = self.domain(rows, strength)
        figures = {"domain_loss": float(found["loss"])}
        if "accuracy" in found:
            figures["critic_accuracy"] = float(found["accuracy"])
        return loss, figures

    def _guessed(self, pictures: Tensor, rows: Tensor, step: int, progress: float) -> Tensor:
        """The contrastive loss of those of these pictures that a text was guessed for, with that text's captions."""
        assert self.guesses is not None
        if progress >= GUESS_FROM and step % GUESS_EVERY == 0:
            self.net.eval()
            shown, texts = self._see("noto/train")
            self.guesses.renew(self._see("openmoji/train")[0], texts, shown)
            self.net.train()
        text = self.guesses.text[rows]
        there = text >= 0
        if there.sum() < 2:
            return pictures.sum() * 0
        captions = self.net.captions(self._caption("noto/train", text[there]))
        return info_nce(pictures[there], captions, self.net.log_scale.detach(), ids=text[there])

    def _update(self, loss: Tensor, step: int, progress: float) -> None:
        peak = self.settings.adamw_rate or 1e-3
        rate = peak * min(1.0, (step + 1) / WARM_UP) * (1 + math.cos(math.pi * progress)) / 2
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["gain"]
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.net.log_scale.data.clamp_(0, LARGEST)

    def judge(self, *, last: bool) -> dict[str, Any]:
        self.net.eval()
        shown = {part: self._see(part) for part in self.data if not part.startswith("icons")}
        self.net.train()
        bank = shown["noto/train"][1]
        held, target = shown["noto/held"], shown["openmoji/train"]
        source = Seen(features=held[0], scores=bank_scores(held[0], held[1]))
        aimed = Seen(features=target[0], scores=bank_scores(target[0], bank))
        train = Seen(features=shown["noto/train"][0], scores=source.scores)
        found = judged(source, torch.arange(len(held[0])), aimed, train, self.series, texts=bank)
        oracle = _recalls(*target, "seen") | _recalls(*shown["openmoji/test"], "unseen")
        whole = {**found, "source_test": _recalls(*shown["noto/test"], "noto")["noto_r10"], "oracle": oracle}
        if last:
            pair = shown["noto/test"][0].numpy(), shown["openmoji/test"][0].numpy()
            whole["gap"] = distances(*pair, seed=self.seed)
            if self.seed == 0:
                concept = np.arange(len(pair[0]))
                whole["projection"] = projections(*pair, concept, concept)
        return whole

    @torch.no_grad()
    def _see(self, part: str) -> tuple[Tensor, Tensor]:
        rows = self.data[part]
        return self.net.pictures(rows["views"][:, 0], part.split("/")[0]), self.net.captions(rows["query"])

    def _view(self, part: str, rows: Tensor) -> Tensor:
        views = self.data[part]["views"]
        return views[rows, torch.from_numpy(self.rng.integers(views.shape[1], size=len(rows)))]

    def _caption(self, part: str, rows: Tensor) -> Tensor:
        captions = self.data[part]["captions"]
        return captions[rows, torch.from_numpy(self.rng.integers(captions.shape[1], size=len(rows)))]


def _recalls(pictures: Tensor, texts: Tensor, name: str) -> dict[str, float]:
    """Recall of pictures by their query, each concept once: at 1, 5 and 10; and of queries by their picture at 10."""
    concept = torch.arange(len(pictures))
    forth, back = retrieve(texts, pictures, concept, concept), retrieve(pictures, texts, concept, concept)
    return {f"{name}_r{k}": forth.recall[k] for k in (1, 5, 10)} | {f"{name}_back_r10": back.recall[10]}


def _statistics(views: Tensor) -> tuple[Tensor, Tensor]:
    rows = views.flatten(0, 1).float()
    return rows.mean(0), rows.std(0).clamp(min=1e-3)


def _ids(data: Parts) -> dict[str, Tensor]:
    """What makes two rows the same: their query; one number for it, whichever part it is in."""
    parts = ("icons/train", "noto/train", "openmoji/train")
    rows = torch.cat([data[part]["query"] for part in parts])
    numbers = torch.unique(rows, dim=0, return_inverse=True)[1]
    return dict(zip(parts, numbers.split([len(data[part]["query"]) for part in parts]), strict=True))
