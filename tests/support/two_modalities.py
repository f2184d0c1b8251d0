"""A two-modality classifier small enough for a test, rows for it, and one step in either space."""

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xmodal.gradients import FeatureSplitter, ParameterSpace, Partition, weighting

CLASSES, WIDTH, INPUTS = 3, 6, {"audio": 5, "video": 7}
ENCODERS = tuple(INPUTS)
MMPARETO = weighting("mmpareto")
Rows = dict[str, Tensor]


class AudioVideo(nn.Module):
    """Encoders, a fusion head over both features, and a head for each modality; `forward` gives all losses' shares.

    Unimodal labels differ from the joint ones, so that gradients conflict. `linear` encoders have one layer.
    """

    def __init__(self, *, norm: type[nn.Module] = nn.LayerNorm, linear: bool = False, seed: int = 0):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.encoders = nn.ModuleDict({name: self._encoder(size, norm, linear) for name, size in INPUTS.items()})
            self.heads = nn.ModuleDict({name: nn.Linear(WIDTH, CLASSES) for name in INPUTS})
            self.fusion = nn.Linear(2 * WIDTH, CLASSES)
        self.splitter: FeatureSplitter | None = None
        self.features: dict[str, Tensor] = {}

    @staticmethod
    def _encoder(size, norm, linear):
        if linear:
            return nn.Linear(size, WIDTH, bias=False)
        return nn.Sequential(nn.Linear(size, 8), norm(8), nn.Tanh(), nn.Linear(8, WIDTH))

    def forward(self, rows: Rows) -> tuple[Tensor, Tensor, Tensor]:
        """The multimodal loss, the sum of the unimodal ones, and the features' mean (for an extra objective)."""
        self.features = {name: encoder(rows[name]) for name, encoder in self.encoders.items()}
        multimodal, unimodal = self.features, self.features
        if self.splitter is not None:
            multimodal, unimodal = self.splitter(self.features)
        joint = F.cross_entropy(self.fusion(torch.cat([*multimodal.values()], 1)).double(), rows["label"])
        alone = [self._alone(name, z, rows) for name, z in unimodal.items()]
        extra = torch.stack([z.double().square().mean() for z in self.features.values()]).sum()
        return joint, torch.stack(alone).sum(), extra

    def _alone(self, name: str, z: Tensor, rows: Rows) -> Tensor:
        labels, here = rows[f"{name}_label"], rows.get(f"{name}_here")
        losses = F.cross_entropy(self.heads[name](z).double(), labels, reduction="none")
        return losses.mean() if here is None else (losses * here).mean()

    @property
    def partition(self) -> Partition:
        return Partition.of(self, self.encoders)


def rows_of(count: int, *, seed: int = 0, dtype: torch.dtype = torch.float64) -> Rows:
    """Random rows; half of the unimodal labels are the next class of the joint one."""
    random = torch.Generator().manual_seed(seed)
    label = torch.randint(0, CLASSES, (count,), generator=random)
    rows = {name: torch.randn(count, size, generator=random).to(dtype) for name, size in INPUTS.items()}
    for name in INPUTS:
        moved = torch.randint(0, 2, (count,), generator=random)
        rows |= {f"{name}_label": (label + moved) % CLASSES}
    return rows | {"label": label}


def part_of(rows: Rows, rank: int, world: int) -> Rows:
    """The rows of one rank."""
    size = len(rows["label"]) // world
    return {name: x[rank * size : (rank + 1) * size] for name, x in rows.items()}


def gradients_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def model_of(**options) -> AudioVideo:
    return AudioVideo(**options).double()


def conflicting_rows(model):
    """Rows at which both encoders' two gradients disagree."""
    for seed in range(500):
        rows = rows_of(8, seed=seed)
        vectors = naive_vectors(model, rows)
        if all(torch.dot(*vectors[n]) < 0 for n in ENCODERS):
            return rows
    raise AssertionError("no conflict found")


def naive_vectors(model, rows):
    """{encoder: [g_m, g_u]} as vectors, by plain autograd."""
    fresh = copy.deepcopy(model)
    fresh.splitter = None
    joint, alone, _ = fresh(rows)
    found = {}
    for name in ENCODERS:
        block = [p for p in fresh.encoders[name].parameters() if p.requires_grad]
        if not block:
            continue
        vectors = []
        for loss in (joint, alone):
            grads = torch.autograd.grad(loss, block, retain_graph=True, materialize_grads=True, allow_unused=True)
            vectors.append(torch.cat([g.flatten() for g in grads]))
        found[name] = vectors
    return found


def encoder_vector(model, name):
    return torch.cat([p.grad.flatten() for p in model.encoders[name].parameters()])


def parameter_step(model, rows, choose=MMPARETO, *, extra=None):
    space = ParameterSpace(model.partition, choose)
    joint, alone, more = model(rows)
    space.add([joint, alone], extra=None if extra is None else extra * more)
    return space.decide()


def feature_step(model, rows, choose=MMPARETO, *, extra=None):
    model.splitter = FeatureSplitter(choose)
    joint, alone, more = model(rows)
    (joint + alone + (0 if extra is None else extra * more)).backward()
    return model.splitter.decision


def uniform_gradients(model, rows, *, extra=0.0):
    fresh = copy.deepcopy(model)
    joint, alone, more = fresh(rows)
    (joint + alone + extra * more).backward()
    return gradients_of(fresh)
