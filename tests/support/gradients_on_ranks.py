"""What one rank does in the tests of gradient decisions across ranks; importable without pytest."""

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from support.two_modalities import AudioVideo, Rows, gradients_of, part_of, rows_of
from xmodal.distributed.rank_consistency import RanksDiverged
from xmodal.distributed.ranks import rank_in, world_size
from xmodal.gradients import FeatureSplitter, ParameterSpace, audit, check_synchronised, follow_first_rank, weighting

ROWS, STEPS = 24, 5


CASES = [
    (space, name, optimizer, dtype)
    for space in ("features", "parameters")
    for name, optimizer, dtype in [
        ("mmpareto", "sgd", torch.float32),
        ("mmpareto", "sgd", torch.float64),
        ("mmpareto_continuous", "adamw", torch.float32),
        ("upgrad", "sgd", torch.float32),
    ]
] + [("parameters", "mmpareto_per_tensor", "sgd", torch.float64)]


def train_all() -> list[dict[str, Tensor]]:
    """`train` of each of CASES, in one process per rank."""
    return [train(*case) for case in CASES]


def train(space: str, name: str, optimizer: str, dtype: torch.dtype, wrapped: bool = False) -> dict[str, Tensor]:
    """Weights after five steps, and the figures of every decision."""
    model = AudioVideo().to(dtype)
    step = FeatureStep(model, name) if space == "features" else ParameterStep(model, name, wrapped)
    kinds = {
        "sgd": lambda p: torch.optim.SGD(p, lr=0.2, momentum=0.9),
        "adamw": lambda p: torch.optim.AdamW(p, lr=0.01),
    }
    moved = kinds[optimizer](model.parameters())
    seen = []
    for number in range(STEPS):
        seen.append(step(part_of(rows_of(ROWS, seed=number, dtype=dtype), rank_in(), world_size())))
        check_synchronised(model, number)
        moved.step()
        moved.zero_grad()
    conflicts = torch.stack([torch.stack([f["audio/conflict"], f["video/conflict"]]) for f in seen])
    weights = torch.stack([torch.stack([x for n, x in f.items() if "weight" in n]) for f in seen])
    return {"conflicts": conflicts, "decided": weights} | {n: p.detach().clone() for n, p in model.named_parameters()}


class FeatureStep:
    """One ordinary backward under plain DDP."""

    def __init__(self, model: AudioVideo, name: str) -> None:
        self.model = model
        model.splitter = FeatureSplitter(weighting(name), group=dist.new_group())
        self.ddp = DistributedDataParallel(model, gradient_as_bucket_view=True)

    def __call__(self, rows: Rows) -> dict[str, Tensor]:
        joint, alone, _ = self.ddp(rows)
        (joint + alone).backward()
        return self.model.splitter.decision.figures()


class ParameterStep:
    """The bare module; with `wrapped`, DDP has its hooks on the same parameters, and has been used before."""

    def __init__(self, model: AudioVideo, name: str, wrapped: bool) -> None:
        self.model = model
        self.space = ParameterSpace(model.partition, weighting(name))
        if wrapped:
            ddp = DistributedDataParallel(model, gradient_as_bucket_view=True)
            sum(ddp(part_of(rows_of(ROWS), rank_in(), world_size()))[:2]).backward()
            model.zero_grad()

    def __call__(self, rows: Rows) -> dict[str, Tensor]:
        joint, alone, _ = self.model(rows)
        self.space.add([joint, alone])
        return self.space.decide().figures()


def decide_once(space: str, name: str, extra: float, missing: int | None) -> dict[str, Tensor]:
    """Gradients of one step with an extra objective; on rank `missing` every row lacks its video."""
    model = AudioVideo().double()
    rows = part_of(rows_of(ROWS, seed=3), rank_in(), world_size())
    if missing is not None:
        here = torch.ones(ROWS, dtype=torch.float64)
        here[missing * ROWS // 4 :][: ROWS // 4] = 0
        rows["video_here"] = part_of({"label": here}, rank_in(), world_size())["label"]
    if space == "features":
        model.splitter = FeatureSplitter(weighting(name))
        ddp = DistributedDataParallel(model)
        joint, alone, more = ddp(rows)
        (joint + alone + extra * more).backward()
        return gradients_of(model) | {"decided": model.splitter.decision.weights}
    parameters = ParameterSpace(model.partition, weighting(name))
    joint, alone, more = model(rows)
    parameters.add([joint, alone], extra=extra * more)
    return gradients_of(model) | {"decided": parameters.decide().weights} | gradients_of(model)


def audit_under_ddp() -> dict[str, Tensor]:
    """The audit between DDP's forward and its backward, and the gradients that the backward then leaves."""
    model = AudioVideo().double()
    model.splitter = FeatureSplitter(weighting("mmpareto"))
    rows = part_of(rows_of(ROWS, seed=3), rank_in(), world_size())
    ddp = DistributedDataParallel(model, gradient_as_bucket_view=True)
    joint, alone, _ = ddp(rows)
    found = audit([joint, alone], model.features, model.partition, weighting("mmpareto"), splitter=model.splitter)
    (joint + alone).backward()
    check_synchronised(model, 0)
    return found.figures() | gradients_of(model)


KINDS = ("synchronised", "second backward", "autograd.grad", "never wrapped", "wrapper lost", "one rank has none")


def forgotten() -> dict[str, str]:
    """The guard's message after backwards of which DDP has seen less than all, or everything."""
    return {kind: _guarded(kind) for kind in KINDS}


def _guarded(kind: str) -> str:
    model = AudioVideo().double()
    rows = part_of(rows_of(ROWS, seed=3), rank_in(), world_size())
    ddp = model if kind == "never wrapped" else DistributedDataParallel(model)
    joint, alone, _ = ddp(rows)
    if kind == "wrapper lost":
        del ddp
    if kind == "autograd.grad":
        for p, g in zip(model.parameters(), torch.autograd.grad(joint + alone, list(model.parameters())), strict=True):
            p.grad = g
    else:
        (joint + alone).backward(retain_graph=True)
    if kind == "second backward":
        joint.backward()
    if kind == "one rank has none" and rank_in() == 1:
        model.fusion.bias.grad = None
    try:
        check_synchronised(model, 7)
    except RanksDiverged as error:
        return str(error)
    return "passed"


def buffers_follow() -> list[float]:
    module = nn.BatchNorm1d(2)
    module.running_mean.fill_(float(rank_in() + 1))
    follow_first_rank(module)
    return module.running_mean.tolist()
