"""What a stage minimises: a batch in, all its losses out of one forward."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from xmodal.batch import Batch
from xmodal.distributed.ranks import Group
from xmodal.errors import ConfigError, nearest
from xmodal.losses.contrastive import info_nce, sigmoid_loss

Embeddings = dict[str, Float[Tensor, "B D"]]
LOSSES = ("info_nce", "sigmoid")


@dataclass(frozen=True)
class Losses:
    """The scalar losses of one forward, by the role that a step gives them.

    Each is this rank's share (sum over own valid rows x world / valid rows of all ranks): their mean over ranks is the
    global mean, and DDP's mean of gradients is its gradient. `unimodal` and `domain` are keyed by modality. Several
    `tasks` on a shared encoder are an objective each; there is no `multimodal` loss beside them.
    """

    multimodal: Float[Tensor, ""] | None = None
    unimodal: dict[str, Float[Tensor, ""]] = field(default_factory=dict)
    domain: dict[str, Float[Tensor, ""]] = field(default_factory=dict)
    tasks: dict[str, Float[Tensor, ""]] = field(default_factory=dict)

    @property
    def sum(self) -> Float[Tensor, ""]:
        """All losses with weight 1."""
        joint = [] if self.multimodal is None else [self.multimodal]
        return torch.stack([*joint, *self.unimodal.values(), *self.tasks.values(), *self.domain.values()]).sum()

    @property
    def by_objective(self) -> list[Float[Tensor, ""]]:
        """What the backward passes differentiate: the multimodal loss and the sum of the unimodal ones, or each task's.

        An encoder sees the unimodal loss of its own modality only, so two passes serve any number of modalities.
        """
        if self.multimodal is None:
            return [*self.tasks.values()]
        none = torch.zeros_like(self.multimodal).detach()
        return [self.multimodal, torch.stack([none, *self.unimodal.values()]).sum()]

    @property
    def extra(self) -> Float[Tensor, ""] | None:
        """What takes no part in a decision and is added after it: the sum of the domain losses; None where none is."""
        return torch.stack([*self.domain.values()]).sum() if self.domain else None


@dataclass(frozen=True)
class Cotangents:
    """The gradient of the whole global batch's loss at what the loss reads: some rows' embeddings, and its weights.

    `weights` is None for all chunks but one: the gradient of a weight must enter the sum once.
    """

    embeddings: Embeddings
    weights: dict[str, Float[Tensor, "..."]] | None = None


class Objective(nn.Module, ABC):
    """What `train_step` can minimise, in one piece or in chunks with cached embeddings. An interface, nothing else."""

    group: Group

    @abstractmethod
    def forward(self, batch: Batch, cotangents: Cotangents | None = None) -> Losses:
        """All losses; with `cotangents` a stand-in whose gradient is the losses' gradient through these rows."""

    @abstractmethod
    def embed(self, batch: Batch) -> Embeddings:
        """What the losses read of a batch: one [B, D] tensor a name, row i from row i of the batch."""

    @abstractmethod
    def loss(self, embeddings: Embeddings, batch: Batch) -> Losses:
        """The losses of embeddings; float32 or wider, outside autocast; talks to the other ranks."""

    @abstractmethod
    def weights(self) -> dict[str, nn.Parameter]:
        """Trainable parameters that `loss` reads itself (temperature, bias, a critic)."""

    @abstractmethod
    def clamp_(self) -> Bool[Tensor, ""]:
        """Bring parameters back into their range after an update; whether any was outside."""

    @abstractmethod
    def figures(self) -> dict[str, Float[Tensor, ""]]:
        """Scalars of its own, on the device, for the step's metrics; the same on all ranks."""

    def gain(self, name: str) -> float:
        """A factor on the learning rate of one of its parameters; 1 for all here."""
        return 1.0

    def at(self, step: int) -> None:
        """Told before each forward which step it is for; what depends on the step depends on nothing else."""
        return

    def afterwards(self) -> Iterator[Float[Tensor, ""]]:
        """Losses of some of its own parameters, each for one more update of these after that of all; none here."""
        return iter(())


class ContrastiveObjective(Objective):
    """The contrastive loss of a dual encoder between its two modalities, with negatives from every rank.

    `model` has `modalities` (two names), `encode(modality, batch)` giving unit rows [B, D], `log_scale`, `clamp_()`,
    and for the sigmoid loss `logit_bias`. `loss` is `info_nce` or `sigmoid`. With `mask_duplicates` rows that show the
    same row or the same caption are no negatives of each other. Raises ConfigError for an unknown loss, or a sigmoid
    loss without bias.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: str = "info_nce",
        *,
        mask_duplicates: bool = False,
        group: Group = None,
    ) -> None:
        super().__init__()
        self.model: Any
        if loss not in LOSSES:
            raise ConfigError(f"unknown loss {loss!r}; {nearest(loss, LOSSES)}")
        self.model = model
        self.loss_name = loss
        self.mask_duplicates = mask_duplicates
        self.group = group
        self._settle_bias()

    def forward(self, batch: Batch, cotangents: Cotangents | None = None) -> Losses:
        embeddings = self.embed(batch)
        if cotangents is not None:
            return Losses(pull_back(embeddings, self.weights(), cotangents))
        return self.loss(embeddings, batch)

    def embed(self, batch: Batch) -> Embeddings:
        """Unit rows of each modality, in float32 (float64 for a float64 model) whatever autocast is on."""
        encoded = {name: self.model.encode(name, batch) for name in self.model.modalities}
        return {name: z if z.dtype == torch.float64 else z.float() for name, z in encoded.items()}

    def loss(self, embeddings: Embeddings, batch: Batch) -> Losses:
        """The contrastive loss as `multimodal`: this rank's share of the mean over valid rows and both directions."""
        with torch.autocast(batch.row.device.type, enabled=False):
            return Losses(self._contrast(*embeddings.values(), batch=batch))

    def _contrast(self, u: Float[Tensor, "B D"], v: Float[Tensor, "B D"], *, batch: Batch) -> Float[Tensor, ""]:
        ids = identities(batch) if self.mask_duplicates else None
        if self.loss_name == "info_nce":
            return info_nce(u, v, self.model.log_scale, valid=batch.valid, ids=ids, group=self.group)
        scale, bias = self.model.log_scale, self.model.logit_bias
        return sigmoid_loss(u, v, scale, bias, valid=batch.valid, ids=ids, group=self.group)

    def weights(self) -> dict[str, nn.Parameter]:
        names = ("log_scale", "logit_bias") if self.loss_name == "sigmoid" else ("log_scale",)
        found = {name: getattr(self.model, name) for name in names}
        return {name: x for name, x in found.items() if isinstance(x, nn.Parameter) and x.requires_grad}

    @torch.no_grad()
    def clamp_(self) -> Bool[Tensor, ""]:
        """The temperature back into 1/100..1 (Radford et al. 2021, §2.5)."""
        before = self.model.log_scale.detach().clone()
        self.model.clamp_()
        return torch.ne(before, self.model.log_scale)

    def figures(self) -> dict[str, Float[Tensor, ""]]:
        """`logit_scale`, the factor on cosine similarities, and `temperature`, its inverse."""
        log_scale = self.model.log_scale.detach()
        return {"logit_scale": log_scale.exp(), "temperature": (-log_scale).exp()}

    def _settle_bias(self) -> None:
        """InfoNCE never reads the bias, and DDP waits for ever for the gradient of an unread trainable parameter."""
        bias = getattr(self.model, "logit_bias", None)
        if self.loss_name == "sigmoid" and bias is None:
            raise ConfigError("the sigmoid loss needs a model with a logit bias: create it with one")
        if self.loss_name == "info_nce" and isinstance(bias, nn.Parameter):
            bias.requires_grad_(False)


def identities(batch: Batch) -> Int64[Tensor, "B J"]:
    """What makes two rows the same: their row number (of the same corpus), and where there are captions, their text.

    Columns for the losses' `ids`; padding (row -1) equals nothing. Reads the fields `corpus` and `text_id`.
    """
    row = batch.row
    if "corpus" in batch.fields:
        row = torch.where(row < 0, row, row + (batch.fields["corpus"].to(torch.int64) << 48))
    columns = [row, batch.fields["text_id"]] if "text_id" in batch.fields else [row]
    return torch.stack(columns, dim=1)


def pull_back(
    embeddings: Mapping[str, Tensor], weights: Mapping[str, Tensor], cotangents: Cotangents
) -> Float[Tensor, ""]:
    """<embeddings, cotangents>: the scalar whose gradient is the cotangents' pull-back through the encoders.

    Gao et al. 2021 (GradCache), eq. 7. Every weight stands in the graph even with no cotangent, so that DDP sees it
    used in every chunk.
    """
    terms = [(z * cotangents.embeddings[name].to(z.dtype)).sum() for name, z in embeddings.items()]
    for name, x in weights.items():
        terms.append((x * (0.0 if cotangents.weights is None else cotangents.weights[name])).sum())
    return torch.stack([term.reshape(()) for term in terms]).sum()
