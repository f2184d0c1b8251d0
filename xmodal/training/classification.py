"""A multimodal classifier's losses: cross-entropy of the fusion and of each modality's own head, over all ranks' rows.

The uniform baseline of balanced multimodal learning is their sum; what else is done with their gradients is up to
`xmodal.gradients`.
"""

import torch
import torch.distributed as dist
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from xmodal.batch import Batch
from xmodal.encoders.fusion import Masks, Tokens
from xmodal.encoders.multimodal import MultimodalClassifier
from xmodal.gradients import FeatureSplitter
from xmodal.losses.ranks import Group, world_size
from xmodal.training.objective import Cotangents, Embeddings, Losses, Objective, pull_back

JOINT = "multimodal"


class ClassificationObjective(Objective):
    """Cross-entropy of the classes in the field `label` (int64 [B]; -1 or an invalid row: no class, no loss).

    `unimodal`: each modality's own head counts too (the uniform baseline); else the joint loss alone. With a `splitter`
    the encoders' outputs are divided between the multimodal loss (objective 0) and the unimodal ones (objective 1), and
    one backward weighs both there, chunk by chunk; without one their gradients are summed, or weighed by the state's
    `space`.
    """

    def __init__(
        self,
        model: MultimodalClassifier,
        *,
        unimodal: bool = True,
        splitter: FeatureSplitter | None = None,
        group: Group = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.unimodal = unimodal
        self.splitter = splitter
        self.group = group
        if not unimodal:
            model.heads.requires_grad_(False)  # unread, and DDP would wait for their gradients
        self._accuracy: dict[str, Float[Tensor, ""]] = {}

    def forward(self, batch: Batch, cotangents: Cotangents | None = None) -> Losses:
        scores = self.embed(batch)
        if cotangents is not None:
            return Losses(pull_back(scores, {}, cotangents))
        return self.loss(scores, batch)

    def embed(self, batch: Batch) -> Embeddings:
        """The class scores [B, C] of the fusion and of each head: all that the losses read of a row."""
        return self.score(*self.model.encode(batch))

    def score(self, tokens: Tokens, masks: Masks) -> Embeddings:
        """The same of the encoders' outputs, where the gradients of the losses meet."""
        joint, own = self.splitter(tokens) if self.splitter is not None else (tokens, tokens)
        scores = {JOINT: self.model.fused(joint, masks)}
        if self.unimodal:
            scores |= {name: self.model.alone(name, own, masks) for name in self.model.modalities}
        return {name: score.float() for name, score in scores.items()}

    def loss(self, embeddings: Embeddings, batch: Batch) -> Losses:
        """This rank's shares of the means over the rows of all ranks that have a class."""
        label = batch.fields["label"]
        counted = batch.valid & (label >= 0)
        hits = [((score.detach().argmax(1) == label) & counted).sum() for score in embeddings.values()]
        counts = torch.stack([counted.sum(), *hits]).double()
        if (world := world_size(self.group)) > 1:
            dist.all_reduce(counts, group=self.group)
        number = counts[0].clamp(min=1)
        self._accuracy = dict(zip(embeddings, counts[1:] / number, strict=True))
        share = (world / number).float()
        losses = {name: share * cross_entropy(score, label, counted) for name, score in embeddings.items()}
        return Losses(losses.pop(JOINT), unimodal=losses)

    def weights(self) -> dict[str, nn.Parameter]:
        return {}

    def clamp_(self) -> Bool[Tensor, ""]:
        """No parameter has a range."""
        return torch.zeros((), dtype=torch.bool, device=self.model.classifier.weight.device)

    def figures(self) -> dict[str, Float[Tensor, ""]]:
        """Accuracy on the last batch, of the fusion and of each head; and what the splitter decided."""
        found = {f"{name}/accuracy": x for name, x in self._accuracy.items()}
        if self.splitter is not None and self.splitter.decision is not None:
            found |= self.splitter.decision.figures()
        return found


def cross_entropy(
    score: Float[Tensor, "B C"], label: Int64[Tensor, "B"], counted: Bool[Tensor, "B"]
) -> Float[Tensor, ""]:
    """The sum over the rows that count; a row that does not may hold any label and any score."""
    each = F.cross_entropy(score, label.clamp(min=0), reduction="none")
    return torch.where(counted, each, torch.zeros_like(each)).sum()
