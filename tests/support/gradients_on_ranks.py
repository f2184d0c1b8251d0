"""The work of one rank in the tests of gradient decisions across ranks; importable without pytest."""

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from support.two_modalities import AudioVideo, Rows, gradients_of, part_of, rows_of
from xmodal.distributed.rank_consistency import RanksDiverged
from xmodal.distributed.ranks import current_rank, world_size
from xmodal.distributed.synchrony import broadcast_buffers, check_synchronised
from xmodal.gradients import Auditor, FeatureSplitter, ParameterSpace, weighting

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
    """Run `train` for each of CASES, in one process per rank."""
    return [train(*case) for case in CASES]


def train(space: str, name: str, optimizer: str, dtype: torch.dtype, wrapped: bool = False) -> dict[str, Tensor]:
    """Return the weights after five steps, and conflicts and weights of every decision."""
    model = AudioVideo().to(dtype)
    step = FeatureStep(model, name) if space == "features" else ParameterStep(model, name, wrapped)
    optimizers = {
        "sgd": lambda p: torch.optim.SGD(p, lr=0.2, momentum=0.9),
        "adamw": lambda p: torch.optim.AdamW(p, lr=0.01),
    }
    instance = optimizers[optimizer](model.parameters())
    metrics = []
    for number in range(STEPS):
        metrics.append(step(part_of(rows_of(ROWS, seed=number, dtype=dtype), current_rank(), world_size())))
        check_synchronised(model, number)
        instance.step()
        instance.zero_grad()
    conflicts = torch.stack([torch.stack([f["audio/conflict"], f["video/conflict"]]) for f in metrics])
    weights = torch.stack([torch.stack([x for n, x in f.items() if "weight" in n]) for f in metrics])
    return {"conflicts": conflicts, "weights": weights} | {n: p.detach().clone() for n, p in model.named_parameters()}


class FeatureStep:
    """A step in feature space: one ordinary backward under plain DDP."""

    def __init__(self, model: AudioVideo, name: str) -> None:
        self.model = model
        model.splitter = FeatureSplitter(weighting(name), group=dist.new_group())
        self.ddp = DistributedDataParallel(model, gradient_as_bucket_view=True)

    def __call__(self, rows: Rows) -> dict[str, Tensor]:
        multimodal, unimodal, _ = self.ddp(rows)
        (multimodal + unimodal).backward()
        return self.model.splitter.decision.metrics()


class ParameterStep:
    """A step in parameter space on the bare module; with `wrapped` the parameters also have DDP's hooks."""

    def __init__(self, model: AudioVideo, name: str, wrapped: bool) -> None:
        self.model = model
        self.space = ParameterSpace(model.partition, weighting(name))
        if wrapped:
            ddp = DistributedDataParallel(model, gradient_as_bucket_view=True)
            sum(ddp(part_of(rows_of(ROWS), current_rank(), world_size()))[:2]).backward()
            model.zero_grad()

    def __call__(self, rows: Rows) -> dict[str, Tensor]:
        multimodal, unimodal, _ = self.model(rows)
        self.space.add([multimodal, unimodal])
        return self.space.decide().metrics()


def decide_once(space: str, name: str, extra: float, missing: int | None) -> dict[str, Tensor]:
    """Return the gradients of one step with an extra objective; on rank `missing` every row lacks its video."""
    model = AudioVideo().double()
    rows = part_of(rows_of(ROWS, seed=3), current_rank(), world_size())
    if missing is not None:
        present = torch.ones(ROWS, dtype=torch.float64)
        present[missing * ROWS // 4 :][: ROWS // 4] = 0
        rows["video_here"] = part_of({"label": present}, current_rank(), world_size())["label"]
    if space == "features":
        model.splitter = FeatureSplitter(weighting(name))
        ddp = DistributedDataParallel(model)
        multimodal, unimodal, extra_loss = ddp(rows)
        (multimodal + unimodal + extra * extra_loss).backward()
        return gradients_of(model) | {"weights": model.splitter.decision.weights}
    parameters = ParameterSpace(model.partition, weighting(name))
    multimodal, unimodal, extra_loss = model(rows)
    parameters.add([multimodal, unimodal], extra=extra * extra_loss)
    return gradients_of(model) | {"weights": parameters.decide().weights} | gradients_of(model)


def audit_under_ddp() -> dict[str, Tensor]:
    """Run an audit between DDP's forward and backward; return it with the gradients that the backward leaves."""
    model = AudioVideo().double()
    model.splitter = FeatureSplitter(weighting("mmpareto"))
    rows = part_of(rows_of(ROWS, seed=3), current_rank(), world_size())
    ddp = DistributedDataParallel(model, gradient_as_bucket_view=True)
    multimodal, unimodal, _ = ddp(rows)
    auditor = Auditor(model.partition, weighting("mmpareto"), splitter=model.splitter)
    auditor.add([multimodal, unimodal], model.features)
    result = auditor.result()
    (multimodal + unimodal).backward()
    check_synchronised(model, 0)
    return result.metrics() | gradients_of(model)


KINDS = ("synchronised", "second backward", "autograd.grad", "never wrapped", "wrapper lost", "one rank has none")


def check_messages() -> dict[str, str]:
    """Return the message of the synchrony check after backwards that DDP has seen in part, not at all, or fully."""
    return {kind: _check_message(kind) for kind in KINDS}


def _check_message(kind: str) -> str:
    """Run a backward of the given kind and return what `check_synchronised` says."""
    model = AudioVideo().double()
    rows = part_of(rows_of(ROWS, seed=3), current_rank(), world_size())
    ddp = model if kind == "never wrapped" else DistributedDataParallel(model)
    multimodal, unimodal, _ = ddp(rows)
    if kind == "wrapper lost":
        del ddp
    if kind == "autograd.grad":
        for p, g in zip(
            model.parameters(), torch.autograd.grad(multimodal + unimodal, list(model.parameters())), strict=True
        ):
            p.grad = g
    else:
        (multimodal + unimodal).backward(retain_graph=True)
    if kind == "second backward":
        multimodal.backward()
    if kind == "one rank has none" and current_rank() == 1:
        model.fusion.bias.grad = None
    try:
        check_synchronised(model, 7)
    except RanksDiverged as error:
        return str(error)
    return "passed"


def buffers_after_broadcast() -> list[float]:
    """Return the running mean after the first rank's has been broadcast."""
    module = nn.BatchNorm1d(2)
    module.running_mean.fill_(float(current_rank() + 1))
    broadcast_buffers(module)
    return module.running_mean.tolist()
