"""The losses that adapt a dual encoder from a source domain with pairs to a target domain without pairs.

The rows of a batch have one of three roles: `source` rows are pairs, `target` rows have the first modality only
(images), and optional `target_text` rows the second only. The contrastive loss reads the pairs alone: a target row is
never a negative. At every alignment point (`xmodal.training.objectives.domain`) the two domains are made alike, and
unlabelled target rows can have losses of their own (`xmodal.training.objectives.unlabelled`).
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from xmodal.batch import Batch
from xmodal.distributed.ranks import world_size
from xmodal.encoders.eval_mode import eval_mode
from xmodal.errors import ConfigError, nearest
from xmodal.gradients import FeatureSplitter
from xmodal.training.domain_methods import JOINT, SECOND_VIEW, SOURCE, TARGET, TARGET_TEXT
from xmodal.training.objective import EmbeddingGradients, Embeddings, Losses, Objective, surrogate_loss
from xmodal.training.objectives.alignment_points import AlignmentPoints
from xmodal.training.objectives.contrastive import ContrastiveObjective
from xmodal.training.objectives.domain import DomainFeatures
from xmodal.training.objectives.domain_metrics import DomainMetrics, sum_over_ranks
from xmodal.training.objectives.label_predictor import LabelPredictor
from xmodal.training.objectives.unlabelled import UnlabelledLosses


class AdaptationObjective(Objective):
    """The contrastive loss on source pairs, and a domain loss on both domains at each alignment point.

    `alignment_points` are named after modalities of the model, or `joint` for both in one space. Without any, the
    model learns from the source alone (the target is encoded nevertheless). `bank` has captions for the methods that
    read probabilities; they are embedded again at every step, as constants. Raises ConfigError for an alignment point
    that the model does not have.

    A `label` predictor adds the cross-entropy of the source rows that have a class in the field `label`. With a
    `splitter` the gradients of the contrastive loss (objective 0) and of an encoder's own losses (label loss,
    consistency of views) are weighted at the embeddings of the encoders that have both. The gradients of the domain
    losses are added after the weighting.
    """

    def __init__(
        self,
        contrast: ContrastiveObjective,
        alignment_points: AlignmentPoints,
        *,
        unlabelled: UnlabelledLosses | None = None,
        bank: Batch | None = None,
        label: LabelPredictor | None = None,
        splitter: FeatureSplitter | None = None,
    ) -> None:
        super().__init__()
        self.contrast = contrast
        for point in alignment_points:
            if point not in (*self.model.modalities, JOINT):
                raise ConfigError(f"no alignment point {point!r}; {nearest(point, (*self.model.modalities, JOINT))}")
        self.places = alignment_points  # this name is part of the parameter names in checkpoints
        self.unlabelled = unlabelled or UnlabelledLosses()
        self.label, self.splitter = label, splitter
        for name, column in (bank.fields if bank is not None else {}).items():
            self.register_buffer(f"bank_{name}", column, persistent=False)
        self.domain_metrics = DomainMetrics(self.model.modalities)
        self._shares: dict[str, Tensor] = {}  # metrics of this rank whose sum over ranks is world size * global mean

    @property
    def model(self) -> Any:
        """Return the dual encoder."""
        return self.contrast.model

    def lr_scale(self, name: str) -> float:
        """Return the factor on the learning rate: that of the critics for their parameters, else 1."""
        return self.places.critic_lr_scale if name.startswith("places.") else 1.0

    def set_step(self, step: int) -> None:
        self.places.set_step(step)

    def forward(self, batch: Batch, embedding_gradients: EmbeddingGradients | None = None) -> Losses:
        embeddings = self.embed(batch)
        if embedding_gradients is not None:
            return Losses(surrogate_loss(embeddings, self.loss_parameters(), embedding_gradients))
        return self.loss(embeddings, batch)

    def embed(self, batch: Batch) -> Embeddings:
        """Return unit rows of each modality and of the second view if there is one; zeros where a row lacks it."""
        embeddings = {name: self._encode(name, batch) for name in self.model.modalities}
        if SECOND_VIEW in batch.fields:
            embeddings[SECOND_VIEW] = self._encode_second_view(batch, like=embeddings[self.model.modalities[0]])
        return embeddings

    def loss(self, embeddings: Embeddings, batch: Batch) -> Losses:
        """Return the contrastive loss as `multimodal`, label and target losses as `unimodal`, and domain losses."""
        self.domain_metrics.reset()
        modalities = {name: embeddings[name] for name in self.model.modalities}
        with torch.autocast(batch.row.device.type, enabled=False):
            for_task = {name: self.domain_metrics.tap_task(name, z) for name, z in modalities.items()}
            for_domain = {name: self.domain_metrics.tap_domain(name, z) for name, z in modalities.items()}
            joint, unimodal, second_view = self._split(for_task, embeddings.get(SECOND_VIEW))
            pairs = batch.rows_of(SOURCE)
            contrastive = self.contrast.loss({name: z[pairs] for name, z in joint.items()}, batch[pairs]).multimodal
            assert contrastive is not None
            self._shares = {"contrastive/loss": contrastive.detach()}
            self._collect_domain_metrics(modalities, batch)
            losses = self._label_loss(unimodal, batch) | self._target_losses(joint, unimodal, second_view, batch)
            bank = self._embed_bank() if self.places else None
            features = {point: self._domain_features(point, for_domain, batch, bank) for point in self.places}
            domain = self.places(features)
        return Losses(contrastive, unimodal=losses, domain=domain)

    def loss_parameters(self) -> dict[str, nn.Parameter]:
        label = {} if self.label is None else {f"label.{name}": p for name, p in self.label.named_parameters()}
        return self.contrast.loss_parameters() | self.places.loss_parameters("places") | label

    def clamp_(self) -> Bool[Tensor, ""]:
        return self.contrast.clamp_()

    def extra_critic_losses(self) -> Iterator[Float[Tensor, ""]]:
        return self.places.extra_critic_losses()

    def metrics(self) -> dict[str, Float[Tensor, ""]]:
        """Return the mean of each loss, the critics' metrics, and those of `DomainMetrics` at the embeddings."""
        shares = self._shares | self.places.shares
        device = self._shares["contrastive/loss"].device
        sums = sum_over_ranks({**shares, **self.domain_metrics.rank_sums(device)})
        means = {name: sums[name] / world_size() for name in shares}
        aligned = self.model.modalities if JOINT in self.places else self.places
        distances = self.domain_metrics.metrics(sums, aligned)
        values: dict[str, Tensor] = self.contrast.metrics() | means | distances | self.places.metrics(means, device)
        if self.label is not None and self.label.accuracy is not None:
            values |= {"label/accuracy": self.label.accuracy}
        if self.splitter is not None and self.splitter.decision is not None:
            values |= self.splitter.decision.metrics()
        return values

    def _split(self, task: Embeddings, second_view: Tensor | None) -> tuple[Embeddings, Embeddings, Tensor | None]:
        """Return the embeddings for the contrastive loss, those for the encoders' own losses, and the second views.

        The splitter is applied to the encoders that have a loss of their own. Second views are additional rows of the
        first encoder.
        """
        first = self.model.modalities[0]
        with_consistency = bool(second_view is not None and self.unlabelled.consistency)
        weighted = {self.label.modality} if self.label is not None else set()
        weighted |= {first} if with_consistency else set()
        if self.splitter is None or not weighted:
            return task, task, second_view
        rows = {name: task[name] for name in self.model.modalities if name in weighted}
        count = len(task[first])
        if with_consistency and second_view is not None:
            rows[first] = torch.cat([task[first], second_view])
        joint, unimodal = self.splitter(rows)
        if with_consistency:
            second_view = unimodal[first][count:]
        without_views = [{name: z[:count] for name, z in copies.items()} for copies in (joint, unimodal)]
        return task | without_views[0], task | without_views[1], second_view

    def _label_loss(self, unimodal: Embeddings, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """Return the weighted label loss of the source rows."""
        if self.label is None:
            return {}
        rows = batch.rows_of(SOURCE)
        label, valid = batch.fields["label"][rows], batch.valid[rows]
        loss = self.label(unimodal[self.label.modality][rows], label, valid)
        self._shares["label/loss"] = loss.detach()
        return {"label": self.label.weight * loss}

    def _target_losses(
        self, joint: Embeddings, unimodal: Embeddings, second_view: Tensor | None, batch: Batch
    ) -> dict[str, Float[Tensor, ""]]:
        """Return the weighted losses of the unlabelled target rows."""
        first, second = self.model.modalities
        options, rows, losses = self.unlabelled, batch.rows_of(TARGET), {}
        valid = batch.valid[rows]
        if options.consistency and second_view is not None:
            losses["consistency"] = options.consistency_loss(unimodal[first][rows], second_view[rows], valid)
        if options.pseudo_pairs:
            texts = batch.rows_of(TARGET_TEXT if TARGET_TEXT in batch.role_sizes else SOURCE)
            candidates = joint[second][texts], self.model.log_scale, valid, batch.valid[texts]
            losses["pseudo_pairs"] = options.pseudo_pair_loss(joint[first][rows], *candidates)
        self._shares |= {f"{name}/loss": loss.detach() for name, loss in losses.items()}
        return {name: getattr(options, name) * loss for name, loss in losses.items()}

    def _domain_features(self, point: str, embeddings: Embeddings, batch: Batch, bank: Tensor | None) -> DomainFeatures:
        """Return the rows of both domains at an alignment point."""
        names = self.model.modalities if point == JOINT else (point,)
        spans = [(embeddings[name], batch.rows_of(SOURCE), batch.rows_of(self._target_role(name))) for name in names]
        return DomainFeatures(
            source=torch.cat([z[source] for z, source, _ in spans]),
            target=torch.cat([z[target] for z, _, target in spans]),
            valid_source=torch.cat([batch.valid[source] for _, source, _ in spans]),
            valid_target=torch.cat([batch.valid[target] for _, _, target in spans]),
            bank=bank,
        )

    def _collect_domain_metrics(self, embeddings: Embeddings, batch: Batch) -> None:
        for modality, z in embeddings.items():
            for domain, role in (("source", SOURCE), ("target", self._target_role(modality))):
                if role in batch.role_sizes:
                    rows = batch.rows_of(role)
                    self.domain_metrics.add_rows(modality, domain, z[rows], batch.valid[rows])

    @torch.no_grad()
    def _embed_bank(self) -> Float[Tensor, "K D"] | None:
        """Embed the bank in evaluation mode, so that no random number is drawn and no running statistic changes."""
        fields = {name.removeprefix("bank_"): x for name, x in self.named_buffers(recurse=False)}
        if not fields:
            return None
        rows = len(next(iter(fields.values())))
        device = next(iter(fields.values())).device
        batch = Batch(torch.arange(rows, device=device), torch.ones(rows, dtype=torch.bool, device=device), fields)
        with eval_mode(self.model):
            return _at_least_float32(self.model.encode(self.model.modalities[1], batch))

    def _target_role(self, modality: str) -> str:
        """Return the role of the target rows that have `modality`."""
        return TARGET if modality == self.model.modalities[0] else TARGET_TEXT

    def _encode(self, modality: str, batch: Batch) -> Float[Tensor, "B D"]:
        """Encode the rows of both domains that have the modality, in one forward; zeros for the other rows.

        If no row of a chunk has it, one row is encoded and multiplied by 0, so that DDP sees every tower used.
        """
        lacking = ({TARGET, TARGET_TEXT} - {self._target_role(modality)}).pop()
        absent = batch.rows_of(lacking)
        before, after = slice(0, absent.start), slice(absent.stop, len(batch))
        rows = _concatenate(_select_modality(modality, batch), before, after)
        if not len(rows):
            row = _at_least_float32(self.model.encode(modality, batch[0:1]))
            return (0.0 * row).expand(len(batch), -1)
        z = _at_least_float32(self.model.encode(modality, rows))
        gap = z.new_zeros(absent.stop - absent.start, z.shape[1])
        return torch.cat([z[: absent.start], gap, z[absent.start :]]) if len(gap) else z

    def _encode_second_view(self, batch: Batch, like: Float[Tensor, "B D"]) -> Float[Tensor, "B D"]:
        """Encode the second view of the target's images; a chunk may have none."""
        span, first = batch.rows_of(TARGET), self.model.modalities[0]
        before, after = like.new_zeros(span.start, like.shape[1]), like.new_zeros(len(batch) - span.stop, like.shape[1])
        if span.start == span.stop:
            return torch.cat([before, after])
        rows = batch[span]
        views = {
            name.replace(SECOND_VIEW, first, 1): x for name, x in rows.fields.items() if name.startswith(SECOND_VIEW)
        }
        z = _at_least_float32(self.model.encode(first, replace(rows, fields=views)))
        return torch.cat([before, z, after])


def _at_least_float32(z: Tensor) -> Tensor:
    return z if z.dtype == torch.float64 else z.float()


def _select_modality(modality: str, batch: Batch) -> Batch:
    """Return the batch with the fields of one modality."""
    fields = {name: x for name, x in batch.fields.items() if name == modality or name.startswith(f"{modality}_")}
    return replace(batch, fields=fields)


def _concatenate(batch: Batch, *spans: slice) -> Batch:
    """Return the rows of several spans of a batch, one span after the other."""
    parts = [part for part in (batch[span] for span in spans) if len(part)]
    if len(parts) == 1:
        return parts[0]
    return Batch(
        torch.cat([part.row for part in parts] or [batch.row[:0]]),
        torch.cat([part.valid for part in parts] or [batch.valid[:0]]),
        {name: torch.cat([part.fields[name] for part in parts] or [x[:0]]) for name, x in batch.fields.items()},
    )
