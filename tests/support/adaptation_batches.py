"""Test batches of a source and a target domain for a tiny dual encoder, and training states that adapt it."""

import torch

from support.toy_encoder import ToyEncoder, toy_batch
from xmodal.batch import Batch
from xmodal.gradients import FeatureSplitter, weighting
from xmodal.training.domain_methods import PROBABILITY_METHODS, SOURCE, TARGET, TARGET_TEXT
from xmodal.training.engine.schedule import CosineSchedule
from xmodal.training.engine.state import TrainState
from xmodal.training.objectives.adaptation import AdaptationObjective
from xmodal.training.objectives.alignment_points import AlignmentPoints
from xmodal.training.objectives.contrastive import ContrastiveObjective
from xmodal.training.objectives.domain import DomainLoss
from xmodal.training.objectives.domain_strength import StrengthSchedule
from xmodal.training.objectives.label_predictor import LabelPredictor
from xmodal.training.objectives.unlabelled import UnlabelledLosses

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
    """Return source pairs, then target images (brighter by `shift`), then target texts; `masked` rows are not valid."""
    roles = {SOURCE: rows, TARGET: target, TARGET_TEXT: texts}
    batch = toy_batch(sum(roles.values()), seed=seed, masked=masked, captions=12)
    fields = {name: x.clone() for name, x in batch.fields.items()}
    fields["image"][rows:] = (fields["image"][rows:].int() // 2 + shift).clamp(max=255).to(torch.uint8)
    fields["text"][rows : rows + target] = 0  # target rows have no text
    fields["image"][rows + target :] = 0
    fields["label"] = torch.arange(len(batch)) % (CLASSES + 1) - 1  # a quarter of the pairs have no class
    fields["label"][rows:] = 0  # the target has no labels
    if views:
        fields["again"] = fields["image"].flip(1)
        fields["again"][:rows] = 0
    return Batch(batch.row, batch.valid, fields, {name: number for name, number in roles.items() if number})


def rank_rows(batch: Batch, rank: int, world: int) -> Batch:
    """Return one rank's rows of every role."""
    spans = [batch.rows_of(role) for role in batch.role_sizes]
    sizes = [(span.stop - span.start) // world for span in spans]
    rows = torch.cat([span.start + rank * n + torch.arange(n) for span, n in zip(spans, sizes, strict=True)])
    fields = {name: x[rows] for name, x in batch.fields.items()}
    return Batch(batch.row[rows], batch.valid[rows], fields, dict(zip(batch.role_sizes, sizes, strict=True)))


def make_objective(
    method: str = "dann",
    points: tuple[str, ...] = ("image",),
    *,
    strength: float = 1.0,
    schedule: str = "constant",
    critic_steps: int = 1,
    critic_lr_scale: float = 1.0,
    unlabelled: UnlabelledLosses | None = None,
    dtype: torch.dtype = torch.float64,
    dropout: float = 0.0,
    label: float | None = None,
    balance: str | None = None,
    **options,
) -> AdaptationObjective:
    contrast = ContrastiveObjective(ToyEncoder(dropout=dropout), mask_duplicates=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        losses = {point: DomainLoss(method, DIM, hidden=(16,), classes=6, **options) for point in points}
    rows = toy_batch(6, seed=99)
    bank = Batch(rows.row, rows.valid, {"text": rows.fields["text"]}) if method in PROBABILITY_METHODS else None
    strengths = StrengthSchedule(peak=strength, steps=STEPS, schedule=schedule)
    alignment_points = AlignmentPoints(losses, strengths, critic_steps=critic_steps, critic_lr_scale=critic_lr_scale)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        head = None if label is None else LabelPredictor("image", DIM, CLASSES, weight=label)
    splitter = None if balance is None else FeatureSplitter(weighting(balance))
    return AdaptationObjective(
        contrast, alignment_points, unlabelled=unlabelled, bank=bank, label=head, splitter=splitter
    ).to(dtype)


def make_state(*arguments, rows_per_forward: int | None = None, **options) -> TrainState:
    objective = make_objective(*arguments, **options)
    return TrainState.create(objective, schedule=SCHEDULE, seed=3, rows_per_forward=rows_per_forward)


def weights(state: TrainState) -> dict[str, torch.Tensor]:
    return {name: x.detach().clone() for name, x in state.objective.state_dict().items()}
