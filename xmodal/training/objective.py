"""The interface between a training step and what it minimises: all losses of a batch from one forward pass."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from xmodal.batch import Batch

Embeddings = dict[str, Float[Tensor, "B D"]]


@dataclass(frozen=True)
class Losses:
    """The scalar losses of one forward pass, grouped by how a training step treats them.

    Each loss is this rank's share (sum over this rank's valid rows * world size / valid rows of all ranks). The mean of
    the shares over ranks is the global mean, and the mean of gradients that DDP takes is the gradient of it.
    `unimodal` and `domain` are keyed by modality or alignment point. In multi-task training each of the `tasks` is an
    objective, and there is no `multimodal` loss.

    >>> losses = Losses(torch.tensor(2.0), unimodal={"image": torch.tensor(1.0)}, domain={"image": torch.tensor(0.5)})
    >>> losses.sum.item(), [loss.item() for loss in losses.by_objective], losses.extra.item()
    (3.5, [2.0, 1.0], 0.5)
    """

    multimodal: Float[Tensor, ""] | None = None
    unimodal: dict[str, Float[Tensor, ""]] = field(default_factory=dict)
    domain: dict[str, Float[Tensor, ""]] = field(default_factory=dict)
    tasks: dict[str, Float[Tensor, ""]] = field(default_factory=dict)

    @property
    def sum(self) -> Float[Tensor, ""]:
        """Return the unweighted sum of all losses."""
        multimodal = [] if self.multimodal is None else [self.multimodal]
        return torch.stack([*multimodal, *self.unimodal.values(), *self.tasks.values(), *self.domain.values()]).sum()

    @property
    def by_objective(self) -> list[Float[Tensor, ""]]:
        """Return the losses that are differentiated separately: multimodal and summed unimodal, or one for each task.

        An encoder only receives gradients from the unimodal loss of its own modality, so two backward passes are
        enough for any number of modalities.
        """
        if self.multimodal is None:
            return [*self.tasks.values()]
        zero = torch.zeros_like(self.multimodal).detach()
        return [self.multimodal, torch.stack([zero, *self.unimodal.values()]).sum()]

    @property
    def extra(self) -> Float[Tensor, ""] | None:
        """Return the sum of the domain losses, or None without any.

        A gradient weighting ignores them; their gradients are added after it.
        """
        return torch.stack([*self.domain.values()]).sum() if self.domain else None


@dataclass(frozen=True)
class EmbeddingGradients:
    """The gradient of the loss of the whole global batch with respect to the embeddings of some rows.

    `loss_parameters` has the gradients of the parameters that the loss itself reads. It is None for all chunks but
    one, because these gradients must be added once.
    """

    embeddings: Embeddings
    loss_parameters: dict[str, Float[Tensor, "..."]] | None = None


class Objective(nn.Module, ABC):
    """The interface of everything that `train_step` can minimise, in one forward pass or in chunks of rows."""

    @abstractmethod
    def forward(self, batch: Batch, embedding_gradients: EmbeddingGradients | None = None) -> Losses:
        """Return all losses, or with `embedding_gradients` the surrogate loss of these rows (see `surrogate_loss`)."""

    @abstractmethod
    def embed(self, batch: Batch) -> Embeddings:
        """Return everything that the losses read from a batch: named [B, D] tensors, row i from row i of the batch."""

    @abstractmethod
    def loss(self, embeddings: Embeddings, batch: Batch) -> Losses:
        """Compute the losses of embeddings in float32 or wider, outside autocast; communicates with other ranks."""

    @abstractmethod
    def loss_parameters(self) -> dict[str, nn.Parameter]:
        """Return the trainable parameters that `loss` reads itself (temperature, bias, domain critics), by name."""

    @abstractmethod
    def clamp_(self) -> Bool[Tensor, ""]:
        """Clamp parameters to their range after an update; return whether any was outside."""

    @abstractmethod
    def metrics(self) -> dict[str, Float[Tensor, ""]]:
        """Return scalars of the last forward for the metrics of the step: on the device, the same on all ranks."""

    def lr_scale(self, name: str) -> float:
        """Return the factor on the learning rate of the parameter `name`; 1 unless overridden."""
        return 1.0

    def set_step(self, step: int) -> None:
        """Set the number of the step that the next forward is for; schedules must depend on this number alone."""
        return

    def extra_critic_losses(self) -> Iterator[Float[Tensor, ""]]:
        """Yield losses of the domain critics, each for one more update of the critics alone; none unless overridden."""
        return iter(())


def surrogate_loss(
    embeddings: Mapping[str, Tensor], loss_parameters: Mapping[str, Tensor], gradients: EmbeddingGradients
) -> Float[Tensor, ""]:
    """Compute the inner product of embeddings and their gradients.

    Its gradient with respect to the encoders' parameters equals that of the original loss (Gao et al. 2021, GradCache,
    eq. 7). Every loss parameter is part of the graph even without a gradient, so that DDP sees it used in each chunk.

    >>> x = torch.tensor([[1.0, 2.0]], requires_grad=True)
    >>> surrogate_loss({"image": 3 * x}, {}, EmbeddingGradients({"image": torch.tensor([[0.5, 1.0]])})).backward()
    >>> x.grad
    tensor([[1.5000, 3.0000]])
    """
    terms = [(z * gradients.embeddings[name].to(z.dtype)).sum() for name, z in embeddings.items()]
    for name, x in loss_parameters.items():
        terms.append((x * (0.0 if gradients.loss_parameters is None else gradients.loss_parameters[name])).sum())
    return torch.stack([term.reshape(()) for term in terms]).sum()
