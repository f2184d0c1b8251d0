"""The losses of a multimodal classifier: cross-entropy of the fused head and of each modality's own head.

Their sum is the uniform baseline of balanced multimodal learning; `xmodal.gradients` has other ways to combine their
gradients. If a batch has rows of a target domain, which have no class, domain losses are added at alignment points
(`xmodal.training.objectives.alignment_points`): Ganin et al. 2016 with several modalities.
"""

from collections.abc import Iterator
from dataclasses import replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from xmodal.batch import Batch
from xmodal.distributed.ranks import world_size
from xmodal.encoders.fusion import MasksByModality, TokensByModality, mean_of_tokens
from xmodal.encoders.multimodal_classifier import MultimodalClassifier
from xmodal.errors import ConfigError, nearest
from xmodal.gradients import FeatureSplitter
from xmodal.training.domain_methods import JOINT, PREDICTION_METHODS, PROBABILITY_METHODS, SOURCE, TARGET
from xmodal.training.objective import EmbeddingGradients, Embeddings, Losses, Objective, surrogate_loss
from xmodal.training.objectives.alignment_points import AlignmentPoints
from xmodal.training.objectives.domain import DomainFeatures
from xmodal.training.objectives.domain_metrics import DomainMetrics, sum_over_ranks
from xmodal.training.objectives.label_predictor import classification_losses

FUSED = "multimodal"
FEATURES = "at/"  # prefix of an alignment point: the features that its domain loss reads
PREDICTIONS = "predicted"  # class scores for domain losses that read probabilities


class ClassificationObjective(Objective):
    """Cross-entropy of the classes in the field `label`: int64 [B], -1 for no class; invalid rows have no loss either.

    `unimodal` adds the loss of each modality's own head (the uniform baseline) to the multimodal loss. With a
    `splitter` the gradients of the multimodal loss (objective 0) and of the unimodal losses (objective 1) are weighted
    at the encoders' outputs, chunk by chunk and in one backward pass. Without one they are summed, or weighted by the
    `space` of the training state.

    With `alignment_points` a batch has target rows after the source rows. Both domains are aligned at each point: a
    modality (the mean of its tokens) or `joint` (the output of the fusion). Classification losses and accuracies ignore
    the target rows. The gradients of the domain losses are added after the weighting and do not affect it. Raises
    ConfigError for an alignment point that the model does not have.
    """

    def __init__(
        self,
        model: MultimodalClassifier,
        *,
        unimodal: bool = True,
        splitter: FeatureSplitter | None = None,
        alignment_points: AlignmentPoints | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.unimodal = unimodal
        self.splitter = splitter
        self.places = alignment_points  # this name is part of the parameter names in checkpoints
        for point in alignment_points or ():
            if point not in (*model.modalities, JOINT):
                raise ConfigError(f"no alignment point {point!r}; {nearest(point, (*model.modalities, JOINT))}")
        self.domain_metrics = DomainMetrics(model.modalities)
        if not unimodal:
            model.heads.requires_grad_(False)  # not used in the loss: DDP would wait for their gradients
        self._accuracy: dict[str, Float[Tensor, ""]] = {}

    def forward(self, batch: Batch, embedding_gradients: EmbeddingGradients | None = None) -> Losses:
        scores = self.embed(batch)
        if embedding_gradients is not None:
            return Losses(surrogate_loss(scores, self.loss_parameters(), embedding_gradients))
        return self.loss(scores, batch)

    def lr_scale(self, name: str) -> float:
        """Return the factor on the learning rate: that of the critics for their parameters, else 1."""
        return self.places.critic_lr_scale if self.places is not None and name.startswith("places.") else 1.0

    def set_step(self, step: int) -> None:
        if self.places is not None:
            self.places.set_step(step)

    def embed(self, batch: Batch) -> Embeddings:
        """Return the class scores [B, C] of the fused and of each unimodal head, and the features at each point."""
        labelled = self.places is None or batch.rows_of(SOURCE).stop > batch.rows_of(SOURCE).start
        return self.score(*self.model.encode(batch), split=labelled)

    def score(self, tokens: TokensByModality, masks: MasksByModality, *, split: bool = True) -> Embeddings:
        """Compute the result of `embed` from the encoders' outputs, where gradients are weighted.

        `split` is false for a chunk without labelled rows, which has no gradients to weight.
        """
        features = {} if self.places is None else self._features(tokens, masks)
        if self.places is not None:
            tokens = {name: self.domain_metrics.tap_task(name, x) for name, x in tokens.items()}
        joint, unimodal = self.splitter(tokens) if self.splitter is not None and split else (tokens, tokens)
        scores = {FUSED: self.model.multimodal_scores(joint, masks)}
        if self.unimodal:
            scores |= {name: self.model.unimodal_scores(name, unimodal, masks) for name in self.model.modalities}
        return {name: x.float() for name, x in (scores | features).items()}

    def loss(self, embeddings: Embeddings, batch: Batch) -> Losses:
        """Return this rank's shares: of means over the labelled rows of all ranks, and of the domain losses."""
        if self.places is None:
            return self._classification_losses(embeddings, batch)
        self.domain_metrics.reset()
        rows = batch.rows_of(SOURCE)
        class_scores = [name for name in embeddings if name != PREDICTIONS and not name.startswith(FEATURES)]
        scores = {name: embeddings[name][rows] for name in class_scores}
        with torch.autocast(batch.row.device.type, enabled=False):
            domain = self.places({point: self._domain_features(point, embeddings, batch) for point in self.places})
        self._collect_domain_metrics(embeddings, batch)
        return replace(self._classification_losses(scores, batch[rows]), domain=domain)

    def _classification_losses(self, scores: Embeddings, batch: Batch) -> Losses:
        losses, self._accuracy = classification_losses(scores, batch.fields["label"], batch.valid)
        return Losses(losses.pop(FUSED), unimodal=losses)

    def _features(self, tokens: TokensByModality, masks: MasksByModality) -> Embeddings:
        """Return what the domain losses read: the mean token of every modality, joint features and class scores."""
        assert self.places is not None
        tapped = {name: self.domain_metrics.tap_domain(name, x) for name, x in tokens.items()}
        features = {f"{FEATURES}{name}": mean_of_tokens(x, masks[name]) for name, x in tapped.items()}
        needs_scores = any(loss.method in PROBABILITY_METHODS for loss in self.places.domain_losses())
        if JOINT in self.places or needs_scores:
            fused = self.model.fusion(tapped, masks)
            features |= {f"{FEATURES}{JOINT}": fused} if JOINT in self.places else {}
            features |= {PREDICTIONS: self.model.classifier(fused)} if needs_scores else {}
        return features

    def _domain_features(self, point: str, embeddings: Embeddings, batch: Batch) -> DomainFeatures:
        source, target = batch.rows_of(SOURCE), batch.rows_of(TARGET)
        z, scores = embeddings[f"{FEATURES}{point}"], embeddings.get(PREDICTIONS)
        return DomainFeatures(
            source=z[source],
            target=z[target],
            valid_source=batch.valid[source],
            valid_target=batch.valid[target],
            scores=None if scores is None else torch.cat([scores[source], scores[target]]),
        )

    def _collect_domain_metrics(self, embeddings: Embeddings, batch: Batch) -> None:
        for modality in self.model.modalities:
            unit = F.normalize(embeddings[f"{FEATURES}{modality}"].detach(), dim=1)
            for domain, role in (("source", SOURCE), ("target", TARGET)):
                self.domain_metrics.add_rows(
                    modality, domain, unit[batch.rows_of(role)], batch.valid[batch.rows_of(role)]
                )

    def loss_parameters(self) -> dict[str, nn.Parameter]:
        return {} if self.places is None else self.places.loss_parameters("places")

    def clamp_(self) -> Bool[Tensor, ""]:
        """Return false: no parameter has a range."""
        return torch.zeros((), dtype=torch.bool, device=self.model.classifier.weight.device)

    def extra_critic_losses(self) -> Iterator[Float[Tensor, ""]]:
        return iter(()) if self.places is None else self.places.extra_critic_losses()

    def metrics(self) -> dict[str, Float[Tensor, ""]]:
        """Return the accuracy of each head on the last batch, the splitter's decision, and the domain metrics."""
        values = {f"{name}/accuracy": x for name, x in self._accuracy.items()}
        if self.splitter is not None and self.splitter.decision is not None:
            values |= self.splitter.decision.metrics()
        return values if self.places is None else values | self._all_domain_metrics(self.places)

    def _all_domain_metrics(self, points: AlignmentPoints) -> dict[str, Float[Tensor, ""]]:
        """Return the metrics of each alignment point, and those of `DomainMetrics` at the encoders' outputs.

        With a parameter space the gradients of the task losses arrive one after the other; their squares are added.
        """
        device = self.model.classifier.weight.device
        sums = sum_over_ranks(points.shares | self.domain_metrics.rank_sums(device))
        means = {name: sums[name] / world_size() for name in points.shares}
        on_predictions = any(loss.method in PREDICTION_METHODS for loss in points.domain_losses())
        aligned = self.model.modalities if JOINT in points or on_predictions else points
        return means | self.domain_metrics.metrics(sums, aligned) | points.metrics(means, device)
