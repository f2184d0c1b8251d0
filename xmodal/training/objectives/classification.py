"""A multimodal classifier's losses: cross-entropy of the fusion and of each modality's own head, over all ranks' rows.

The uniform baseline of balanced multimodal learning is their sum; what else is done with their gradients is up to
`xmodal.gradients`. With rows of a target, which have no class, the losses of
`xmodal.training.objectives.alignment_points` stand beside them: the label predictor of
Ganin et al. 2016 with a modality more.
"""

from collections.abc import Iterator
from dataclasses import replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from xmodal.batch import Batch
from xmodal.distributed.ranks import Group, world_size
from xmodal.encoders.fusion import Masks, Tokens, mean_of_tokens
from xmodal.encoders.multimodal_classifier import MultimodalClassifier
from xmodal.errors import ConfigError, nearest
from xmodal.gradients import FeatureSplitter
from xmodal.training.domain_methods import JOINT, ON_PREDICTIONS, SOURCE, TARGET, WITH_BANK
from xmodal.training.objective import Cotangents, Embeddings, Losses, Objective, pull_back
from xmodal.training.objectives.alignment_points import Places
from xmodal.training.objectives.domain import Domains
from xmodal.training.objectives.domain_metrics import DomainWatch, over_ranks
from xmodal.training.objectives.label_predictor import of_classes

FUSED = "multimodal"
AT = "at/"  # before a place: the features that the domain losses read there
PREDICTED = "predicted"  # class scores for domain losses that read probabilities


class ClassificationObjective(Objective):
    """Cross-entropy of the classes in the field `label` (int64 [B]; -1 or an invalid row: no class, no loss).

    `unimodal`: each modality's own head counts too (the uniform baseline); else the joint loss alone. With a `splitter`
    the encoders' outputs are divided between the multimodal loss (objective 0) and the unimodal ones (objective 1), and
    one backward weighs both there, chunk by chunk; without one their gradients are summed, or weighed by the state's
    `space`.

    With `places` the batch has rows of a target behind those of the source. They are encoded and meet the source's at
    each place, a modality (the mean of its tokens) or `joint` (what the fusion gives); no loss or accuracy of classes
    counts them. The domain losses branch off the encoders' outputs before the splitter, or are the `extra` of the
    space: they take no part in a decision and are added after it. ConfigError for a place that does not exist.
    """

    def __init__(
        self,
        model: MultimodalClassifier,
        *,
        unimodal: bool = True,
        splitter: FeatureSplitter | None = None,
        places: Places | None = None,
        group: Group = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.unimodal = unimodal
        self.splitter = splitter
        self.places = places
        self.group = group
        for place in places or ():
            if place not in (*model.modalities, JOINT):
                raise ConfigError(f"no place {place!r}; {nearest(place, (*model.modalities, JOINT))}")
        self.watch = DomainWatch(model.modalities)
        if not unimodal:
            model.heads.requires_grad_(False)  # unread, and DDP would wait for their gradients
        self._accuracy: dict[str, Float[Tensor, ""]] = {}

    def forward(self, batch: Batch, cotangents: Cotangents | None = None) -> Losses:
        scores = self.embed(batch)
        if cotangents is not None:
            return Losses(pull_back(scores, self.weights(), cotangents))
        return self.loss(scores, batch)

    def gain(self, name: str) -> float:
        """Critics learn at a rate of their own."""
        return self.places.critic_gain if self.places is not None and name.startswith("places.") else 1.0

    def at(self, step: int) -> None:
        if self.places is not None:
            self.places.at(step)

    def embed(self, batch: Batch) -> Embeddings:
        """The class scores [B, C] of the fusion and of each head, and the features at each place."""
        labelled = self.places is None or batch.part(SOURCE).stop > batch.part(SOURCE).start
        return self.score(*self.model.encode(batch), split=labelled)

    def score(self, tokens: Tokens, masks: Masks, *, split: bool = True) -> Embeddings:
        """The same of the encoders' outputs, where the gradients of the losses meet.

        `split` is false for a chunk without a row that has a class: it has nothing to decide.
        """
        features = {} if self.places is None else self._features(tokens, masks)
        if self.places is not None:
            tokens = {name: self.watch.task(name, x) for name, x in tokens.items()}
        joint, own = self.splitter(tokens) if self.splitter is not None and split else (tokens, tokens)
        scores = {FUSED: self.model.fused(joint, masks)}
        if self.unimodal:
            scores |= {name: self.model.alone(name, own, masks) for name in self.model.modalities}
        return {name: x.float() for name, x in (scores | features).items()}

    def loss(self, embeddings: Embeddings, batch: Batch) -> Losses:
        """This rank's shares: of classes, means over the rows of all ranks that have one; and the domain losses."""
        if self.places is None:
            return self._of_classes(embeddings, batch)
        self.watch.begin()
        rows = batch.part(SOURCE)
        scores = {name: x[rows] for name, x in embeddings.items() if name != PREDICTED and not name.startswith(AT)}
        with torch.autocast(batch.row.device.type, enabled=False):
            domain = self.places({place: self._domains(place, embeddings, batch) for place in self.places})
        self._see(embeddings, batch)
        return replace(self._of_classes(scores, batch[rows]), domain=domain)

    def _of_classes(self, scores: Embeddings, batch: Batch) -> Losses:
        losses, self._accuracy = of_classes(scores, batch.fields["label"], batch.valid, self.group)
        return Losses(losses.pop(FUSED), unimodal=losses)

    def _features(self, tokens: Tokens, masks: Masks) -> Embeddings:
        """What the domain losses read of the encoders' outputs: every modality's mean token, and what a place needs."""
        assert self.places is not None
        apart = {name: self.watch.domain(name, x) for name, x in tokens.items()}
        found = {f"{AT}{name}": mean_of_tokens(x, masks[name]) for name, x in apart.items()}
        reads = any(place.method in WITH_BANK for place in self.places.values())
        if JOINT in self.places or reads:
            fused = self.model.fusion(apart, masks)
            found |= {f"{AT}{JOINT}": fused} if JOINT in self.places else {}
            found |= {PREDICTED: self.model.classifier(fused)} if reads else {}
        return found

    def _domains(self, place: str, embeddings: Embeddings, batch: Batch) -> Domains:
        source, target = batch.part(SOURCE), batch.part(TARGET)
        z, predicted = embeddings[f"{AT}{place}"], embeddings.get(PREDICTED)
        return Domains(
            source=z[source],
            target=z[target],
            valid_source=batch.valid[source],
            valid_target=batch.valid[target],
            scores=None if predicted is None else torch.cat([predicted[source], predicted[target]]),
        )

    def _see(self, embeddings: Embeddings, batch: Batch) -> None:
        for modality in self.model.modalities:
            unit = F.normalize(embeddings[f"{AT}{modality}"].detach(), dim=1)
            for domain, role in (("source", SOURCE), ("target", TARGET)):
                self.watch.see(modality, domain, unit[batch.part(role)], batch.valid[batch.part(role)])

    def weights(self) -> dict[str, nn.Parameter]:
        return {} if self.places is None else self.places.weights("places")

    def clamp_(self) -> Bool[Tensor, ""]:
        """No parameter has a range."""
        return torch.zeros((), dtype=torch.bool, device=self.model.classifier.weight.device)

    def afterwards(self) -> Iterator[Float[Tensor, ""]]:
        return iter(()) if self.places is None else self.places.afterwards()

    def figures(self) -> dict[str, Float[Tensor, ""]]:
        """Accuracy on the last batch, of the fusion and of each head; what the splitter decided; and of the domains."""
        found = {f"{name}/accuracy": x for name, x in self._accuracy.items()}
        if self.splitter is not None and self.splitter.decision is not None:
            found |= self.splitter.decision.figures()
        return found if self.places is None else found | self._of_domains(self.places)

    def _of_domains(self, places: Places) -> dict[str, Float[Tensor, ""]]:
        """Of each place its loss and what a critic knows; of each modality what `DomainWatch` sees at the encoders'
        outputs. In parameter space the task's gradients arrive there one by one: their squares are added."""
        device = self.model.classifier.weight.device
        summed = over_ranks(places.shares | self.watch.shares(device), self.group)
        means = {name: summed[name] / world_size(self.group) for name in places.shares}
        reads = any(place.method in ON_PREDICTIONS for place in places.values())
        met = self.model.modalities if JOINT in places or reads else places
        return means | self.watch.figures(summed, met) | places.figures(means, device)
