"""Losses of one forward in, every parameter's `.grad` out: the decision taken on the exact gradients of the encoders.

Two backward passes serve any number of modalities: one of the multimodal loss, one of the sum of the unimodal losses,
since an encoder sees the unimodal loss of its own modality only. K tasks on a shared encoder take K passes.
"""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from jaxtyping import Float, Float64
from torch import Tensor

from xmodal.distributed.ranks import Group, rank_in, world_size
from xmodal.errors import ConfigError
from xmodal.gradients.decision import Decision
from xmodal.gradients.flat_gradients import Sheets, segments
from xmodal.gradients.gramian import alignment, gramian_of
from xmodal.gradients.partition import Partition
from xmodal.gradients.weightings import PerTensor, Weighting


class ParameterSpace:
    """Gradients of K objectives at the encoders' parameters: differentiated, reduced over ranks, weighed, written.

        losses = objective(batch)                    # the bare module: not through DistributedDataParallel
        space.add([losses.multimodal, torch.stack([*losses.unimodal.values()]).sum()], extra=domain_loss)
        decision = space.decide()                    # every .grad is that of the global batch
        optimizer.step()

    * Ranks: losses are shares whose mean over ranks is the global mean. All ranks must call `add` and `decide` alike.
      The first K-1 sheets travel while the last one is differentiated; the decision follows the reduction, on float64
      scalars that are themselves reduced, so it is the same on all ranks to the last bit, and the same as that of one
      process with the whole batch.
    * Accumulation: `add` micro-batches with `last=False` but for the last; nothing is sent before, decided once.
    * Mixed precision: give all losses scaled by the same factor; a non-finite gradient of any objective on any rank
      leaves a non-finite `.grad` on all of them, so a gradient scaler skips the step everywhere. Unscale and clip
      after `decide`, as usual (with gamma as a gain, see `gain`, clipping acts before it).
    * `others` (heads, fusion) get the plain sum; gamma and the weights touch encoders only.
    * `extra` (domain-adversarial) objectives take no part in the decision and are added after it.
    * Buffers (batch norm) are updated by the one forward, once. They are each rank's own: see `follow_first_rank`.
    * Memory: K gradients of the encoders and one of the others (one more of the encoders when `extra` is used), kept
      between steps; `.grad` points into them.
    """

    def __init__(
        self,
        partition: Partition,
        weighting: Weighting | PerTensor,
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
        self._sheets: Sheets | None = None
        self._pending: list[dist.Work] = []
        self._open = False  # an accumulation is under way
        self._reduced = False

    def add(self, losses: Sequence[Tensor], *, extra: Tensor | None = None, last: bool = True) -> None:
        """Add one micro-batch's gradients: one backward pass per objective, the graph is freed.

        A loss that needs no gradient (an absent modality) counts as zero. ConfigError for another number of losses.
        """
        if len(losses) != self.objectives:
            raise ConfigError(f"{len(losses)} losses were given for {self.objectives} objectives")
        sheets = self._begin(extra=extra is not None)
        passes = [*enumerate(losses)] if extra is None else [(self.objectives, extra), *enumerate(losses)]
        live = [k for k, loss in passes if loss.requires_grad]
        for k, loss in passes:
            if k in live:
                sheets.aim(k)
                loss.backward(inputs=self.partition.parameters, retain_graph=k != live[-1])
            if last and k < self.objectives - 1:  # an absent loss, too: it may be present on another rank
                self._send(sheets.sheet(k))
        if last:
            self._finish(sheets)

    @torch.no_grad()
    def decide(self) -> Decision:
        """Weigh each encoder's gradients and leave the result in `.grad`; ConfigError when nothing was added."""
        if self._sheets is None or not self._reduced:
            raise ConfigError("nothing to decide on: add the losses of the (last) micro-batch before")
        self._open = self._reduced = False
        self.decision = decide(self._sheets, self.weighting, self.group)
        self._sheets.aim(0)
        return self.decision

    def _begin(self, *, extra: bool) -> Sheets:
        sheets = self._sheets
        if sheets is None or (extra and not sheets.extra):
            if self._open:
                raise ConfigError("extra objectives must come with every micro-batch of an accumulation, or with none")
            self._sheets = sheets = Sheets(self.partition, self.objectives, extra=extra)
        elif not self._open:
            sheets.zero()
        self._open = True
        return sheets

    def _send(self, part: Tensor) -> None:
        """Start the mean over ranks; scaled before, as DDP does, so that low precision cannot overflow."""
        world = world_size(self.group)
        if world > 1:
            part.div_(world)
            self._pending.append(dist.all_reduce(part, group=self.group, async_op=True))

    def _finish(self, sheets: Sheets) -> None:
        self._send(sheets.last_part)
        for work in self._pending:
            work.wait()
        self._pending.clear()
        self._reduced = True


def decide(sheets: Sheets, weighting: Weighting | PerTensor, group: Group) -> Decision:
    """Gramians, weights, and the combination written over sheet 0; the extra sheet is added unweighted."""
    rows = [sheets.sheet(k) for k in range(sheets.objectives)]
    per_tensor = isinstance(weighting, PerTensor)
    bounds = sheets.bounds(tensors=per_tensor)
    parts = [s for encoder in bounds for s in segments(encoder)]
    gramians = reduced_gramians(rows, parts, group)
    if isinstance(weighting, PerTensor):
        decision, weights = _weigh_tensors(tuple(sheets.partition.encoders), gramians, parts, bounds, weighting)
    else:
        weights = weighting(gramians)
        decision = Decision.of(tuple(sheets.partition.encoders), gramians, weights)
    for part, w in zip(parts, weights.to(rows[0].dtype), strict=True):
        combine([row[part] for row in rows], w)
    if sheets.extra:
        rows[0].add_(sheets.sheet(sheets.objectives))
    return decision


def reduced_gramians(rows: list[Tensor], parts: list[slice], group: Group) -> Float64[Tensor, "S K K"]:
    """The Gramian of each segment; every rank takes the products of its own share, so all sum the same numbers."""
    world, rank = world_size(group), rank_in(group)
    found = []
    for part in parts:
        size = part.stop - part.start
        share = slice(part.start + size * rank // world, part.start + size * (rank + 1) // world)
        found.append(gramian_of([row[share] for row in rows]))
    gramians = torch.stack(found) if found else rows[0].new_zeros(0, len(rows), len(rows), dtype=torch.float64)
    if world > 1:
        dist.all_reduce(gramians, group=group)
    return gramians


def combine(rows: list[Tensor], weights: Float[Tensor, "K"]) -> None:
    """sum_k w_k g_k over row 0, in place; the weights stay on the device."""
    rows[0].mul_(weights[0])
    for row, w in zip(rows[1:], weights[1:], strict=True):
        rows[0].addcmul_(row, w)


def _weigh_tensors(
    encoders: tuple[str, ...],
    gramians: Float64[Tensor, "S K K"],
    parts: list[slice],
    bounds: list[list[int]],
    weighting: PerTensor,
) -> tuple[Decision, Float64[Tensor, "S K"]]:
    sizes = torch.tensor([p.stop - p.start for p in parts], dtype=torch.float64, device=gramians.device)
    whole, weights, mean, norm, aligned, start = [], [], [], [], [], 0
    for encoder in bounds:
        here = slice(start, start + len(encoder) - 1)
        start = here.stop
        tensors = gramians[here]
        whole.append(tensors.sum(0))
        weights.append(weighting.weights(whole[-1], tensors))
        mean.append((weights[-1] * sizes[here, None]).sum(0) / sizes[here].sum())
        norm.append((alignment(tensors, weights[-1]) * weights[-1]).sum().clamp(min=0).sqrt())
        aligned.append(alignment(tensors, weights[-1]).sum(0))
    decision = Decision(
        encoders=encoders,
        gramian=torch.stack(whole),
        weights=torch.stack(mean),
        norm=torch.stack(norm),
        alignment=torch.stack(aligned),
    )
    return decision, torch.cat(weights)
