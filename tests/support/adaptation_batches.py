"""Batches of a source and a target for a tiny dual encoder, and a state that adapts it."""

import torch

from support.toy_encoder import ToyEncoder, toy_batch
from xmodal.batch import Batch
from xmodal.gradients import FeatureSplitter, weighting
from xmodal.training.domain_methods import SOURCE, TARGET, TARGET_TEXT, WITH_BANK
from xmodal.training.engine.schedule import CosineSchedule
from xmodal.training.engine.state import TrainState
from xmodal.training.objective import ContrastiveObjective
from xmodal.training.objectives.adaptation import AdaptationObjective
from xmodal.training.objectives.alignment_points import Places
from xmodal.training.objectives.domain import DomainLoss
from xmodal.training.objectives.domain_strength import Strength
from xmodal.training.objectives.label_predictor import LabelPredictor
from xmodal.training.objectives.unlabelled import Unlabelled

STEPS, DIM, CLASSES = 10, 8, 3
SCHEDULE = CosineSchedule(peak=1e-2, total_steps=STEPS, warmup_steps=2)


def both_domains(
    *,
    rows: int = 8,
    target: int = 8,
    texts: int = 0,
    seed: int = 0,
    masked: tuple[int, ...] = (),
    shift: int = 0,
    views: bool = False,
) -> Batch:
    """Source pairs, then pictures of a target (brighter by `shift`), then texts of it; `masked` rows are not valid."""
    roles = {SOURCE: rows, TARGET: target, TARGET_TEXT: texts}
    batch = toy_batch(sum(roles.values()), seed=seed, masked=masked, captions=12)
    fields = {name: x.clone() for name, x in batch.fields.items()}
    fields["image"][rows:] = (fields["image"][rows:].int() // 2 + shift).clamp(max=255).to(torch.uint8)
    fields["text"][rows : rows + target] = 0  # a column that these rows lack
    fields["image"][rows + target :] = 0
    fields["label"] = torch.arange(len(batch)) % (CLASSES + 1) - 1  # a quarter of the pairs has no class
    fields["label"][rows:] = 0  # a column that the target lacks
    if views:
        fields["again"] = fields["image"].flip(1)
        fields["again"][:rows] = 0
    return Batch(batch.row, batch.valid, fields, {name: number for name, number in roles.items() if number})


def share_of(batch: Batch, rank: int, world: int) -> Batch:
    """One rank's rows of every role."""
    spans = [batch.part(role) for role in batch.parts]
    sizes = [(span.stop - span.start) // world for span in spans]
    kept = torch.cat([span.start + rank * n + torch.arange(n) for span, n in zip(spans, sizes, strict=True)])
    fields = {name: x[kept] for name, x in batch.fields.items()}
    return Batch(batch.row[kept], batch.valid[kept], fields, dict(zip(batch.parts, sizes, strict=True)))


def objective_of(
    method: str = "dann",
    places: tuple[str, ...] = ("image",),
    *,
    strength: float = 1.0,
    schedule: str = "constant",
    critic_steps: int = 1,
    critic_gain: float = 1.0,
    unlabelled: Unlabelled | None = None,
    dtype: torch.dtype = torch.float64,
    dropout: float = 0.0,
    label: float | None = None,
    rule: str | None = None,
    **options,
) -> AdaptationObjective:
    contrast = ContrastiveObjective(ToyEncoder(dropout=dropout), mask_duplicates=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        losses = {place: DomainLoss(method, DIM, hidden=(16,), classes=6, **options) for place in places}
    rows = toy_batch(6, seed=99)
    bank = Batch(rows.row, rows.valid, {"text": rows.fields["text"]}) if method in WITH_BANK else None
    steps = Strength(peak=strength, steps=STEPS, schedule=schedule)
    meeting = Places(losses, steps, critic_steps=critic_steps, critic_gain=critic_gain)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        head = None if label is None else LabelPredictor("image", DIM, CLASSES, weight=label)
    splitter = None if rule is None else FeatureSplitter(weighting(rule))
    return AdaptationObjective(contrast, meeting, unlabelled=unlabelled, bank=bank, label=head, splitter=splitter).to(
        dtype
    )


def state_of(*arguments, rows_per_forward: int | None = None, **options) -> TrainState:
    objective = objective_of(*arguments, **options)
    return TrainState.create(objective, schedule=SCHEDULE, seed=3, rows_per_forward=rows_per_forward)


def weights(state: TrainState) -> dict[str, torch.Tensor]:
    return {name: x.detach().clone() for name, x in state.objective.state_dict().items()}
