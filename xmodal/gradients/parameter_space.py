"""Gradient weighing at the encoders' parameters: the decision is taken on their exact gradients.

Two backward passes serve any number of modalities: one of the multimodal loss, one of the sum of the unimodal losses,
since an encoder sees the unimodal loss of its own modality only. K tasks on a shared encoder take K passes.
"""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from jaxtyping import Float, Float64
from torch import Tensor

from xmodal.distributed.ranks import Group, current_rank, world_size
from xmodal.errors import ConfigError
from xmodal.gradients.decision import Decision
from xmodal.gradients.flat_gradients import FlatGradients, slices_between
from xmodal.gradients.gramian import alignment, compute_gramian
from xmodal.gradients.partition import Partition
from xmodal.gradients.weightings import MMParetoPerTensor, Weighting


class ParameterSpace:
    """Differentiates K objectives at the encoders' parameters, reduces over ranks, weighs, and writes `.grad`.

        losses = objective(batch)                    # the bare module: not through DistributedDataParallel
        space.add([losses.multimodal, torch.stack([*losses.unimodal.values()]).sum()], extra=domain_loss)
        decision = space.decide()                    # every .grad is that of the global batch
        optimizer.step()

    * Ranks: losses are shares whose mean over ranks is the global mean. All ranks must call `add` and `decide` alike.
      The first K-1 gradients are reduced while the last one is differentiated. The decision follows the reduction, on
      float64 scalars that are themselves reduced, so it is the same on all ranks to the last bit, and the same as that
      of one process with the whole batch.
    * Accumulation: `add` micro-batches with `last=False` but for the last; nothing is sent before, and one decision is
      taken.
    * Mixed precision: scale all losses by the same factor; a non-finite gradient of any objective on any rank leaves a
      non-finite `.grad` on all of them, so a gradient scaler skips the step everywhere. Unscale and clip after
      `decide`, as usual.
    * `others` (heads, fusion) get the plain sum; gamma and the weights apply to encoders only.
    * `extra` (domain-adversarial) objectives take no part in the decision and are added after it.
    * Buffers (batch norm) are updated by the one forward, once. They differ between ranks; see
      `xmodal.distributed.synchrony.broadcast_buffers`.
    * Memory: K gradients of the encoders and one of the others (one more of the encoders if `extra` is used), kept
      between steps; `.grad` points into them.

    >>> from torch import nn
    >>> from xmodal.gradients import MMPareto
    >>> model = nn.ModuleDict({"audio": nn.Linear(2, 2), "head": nn.Linear(2, 1)})
    >>> space = ParameterSpace(Partition.from_module(model, {"audio": model["audio"]}), MMPareto())
    >>> features = model["audio"](torch.ones(3, 2))
    >>> space.add([model["head"](features).sum(), features.square().mean()])
    >>> space.decide().encoders
    ('audio',)
    """

    def __init__(
        self,
        partition: Partition,
        weighting: Weighting | MMParetoPerTensor,
        *,
        objectives: int = 2,
        group: Group = None,
    ) -> None:
        if objectives < 1:
            raise ConfigError(f"objectives={objectives} must be at least 1")
        self.partition = partition
        self.weighting = weighting
        self.objectives = objectives
        self.group = group
        self.decision: Decision | None = None
        self._gradients: FlatGradients | None = None
        self._pending: list[dist.Work] = []
        self._accumulating = False
        self._reduced = False

    def add(self, losses: Sequence[Tensor], *, extra: Tensor | None = None, last: bool = True) -> None:
        """Add the gradients of one micro-batch: one backward pass per objective; the graph is freed.

        A loss that needs no gradient (an absent modality) counts as zero. ConfigError for another number of losses.
        """
        if len(losses) != self.objectives:
            raise ConfigError(f"{len(losses)} losses were given for {self.objectives} objectives")
        gradients = self._begin(extra=extra is not None)
        passes = [*enumerate(losses)] if extra is None else [(self.objectives, extra), *enumerate(losses)]
        differentiable = [k for k, loss in passes if loss.requires_grad]
        for k, loss in passes:
            if k in differentiable:
                gradients.point_grads_at(k)
                torch.autograd.backward(loss, inputs=self.partition.parameters, retain_graph=k != differentiable[-1])
            if last and k < self.objectives - 1:  # an absent loss, too: it may be present on another rank
                self._send(gradients.encoder_gradient(k))
        if last:
            self._finish(gradients)

    @torch.no_grad()
    def decide(self) -> Decision:
        """Weigh each encoder's gradients and leave the result in `.grad`; ConfigError if nothing was added."""
        if self._gradients is None or not self._reduced:
            raise ConfigError("nothing to decide on: add the losses of the (last) micro-batch before")
        self._accumulating = self._reduced = False
        self.decision = weigh_and_combine(self._gradients, self.weighting, self.group)
        self._gradients.point_grads_at(0)
        return self.decision

    def _begin(self, *, extra: bool) -> FlatGradients:
        """Return the buffer of this accumulation, reset if it is a new one."""
        gradients = self._gradients
        if gradients is None or (extra and not gradients.extra):
            if self._accumulating:
                raise ConfigError("extra objectives must come with every micro-batch of an accumulation, or with none")
            self._gradients = gradients = FlatGradients(self.partition, self.objectives, extra=extra)
        elif not self._accumulating:
            gradients.zero()
        self._accumulating = True
        return gradients

    def _send(self, part: Tensor) -> None:
        """Start the mean over ranks; divided before the sum, as DDP does, so that low precision cannot overflow."""
        world = world_size(self.group)
        if world > 1:
            part.div_(world)
            self._pending.append(dist.all_reduce(part, group=self.group, async_op=True))

    def _finish(self, gradients: FlatGradients) -> None:
        """Send what is left and wait for all reductions."""
        self._send(gradients.last_message)
        for work in self._pending:
            work.wait()
        self._pending.clear()
        self._reduced = True


def weigh_and_combine(gradients: FlatGradients, weighting: Weighting | MMParetoPerTensor, group: Group) -> Decision:
    """Write the weighted combination over the gradient of objective 0; the extra gradient is added unweighted."""
    rows = [gradients.encoder_gradient(k) for k in range(gradients.objectives)]
    per_tensor = isinstance(weighting, MMParetoPerTensor)
    bounds = gradients.segment_bounds(tensors=per_tensor)
    segments = [s for encoder in bounds for s in slices_between(encoder)]
    gramians = reduce_gramians(rows, segments, group)
    if isinstance(weighting, MMParetoPerTensor):
        decision, weights = _weigh_tensors(tuple(gradients.partition.encoders), gramians, segments, bounds, weighting)
    else:
        weights = weighting(gramians)
        decision = Decision.from_gramian(tuple(gradients.partition.encoders), gramians, weights)
    for segment, w in zip(segments, weights.to(rows[0].dtype), strict=True):
        combine_in_place([row[segment] for row in rows], w)
    if gradients.extra:
        rows[0].add_(gradients.encoder_gradient(gradients.objectives))
    return decision


def reduce_gramians(rows: list[Tensor], segments: list[slice], group: Group) -> Float64[Tensor, "S K K"]:
    """Return the Gramian of each segment; every rank computes a share of the products, so all sum the same numbers."""
    world, rank = world_size(group), current_rank(group)
    shares = []
    for segment in segments:
        size = segment.stop - segment.start
        share = slice(segment.start + size * rank // world, segment.start + size * (rank + 1) // world)
        shares.append(compute_gramian([row[share] for row in rows]))
    gramians = torch.stack(shares) if shares else rows[0].new_zeros(0, len(rows), len(rows), dtype=torch.float64)
    if world > 1:
        dist.all_reduce(gramians, group=group)
    return gramians


def combine_in_place(rows: list[Tensor], weights: Float[Tensor, "K"]) -> None:
    """Write sum_k w_k g_k over row 0; the weights stay on the device."""
    rows[0].mul_(weights[0])
    for row, w in zip(rows[1:], weights[1:], strict=True):
        rows[0].addcmul_(row, w)


def _weigh_tensors(
    encoders: tuple[str, ...],
    gramians: Float64[Tensor, "S K K"],
    segments: list[slice],
    bounds: list[list[int]],
    weighting: MMParetoPerTensor,
) -> tuple[Decision, Float64[Tensor, "S K"]]:
    """Return the decision and the weights of every tensor, for a weighting per parameter tensor."""
    sizes = torch.tensor([p.stop - p.start for p in segments], dtype=torch.float64, device=gramians.device)
    encoder_gramians, weights, mean_weights, norms, alignments, start = [], [], [], [], [], 0
    for encoder in bounds:
        span = slice(start, start + len(encoder) - 1)
        start = span.stop
        tensors = gramians[span]
        encoder_gramians.append(tensors.sum(0))
        weights.append(weighting(encoder_gramians[-1], tensors))
        mean_weights.append((weights[-1] * sizes[span, None]).sum(0) / sizes[span].sum())
        norms.append((alignment(tensors, weights[-1]) * weights[-1]).sum().clamp(min=0).sqrt())
        alignments.append(alignment(tensors, weights[-1]).sum(0))
    decision = Decision(
        encoders=encoders,
        gramian=torch.stack(encoder_gramians),
        weights=torch.stack(mean_weights),
        norm=torch.stack(norms),
        alignment=torch.stack(alignments),
    )
    return decision, torch.cat(weights)
