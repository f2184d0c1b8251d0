"""The contrastive objective of a dual encoder."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from xmodal.batch import Batch
from xmodal.errors import ConfigError, nearest
from xmodal.losses.contrastive import info_nce, sigmoid_loss
from xmodal.training.objective import EmbeddingGradients, Embeddings, Losses, Objective, surrogate_loss


@dataclass(frozen=True)
class ContrastiveLoss:
    """A loss between two embedding spaces, by the signature of `info_nce`, or of `sigmoid_loss` if it has a bias."""

    function: Callable[..., Tensor]
    has_bias: bool = False  # it takes the model's logit bias after the scale


CONTRASTIVE_LOSSES: dict[str, ContrastiveLoss] = {
    "info_nce": ContrastiveLoss(info_nce),
    "sigmoid": ContrastiveLoss(sigmoid_loss, has_bias=True),
}


def register_contrastive_loss(name: str, function: Callable[..., Tensor], *, has_bias: bool = False) -> None:
    """Add a contrastive loss of a user's own, for `ContrastiveObjective` and `--objective`.

    `function(u, v, log_scale, *, valid, ids, group)` takes this rank's unit rows [B, D] and returns a scalar: this
    rank's share, so that the mean over ranks is the global loss. With `has_bias` the logit bias follows `log_scale`.
    Raises ConfigError for a name that is taken.
    """
    loss = ContrastiveLoss(function, has_bias)
    if CONTRASTIVE_LOSSES.setdefault(name, loss) != loss:
        raise ConfigError(f"the contrastive loss {name!r} exists already: register yours under another name")


def contrastive_loss(name: str) -> ContrastiveLoss:
    """Return the loss of that name; ConfigError with the nearest one."""
    if name not in CONTRASTIVE_LOSSES:
        raise ConfigError(f"unknown loss {name!r}; {nearest(name, CONTRASTIVE_LOSSES)}")
    return CONTRASTIVE_LOSSES[name]


class ContrastiveObjective(Objective):
    """The contrastive loss between the two modalities of a dual encoder, with negatives from every rank.

    `model` has `modalities` (two names), `encode(modality, batch)` that returns unit rows [B, D], `log_scale`,
    `clamp_()`, and for the sigmoid loss `logit_bias`. `loss` is `info_nce`, `sigmoid` or a registered one. With
    `mask_duplicates`, copies of one row and rows with the same caption are not used as negatives of each other. Raises
    ConfigError for an unknown loss, or for the sigmoid loss of a model without a bias.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: str = "info_nce",
        *,
        mask_duplicates: bool = False,
    ) -> None:
        super().__init__()
        self.model: Any
        self._loss = contrastive_loss(loss)
        self.model = model
        self.loss_name = loss
        self.mask_duplicates = mask_duplicates
        self._freeze_unread_bias()

    def forward(self, batch: Batch, embedding_gradients: EmbeddingGradients | None = None) -> Losses:
        embeddings = self.embed(batch)
        if embedding_gradients is not None:
            return Losses(surrogate_loss(embeddings, self.loss_parameters(), embedding_gradients))
        return self.loss(embeddings, batch)

    def embed(self, batch: Batch) -> Embeddings:
        """Return unit rows of each modality in float32, also under autocast (float64 for a float64 model)."""
        encoded = {name: self.model.encode(name, batch) for name in self.model.modalities}
        return {name: z if z.dtype == torch.float64 else z.float() for name, z in encoded.items()}

    def loss(self, embeddings: Embeddings, batch: Batch) -> Losses:
        """Return the loss as `multimodal`: this rank's share of the mean over valid rows and both directions."""
        with torch.autocast(batch.row.device.type, enabled=False):
            return Losses(self._contrastive_loss(*embeddings.values(), batch=batch))

    def _contrastive_loss(self, u: Float[Tensor, "B D"], v: Float[Tensor, "B D"], *, batch: Batch) -> Float[Tensor, ""]:
        ids = identity_columns(batch) if self.mask_duplicates else None
        parameters = [getattr(self.model, name) for name in self._loss_parameter_names()]
        return self._loss.function(u, v, *parameters, valid=batch.valid, ids=ids, group=None)

    def _loss_parameter_names(self) -> tuple[str, ...]:
        return ("log_scale", "logit_bias") if self._loss.has_bias else ("log_scale",)

    def loss_parameters(self) -> dict[str, nn.Parameter]:
        values = {name: getattr(self.model, name) for name in self._loss_parameter_names()}
        return {name: x for name, x in values.items() if isinstance(x, nn.Parameter) and x.requires_grad}

    @torch.no_grad()
    def clamp_(self) -> Bool[Tensor, ""]:
        """Clamp the temperature to [1/100, 1] (Radford et al. 2021, §2.5); return whether it was outside."""
        before = self.model.log_scale.detach().clone()
        self.model.clamp_()
        return torch.ne(before, self.model.log_scale)

    def metrics(self) -> dict[str, Float[Tensor, ""]]:
        """Return `logit_scale`, the factor on cosine similarities, and `temperature`, its inverse."""
        log_scale = self.model.log_scale.detach()
        return {"logit_scale": log_scale.exp(), "temperature": (-log_scale).exp()}

    def _freeze_unread_bias(self) -> None:
        """Freeze the bias for a loss that does not use it: DDP would wait forever for its gradient."""
        bias = getattr(self.model, "logit_bias", None)
        if self._loss.has_bias and bias is None:
            raise ConfigError(f"the {self.loss_name} loss needs a model with a logit bias: create it with one")
        if not self._loss.has_bias and isinstance(bias, nn.Parameter):
            bias.requires_grad_(False)


def identity_columns(batch: Batch) -> Int64[Tensor, "B J"]:
    """Return integer columns of which two rows share a value if they are the same row or have the same caption.

    The argument `ids` of the contrastive losses. The first column combines corpus and row number, the second is the
    field `text_id` if the batch has it. Padding (row -1) equals nothing.
    """
    row = batch.row
    if "corpus" in batch.fields:
        row = torch.where(row < 0, row, row + (batch.fields["corpus"].to(torch.int64) << 48))
    columns = [row, batch.fields["text_id"]] if "text_id" in batch.fields else [row]
    return torch.stack(columns, dim=1)
