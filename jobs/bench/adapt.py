"""What adaptation costs: a step with a domain loss against the same step without, and agreement over numbers of ranks.

One process, one torch thread, 64 pairs of a source with 64 pictures of a target (protocol `unpaired`: also 64 texts)
at 64 px. The opponent is the same objective on the same rows without any domain loss: what differs is the critic (or
the discrepancy), its backward, and the figures that are logged of it. The methods take turns in every round, and a
ratio is of one round, in CPU seconds. Agreement: the weights after five steps of SGD on two gloo ranks against one
(AdamW divides by the gradient, and shows the rounding of one that is next to nothing as large as any other).
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

from jobs.bench.measurement import Figure, median_figure
from jobs.bench.memory import keep_freed
from xmodal.batch import Batch
from xmodal.encoders.dual_encoder import DualEncoder
from xmodal.training.domain_methods import METHODS, SOURCE, TARGET, TARGET_TEXT, WITH_BANK
from xmodal.training.engine.schedule import CosineSchedule
from xmodal.training.engine.state import TrainState
from xmodal.training.engine.step import train_step
from xmodal.training.objective import ContrastiveObjective
from xmodal.training.objectives.adaptation import AdaptationObjective
from xmodal.training.objectives.alignment_points import Places
from xmodal.training.objectives.domain import DomainLoss
from xmodal.training.objectives.domain_strength import Strength

ROWS, PIXELS, CONTEXT, VOCABULARY, BANK = 64, 64, 32, 2000, 64
ROUNDS, WARM, STEPS = 9, 2, 5
MODELS = ("vit-tiny", "conv-tiny")
SHOWN = {"images": ("image",), "unpaired": ("image", "text")}
SMALL = {"width": 64, "depth": 1, "heads": 2, "text_width": 64, "text_depth": 1, "text_heads": 2, "dim": 64}
REACH = {"dann": 1.1}


def run() -> Iterator[Figure]:
    """Step cost of both models in both protocols, then agreement."""
    keep_freed()
    for architecture in MODELS:
        for protocol in SHOWN:
            yield from costs(architecture, protocol)
    for method in ("dann", "mmd", "cdan"):
        yield agreement(method)


def costs(architecture: str, protocol: str) -> Iterator[Figure]:
    """CPU seconds of the step without a domain loss, and each method's ratio to it."""
    torch.set_num_threads(1)
    batch = rows_of(protocol)
    states = {method: state_of(architecture, method, protocol) for method in ("none", *METHODS)}
    seconds: dict[str, list[float]] = {method: [] for method in states}
    for number in range(WARM + ROUNDS):
        for method, state in states.items():
            start = time.process_time()
            train_step(state, batch)
            if number >= WARM:
                seconds[method].append(time.process_time() - start)
    prefix, where = f"adapt.{architecture}.{protocol}", detail(architecture)
    yield median_figure(seconds["none"], name=f"{prefix}.none", unit="s", at_most=True, detail=where)
    for method in METHODS:
        ratios = [x / base for x, base in zip(seconds[method], seconds["none"], strict=True)]
        name, reach = f"{prefix}.{method}", REACH.get(method)
        yield median_figure(ratios, name=name, unit="x without", reach=reach, at_most=True, detail=where)


def state_of(
    architecture: str, method: str, protocol: str, *, optimizer: str = "adamw", rate: float = 1e-4, **sizes: Any
) -> TrainState:
    """A new model of random weights with its objective; `none` has no domain loss."""
    torch.manual_seed(0)
    ids: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "bos_id": VOCABULARY - 3,
        "eos_id": VOCABULARY - 1,
        "pad_id": VOCABULARY - 2,
    }
    model = DualEncoder.create(architecture, **ids, **sizes)
    bank = None
    if method in WITH_BANK:
        texts = rows_of(protocol, seed=1)[:BANK]
        bank = Batch(texts.row, texts.valid, {name: x for name, x in texts.fields.items() if name.startswith("text")})
    places = () if method == "none" else SHOWN[protocol][: 1 if method in ("mcc", "bnm") else None]
    losses = {place: DomainLoss(method, model.dim, classes=BANK) for place in places}
    contrast = ContrastiveObjective(model, mask_duplicates=True)
    meeting = Places(losses, Strength(peak=1.0, steps=100, schedule="constant"))
    objective = AdaptationObjective(contrast, meeting, bank=bank)
    schedule = CosineSchedule(peak=rate, total_steps=100)
    return TrainState.create(objective, schedule=schedule, seed=0, optimizer=optimizer)


def rows_of(protocol: str, seed: int = 0) -> Batch:
    """Random pairs, then pictures, then (where the protocol has them) texts."""
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


def agreement(method: str) -> Figure:
    """|weights of two ranks - weights of one| / |weights of one| after five steps in float32, critics included."""
    one, two = (weights_after(method, world) for world in (1, 2))
    return Figure(
        name=f"adapt.{method}.ranks_2",
        value=((two - one).norm() / one.norm()).item(),
        unit="relative difference",
        reach=1e-6,
        at_most=True,
        detail=detail("vit-tiny", **SMALL)
        | {"steps": STEPS, "optimizer": "sgd", "rate": 0.05, "backend": "gloo", "protocol": "unpaired"},
    )


def weights_after(method: str, world: int) -> Tensor:
    with tempfile.TemporaryDirectory(prefix="xmodal-bench-") as scratch:
        torch.multiprocessing.spawn(train_rank, (world, method, scratch), nprocs=world)
        return torch.from_numpy(np.load(Path(scratch, "weights.npy")))


def train_rank(rank: int, world: int, method: str, scratch: str) -> None:
    """Five steps on this rank's rows of every role; rank 0 writes all weights."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{scratch}/store", rank=rank, world_size=world)
    state = state_of("vit-tiny", method, "unpaired", optimizer="sgd", rate=0.05, **SMALL)
    for number in range(STEPS):
        train_step(state, share_of(rows_of("unpaired", seed=number), rank, world))
    if rank == 0:
        weights = torch.cat([p.detach().double().flatten() for p in state.objective.parameters()])
        np.save(Path(scratch, "weights.npy"), weights.numpy())
    dist.barrier()
    dist.destroy_process_group()


def share_of(batch: Batch, rank: int, world: int) -> Batch:
    """One rank's rows of every role."""
    sizes = {role: rows // world for role, rows in batch.parts.items()}
    kept = torch.cat([batch.part(role).start + rank * n + torch.arange(n) for role, n in sizes.items()])
    fields = {name: x[kept] for name, x in batch.fields.items()}
    return Batch(batch.row[kept], batch.valid[kept], fields, sizes)


def detail(architecture: str, **sizes: Any) -> dict[str, Any]:
    return {"model": architecture, "rows_of_each_role": ROWS, "pixels": PIXELS, "threads": 1, **sizes}
