"""A two-modality classifier small enough for a test, rows for it, and one step in either gradient space."""

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
    """Encoders, a fusion head over both features, and a head for each modality; `forward` returns all losses.

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
        """Return the multimodal loss, the sum of the unimodal ones, and the features' mean (for an extra objective)."""
        self.features = {name: encoder(rows[name]) for name, encoder in self.encoders.items()}
        multimodal, unimodal = self.features, self.features
        if self.splitter is not None:
            multimodal, unimodal = self.splitter(self.features)
        multimodal_loss = F.cross_entropy(self.fusion(torch.cat([*multimodal.values()], 1)).double(), rows["label"])
        unimodal_losses = [self._unimodal_loss(name, z, rows) for name, z in unimodal.items()]
        extra = torch.stack([z.double().square().mean() for z in self.features.values()]).sum()
        return multimodal_loss, torch.stack(unimodal_losses).sum(), extra

    def _unimodal_loss(self, name: str, z: Tensor, rows: Rows) -> Tensor:
        labels, present = rows[f"{name}_label"], rows.get(f"{name}_here")
        losses = F.cross_entropy(self.heads[name](z).double(), labels, reduction="none")
        return losses.mean() if present is None else (losses * present).mean()

    @property
    def partition(self) -> Partition:
        return Partition.from_module(self, self.encoders)


def rows_of(count: int, *, seed: int = 0, dtype: torch.dtype = torch.float64) -> Rows:
    """Return random rows; half of the unimodal labels are the next class of the joint one."""
    random = torch.Generator().manual_seed(seed)
    label = torch.randint(0, CLASSES, (count,), generator=random)
    rows = {name: torch.randn(count, size, generator=random).to(dtype) for name, size in INPUTS.items()}
    for name in INPUTS:
        shift = torch.randint(0, 2, (count,), generator=random)
        rows |= {f"{name}_label": (label + shift) % CLASSES}
    return rows | {"label": label}


def part_of(rows: Rows, rank: int, world: int) -> Rows:
    """Return the rows of one rank."""
    size = len(rows["label"]) // world
    return {name: x[rank * size : (rank + 1) * size] for name, x in rows.items()}


def gradients_of(model: nn.Module) -> dict[str, Tensor]:
    """Return a copy of every gradient by parameter name."""
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def model_of(**options) -> AudioVideo:
    """Return a float64 model."""
    return AudioVideo(**options).double()


def conflicting_rows(model):
    """Return rows at which both encoders' two gradients conflict."""
    for seed in range(500):
        rows = rows_of(8, seed=seed)
        vectors = naive_vectors(model, rows)
        if all(torch.dot(*vectors[n]) < 0 for n in ENCODERS):
            return rows
    raise AssertionError("no conflict found")


def naive_vectors(model, rows):
    """Return {encoder: [g_m, g_u]} as vectors, by plain autograd."""
    fresh = copy.deepcopy(model)
    fresh.splitter = None
    multimodal, unimodal, _ = fresh(rows)
    vectors_by_encoder = {}
    for name in ENCODERS:
        block = [p for p in fresh.encoders[name].parameters() if p.requires_grad]
        if not block:
            continue
        vectors = []
        for loss in (multimodal, unimodal):
            grads = torch.autograd.grad(loss, block, retain_graph=True, materialize_grads=True, allow_unused=True)
            vectors.append(torch.cat([g.flatten() for g in grads]))
        vectors_by_encoder[name] = vectors
    return vectors_by_encoder


def encoder_vector(model, name):
    """Return the gradient of an encoder as one vector."""
    return torch.cat([p.grad.flatten() for p in model.encoders[name].parameters()])


def parameter_step(model, rows, choose=MMPARETO, *, extra=None):
    """Run one step in parameter space and return its decision."""
    space = ParameterSpace(model.partition, choose)
    multimodal, unimodal, extra_loss = model(rows)
    space.add([multimodal, unimodal], extra=None if extra is None else extra * extra_loss)
    return space.decide()


def feature_step(model, rows, choose=MMPARETO, *, extra=None):
    """Run one step in feature space and return its decision."""
    model.splitter = FeatureSplitter(choose)
    multimodal, unimodal, extra_loss = model(rows)
    (multimodal + unimodal + (0 if extra is None else extra * extra_loss)).backward()
    return model.splitter.decision


def uniform_gradients(model, rows, *, extra=0.0):
    """Return the gradients of the sum of all losses, by plain autograd."""
    fresh = copy.deepcopy(model)
    multimodal, unimodal, extra_loss = fresh(rows)
    (multimodal + unimodal + extra * extra_loss).backward()
    return gradients_of(fresh)
