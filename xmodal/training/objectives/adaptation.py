"""Pairs of a source and unpaired rows of a target in, the losses of adapting a dual encoder out of one forward.

The rows of a batch play three roles: `source` rows are pairs, `target` rows have the first modality alone (pictures),
and `target_text` rows, where there are any, the second alone. The contrastive loss is of the pairs: no row of the
target is ever a negative there. At every place of `xmodal.training.objectives.domain` the two domains are made alike,
and where it is asked for the target's rows are learned from by themselves (`xmodal.training.objectives.unlabelled`).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from xmodal.batch import Batch
from xmodal.distributed.ranks import world_size
from xmodal.errors import ConfigError, nearest
from xmodal.gradients import FeatureSplitter
from xmodal.training.domain_methods import AGAIN, JOINT, SOURCE, TARGET, TARGET_TEXT
from xmodal.training.objective import ContrastiveObjective, Cotangents, Embeddings, Losses, Objective, pull_back
from xmodal.training.objectives.alignment_points import Places
from xmodal.training.objectives.domain import Domains
from xmodal.training.objectives.domain_metrics import DomainWatch, over_ranks
from xmodal.training.objectives.label_predictor import LabelPredictor
from xmodal.training.objectives.unlabelled import Unlabelled


class AdaptationObjective(Objective):
    """The contrastive loss on source pairs, and at each place a domain loss on both domains at the step's strength.

    `places` are named after modalities of the model, or `joint` for both in one space; with none the source alone is
    learned from (the target is encoded all the same). `bank` are captions, embedded anew at every step as constants,
    for the places' methods that read probabilities of them. ConfigError for a place that does not exist.

    A `label` predictor adds the cross-entropy of the source rows that have a class in the field `label`. With a
    `splitter` the contrastive loss (objective 0) and an encoder's own objective (its label loss, the consistency of
    views) are weighed at the embeddings of the encoders that have both; the domain losses are added after it.
    """

    def __init__(
        self,
        contrast: ContrastiveObjective,
        places: Places,
        *,
        unlabelled: Unlabelled | None = None,
        bank: Batch | None = None,
        label: LabelPredictor | None = None,
        splitter: FeatureSplitter | None = None,
    ) -> None:
        super().__init__()
        self.contrast, self.group = contrast, contrast.group
        for place in places:
            if place not in (*self.model.modalities, JOINT):
                raise ConfigError(f"no place {place!r}; {nearest(place, (*self.model.modalities, JOINT))}")
        self.places = places
        self.unlabelled = unlabelled or Unlabelled()
        self.label, self.splitter = label, splitter
        for name, column in (bank.fields if bank is not None else {}).items():
            self.register_buffer(f"bank_{name}", column, persistent=False)
        self.watch = DomainWatch(self.model.modalities)
        self._shares: dict[str, Tensor] = {}  # figures of this rank that add up to W x the global mean

    @property
    def model(self) -> Any:
        """The dual encoder."""
        return self.contrast.model

    def gain(self, name: str) -> float:
        """Critics learn at a rate of their own."""
        return self.places.critic_gain if name.startswith("places.") else 1.0

    def at(self, step: int) -> None:
        self.places.at(step)

    def forward(self, batch: Batch, cotangents: Cotangents | None = None) -> Losses:
        embeddings = self.embed(batch)
        if cotangents is not None:
            return Losses(pull_back(embeddings, self.weights(), cotangents))
        return self.loss(embeddings, batch)

    def embed(self, batch: Batch) -> Embeddings:
        """Unit rows of each modality, and of the second view where there is one; zeros where a row lacks it."""
        found = {name: self._encode(name, batch) for name in self.model.modalities}
        if AGAIN in batch.fields:
            found[AGAIN] = self._encode_again(batch, like=found[self.model.modalities[0]])
        return found

    def loss(self, embeddings: Embeddings, batch: Batch) -> Losses:
        """All of them: `multimodal` of the pairs, `unimodal` of the target's own rows, `domain` with its strength."""
        self.watch.begin()
        both = {name: embeddings[name] for name in self.model.modalities}
        with torch.autocast(batch.row.device.type, enabled=False):
            task = {name: self.watch.task(name, z) for name, z in both.items()}
            mixed = {name: self.watch.domain(name, z) for name, z in both.items()}
            joint, alone, again = self._split(task, embeddings.get(AGAIN))
            pairs = batch.part(SOURCE)
            contrastive = self.contrast.loss({name: z[pairs] for name, z in joint.items()}, batch[pairs]).multimodal
            assert contrastive is not None
            self._shares = {"contrastive/loss": contrastive.detach()}
            self._see(both, batch)
            own = self._of_labels(alone, batch) | self._of_target(joint, alone, again, batch)
            bank = self._bank() if self.places else None
            domain = self.places({place: self._domains(place, mixed, batch, bank) for place in self.places})
        return Losses(contrastive, unimodal=own, domain=domain)

    def weights(self) -> dict[str, nn.Parameter]:
        of_label = {} if self.label is None else {f"label.{name}": p for name, p in self.label.named_parameters()}
        return self.contrast.weights() | self.places.weights("places") | of_label

    def clamp_(self) -> Bool[Tensor, ""]:
        return self.contrast.clamp_()

    def afterwards(self) -> Iterator[Float[Tensor, ""]]:
        return self.places.afterwards()

    def figures(self) -> dict[str, Float[Tensor, ""]]:
        """Each loss; what the critics know; of each modality what `DomainWatch` sees at the embeddings."""
        shares = self._shares | self.places.shares
        device = self._shares["contrastive/loss"].device
        summed = over_ranks({**shares, **self.watch.shares(device)}, self.group)
        means = {name: summed[name] / world_size(self.group) for name in shares}
        met = self.model.modalities if JOINT in self.places else self.places
        seen = self.watch.figures(summed, met)
        found = self.contrast.figures() | means | seen | self.places.figures(means, device)
        if self.label is not None and self.label.accuracy is not None:
            found |= {"label/accuracy": self.label.accuracy}
        if self.splitter is not None and self.splitter.decision is not None:
            found |= self.splitter.decision.figures()
        return found

    def _split(self, task: Embeddings, again: Tensor | None) -> tuple[Embeddings, Embeddings, Tensor | None]:
        """The embeddings for the contrastive loss, those for encoders' own objectives, and the second views.

        An encoder without an objective of its own has nothing to weigh. Second views are rows of the first encoder.
        """
        first = self.model.modalities[0]
        consistent = bool(again is not None and self.unlabelled.consistency)
        own = {self.label.modality} if self.label is not None else set()
        own |= {first} if consistent else set()
        if self.splitter is None or not own:
            return task, task, again
        rows = {name: task[name] for name in self.model.modalities if name in own}
        count = len(task[first])
        if consistent and again is not None:
            rows[first] = torch.cat([task[first], again])
        joint, alone = self.splitter(rows)
        if consistent:
            again = alone[first][count:]
        return (*(task | {name: z[:count] for name, z in side.items()} for side in (joint, alone)), again)  # type: ignore[return-value]

    def _of_labels(self, alone: Embeddings, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """The label loss of the source, weighted."""
        if self.label is None:
            return {}
        rows = batch.part(SOURCE)
        label, valid = batch.fields["label"][rows], batch.valid[rows]
        loss = self.label(alone[self.label.modality][rows], label, valid, self.group)
        self._shares["label/loss"] = loss.detach()
        return {"label": self.label.weight * loss}

    def _of_target(
        self, joint: Embeddings, alone: Embeddings, again: Tensor | None, batch: Batch
    ) -> dict[str, Float[Tensor, ""]]:
        """What the target's rows teach by themselves, weighted."""
        first, second = self.model.modalities
        asked, rows, found = self.unlabelled, batch.part(TARGET), {}
        valid = batch.valid[rows]
        if asked.consistency and again is not None:
            found["consistency"] = asked.two_views(alone[first][rows], again[rows], valid, self.group)
        if asked.pseudo_pairs:
            texts = batch.part(TARGET_TEXT if TARGET_TEXT in batch.parts else SOURCE)
            candidates = joint[second][texts], self.model.log_scale, valid, batch.valid[texts]
            found["pseudo_pairs"] = asked.guessed_pairs(joint[first][rows], *candidates, self.group)
        self._shares |= {f"{name}/loss": loss.detach() for name, loss in found.items()}
        return {name: getattr(asked, name) * loss for name, loss in found.items()}

    def _domains(self, place: str, embeddings: Embeddings, batch: Batch, bank: Tensor | None) -> Domains:
        """The rows of both domains at a place."""
        names = self.model.modalities if place == JOINT else (place,)
        spans = [(embeddings[name], batch.part(SOURCE), batch.part(self._role(name))) for name in names]
        return Domains(
            source=torch.cat([z[source] for z, source, _ in spans]),
            target=torch.cat([z[target] for z, _, target in spans]),
            valid_source=torch.cat([batch.valid[source] for _, source, _ in spans]),
            valid_target=torch.cat([batch.valid[target] for _, _, target in spans]),
            bank=bank,
        )

    def _see(self, embeddings: Embeddings, batch: Batch) -> None:
        for modality, z in embeddings.items():
            for domain, role in (("source", SOURCE), ("target", self._role(modality))):
                if role in batch.parts:
                    rows = batch.part(role)
                    self.watch.see(modality, domain, z[rows], batch.valid[rows])

    @torch.no_grad()
    def _bank(self) -> Float[Tensor, "K D"] | None:
        """The bank as the model embeds it now, in evaluation mode: no dropout draws, no running statistic moves."""
        fields = {name.removeprefix("bank_"): x for name, x in self.named_buffers(recurse=False)}
        if not fields:
            return None
        rows = len(next(iter(fields.values())))
        device = next(iter(fields.values())).device
        batch = Batch(torch.arange(rows, device=device), torch.ones(rows, dtype=torch.bool, device=device), fields)
        with still(self.model):
            return self._widened(self.model.encode(self.model.modalities[1], batch))

    def _role(self, modality: str) -> str:
        """Whose rows hold the target's embeddings of a modality."""
        return TARGET if modality == self.model.modalities[0] else TARGET_TEXT

    def _encode(self, modality: str, batch: Batch) -> Float[Tensor, "B D"]:
        """One forward over the rows of both domains that have the modality.

        A chunk may have none: one row is then encoded for nothing, so that DDP sees every tower in every chunk.
        """
        lacking = ({TARGET, TARGET_TEXT} - {self._role(modality)}).pop()
        absent = batch.part(lacking)
        before, after = slice(0, absent.start), slice(absent.stop, len(batch))
        rows = _joined(_only(modality, batch), before, after)
        if not len(rows):
            row = self._widened(self.model.encode(modality, batch[0:1]))
            return (0.0 * row).expand(len(batch), -1)
        z = self._widened(self.model.encode(modality, rows))
        gap = z.new_zeros(absent.stop - absent.start, z.shape[1])
        return torch.cat([z[: absent.start], gap, z[absent.start :]]) if len(gap) else z

    def _encode_again(self, batch: Batch, like: Float[Tensor, "B D"]) -> Float[Tensor, "B D"]:
        """The second view of the target's pictures; a chunk may have none."""
        span, first = batch.part(TARGET), self.model.modalities[0]
        before, after = like.new_zeros(span.start, like.shape[1]), like.new_zeros(len(batch) - span.stop, like.shape[1])
        if span.start == span.stop:
            return torch.cat([before, after])
        rows = batch[span]
        views = {name.replace(AGAIN, first, 1): x for name, x in rows.fields.items() if name.startswith(AGAIN)}
        z = self._widened(self.model.encode(first, replace(rows, fields=views)))
        return torch.cat([before, z, after])

    @staticmethod
    def _widened(z: Tensor) -> Tensor:
        return z if z.dtype == torch.float64 else z.float()


@contextmanager
def still(module: nn.Module) -> Iterator[None]:
    """Evaluation mode; afterwards every part is in the mode that it was in."""
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes.items():
            part.training = mode


def _only(modality: str, batch: Batch) -> Batch:
    """The same rows with the columns of one modality."""
    own = {name: x for name, x in batch.fields.items() if name == modality or name.startswith(f"{modality}_")}
    return replace(batch, fields=own)


def _joined(batch: Batch, *spans: slice) -> Batch:
    """The rows of several spans, one after the other."""
    parts = [part for part in (batch[span] for span in spans) if len(part)]
    if len(parts) == 1:
        return parts[0]
    return Batch(
        torch.cat([part.row for part in parts] or [batch.row[:0]]),
        torch.cat([part.valid for part in parts] or [batch.valid[:0]]),
        {name: torch.cat([part.fields[name] for part in parts] or [x[:0]]) for name, x in batch.fields.items()},
    )
