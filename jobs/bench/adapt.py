"""What adaptation costs: a step with a domain loss against the same step without, and agreement over numbers of ranks.

One process, one torch thread, 64 pairs of a source with 64 images of a target (protocol `unpaired`: also 64 texts) at
64 px. The opponent is the same objective on the same rows without any domain loss: the difference is the critic (or the
discrepancy), its backward, and its metrics. The methods take turns in every round, and a ratio is of one round, in CPU
seconds. Agreement: the weights after five steps of SGD on two gloo ranks against one (AdamW divides by the gradient,
and shows the rounding of a tiny gradient as large as any other).
"""

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing
from torch import Tensor

from jobs.bench.measurement import Measurement, median_measurement
from jobs.bench.memory import keep_freed_memory
from xmodal.batch import Batch
from xmodal.encoders.dual_encoder import DualEncoder
from xmodal.training.domain_methods import DOMAIN_METHODS, PROBABILITY_METHODS, SOURCE, TARGET, TARGET_TEXT
from xmodal.training.engine.schedule import CosineSchedule
from xmodal.training.engine.state import TrainState
from xmodal.training.engine.step import train_step
from xmodal.training.objectives.adaptation import AdaptationObjective
from xmodal.training.objectives.alignment_points import AlignmentPoints
from xmodal.training.objectives.contrastive import ContrastiveObjective
from xmodal.training.objectives.domain import DomainLoss
from xmodal.training.objectives.domain_strength import StrengthSchedule

ROWS, PIXELS, CONTEXT, VOCABULARY, BANK = 64, 64, 32, 2000, 64
ROUNDS, WARM, STEPS = 9, 2, 5
MODELS = ("vit-tiny", "conv-tiny")
ALIGNED_MODALITIES = {"images": ("image",), "unpaired": ("image", "text")}
SMALL = {"width": 64, "depth": 1, "heads": 2, "text_width": 64, "text_depth": 1, "text_heads": 2, "dim": 64}
TARGETS = {"dann": 1.1}


def run() -> Iterator[Measurement]:
    """Yield the step cost of both models in both protocols, then agreement."""
    keep_freed_memory()
    for architecture in MODELS:
        for protocol in ALIGNED_MODALITIES:
            yield from costs(architecture, protocol)
    for method in ("dann", "mmd", "cdan"):
        yield rank_agreement(method)


def costs(architecture: str, protocol: str) -> Iterator[Measurement]:
    """Yield CPU seconds of the step without a domain loss, and each method's ratio to it."""
    torch.set_num_threads(1)
    batch = random_rows(protocol)
    states = {method: build_state(architecture, method, protocol) for method in ("none", *DOMAIN_METHODS)}
    seconds: dict[str, list[float]] = {method: [] for method in states}
    for number in range(WARM + ROUNDS):
        for method, state in states.items():
            start = time.process_time()
            train_step(state, batch)
            if number >= WARM:
                seconds[method].append(time.process_time() - start)
    prefix, details = f"adapt.{architecture}.{protocol}", detail(architecture)
    yield median_measurement(seconds["none"], name=f"{prefix}.none", unit="s", lower_is_better=True, detail=details)
    for method in DOMAIN_METHODS:
        ratios = [x / base for x, base in zip(seconds[method], seconds["none"], strict=True)]
        name, target = f"{prefix}.{method}", TARGETS.get(method)
        yield median_measurement(
            ratios, name=name, unit="x without", target=target, lower_is_better=True, detail=details
        )


def build_state(
    architecture: str, method: str, protocol: str, *, optimizer: str = "adamw", rate: float = 1e-4, **sizes: Any
) -> TrainState:
    """Return a new model of random weights with its objective; method `none` has no domain loss."""
    torch.manual_seed(0)
    ids: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "bos_id": VOCABULARY - 3,
        "eos_id": VOCABULARY - 1,
        "pad_id": VOCABULARY - 2,
    }
    model = DualEncoder.create(architecture, **ids, **sizes)
    bank = None
    if method in PROBABILITY_METHODS:
        texts = random_rows(protocol, seed=1)[:BANK]
        bank = Batch(texts.row, texts.valid, {name: x for name, x in texts.fields.items() if name.startswith("text")})
    modalities = () if method == "none" else ALIGNED_MODALITIES[protocol][: 1 if method in ("mcc", "bnm") else None]
    losses = {modality: DomainLoss(method, model.dim, classes=BANK) for modality in modalities}
    contrastive = ContrastiveObjective(model, mask_duplicates=True)
    alignment = AlignmentPoints(losses, StrengthSchedule(peak=1.0, steps=100, schedule="constant"))
    objective = AdaptationObjective(contrastive, alignment, bank=bank)
    schedule = CosineSchedule(peak=rate, total_steps=100)
    return TrainState.create(objective, schedule=schedule, seed=0, optimizer=optimizer)


def random_rows(protocol: str, seed: int = 0) -> Batch:
    """Return random pairs, then images, then (where the protocol has them) texts."""
    parts = {SOURCE: ROWS, TARGET: ROWS} | ({TARGET_TEXT: ROWS} if protocol == "unpaired" else {})
    rows, random = sum(parts.values()), torch.Generator().manual_seed(seed)
    text = torch.randint(0, VOCABULARY - 3, (rows, CONTEXT), generator=random, dtype=torch.int32)
    text[:, -1] = VOCABULARY - 1
    fields = {
        "image": torch.randint(0, 256, (rows, PIXELS, PIXELS, 3), generator=random, dtype=torch.uint8),
        "text": text,
        "text_length": torch.full((rows,), CONTEXT, dtype=torch.int32),
        "text_id": torch.randint(0, 10**12, (rows,), generator=random),
    }
    return Batch(torch.arange(rows), torch.ones(rows, dtype=torch.bool), fields, parts)


def rank_agreement(method: str) -> Measurement:
    """Measure |weights of two ranks - weights of one| / |weights of one| after five float32 steps, critics included."""
    one_rank, two_ranks = (train_weights(method, world) for world in (1, 2))
    return Measurement(
        name=f"adapt.{method}.ranks_2",
        value=((two_ranks - one_rank).norm() / one_rank.norm()).item(),
        unit="relative difference",
        target=1e-6,
        lower_is_better=True,
        detail=detail("vit-tiny", **SMALL)
        | {"steps": STEPS, "optimizer": "sgd", "rate": 0.05, "backend": "gloo", "protocol": "unpaired"},
    )


def train_weights(method: str, world: int) -> Tensor:
    """Return all weights after five steps on `world` ranks."""
    with tempfile.TemporaryDirectory(prefix="xmodal-bench-") as scratch:
        torch.multiprocessing.spawn(train_rank, (world, method, scratch), nprocs=world)
        return torch.from_numpy(np.load(Path(scratch, "weights.npy")))


def train_rank(rank: int, world: int, method: str, scratch: str) -> None:
    """Take five steps on this rank's rows of every role; rank 0 writes all weights."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{scratch}/store", rank=rank, world_size=world)
    state = build_state("vit-tiny", method, "unpaired", optimizer="sgd", rate=0.05, **SMALL)
    for number in range(STEPS):
        train_step(state, rows_of_rank(random_rows("unpaired", seed=number), rank, world))
    if rank == 0:
        weights = torch.cat([p.detach().double().flatten() for p in state.objective.parameters()])
        np.save(Path(scratch, "weights.npy"), weights.numpy())
    dist.barrier()
    dist.destroy_process_group()


def rows_of_rank(batch: Batch, rank: int, world: int) -> Batch:
    """Return one rank's rows of every role."""
    sizes = {role: rows // world for role, rows in batch.role_sizes.items()}
    rows = torch.cat([batch.rows_of(role).start + rank * n + torch.arange(n) for role, n in sizes.items()])
    fields = {name: x[rows] for name, x in batch.fields.items()}
    return Batch(batch.row[rows], batch.valid[rows], fields, sizes)


def detail(architecture: str, **sizes: Any) -> dict[str, Any]:
    """Return the details of a measurement of this model."""
    return {"model": architecture, "rows_of_each_role": ROWS, "pixels": PIXELS, "threads": 1, **sizes}
