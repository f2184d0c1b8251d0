"""A small multimodal classifier, and batches of clips for it: sound as a spectrogram, and frames."""

import torch

from xmodal.batch import Batch
from xmodal.encoders.av_inputs import Frames, Spectrogram
from xmodal.encoders.multimodal_classifier import Encoder, MultimodalClassifier
from xmodal.encoders.small_resnet import ConvConfig, ConvModel
from xmodal.training.balance_options import Balance
from xmodal.training.balanced_learning import balanced
from xmodal.training.domain_methods import JOINT, SOURCE, TARGET
from xmodal.training.engine.schedule import CosineSchedule
from xmodal.training.engine.state import TrainState
from xmodal.training.objectives.alignment_points import Places
from xmodal.training.objectives.domain import DomainLoss
from xmodal.training.objectives.domain_strength import Strength

BANDS, LENGTH, FRAMES, SIDE, CLASSES = 16, 24, 3, 16, 5


def classifier(fusion: str = "concatenation", *, seed: int = 0, dim: int = 16) -> MultimodalClassifier:
    """Two tiny convolutional encoders, of other widths."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        sound = ConvConfig(hidden_sizes=[8, 16], depths=[1, 1], stem_size=8, group_size=4, num_channels=1)
        sight = ConvConfig(hidden_sizes=[8, 12], depths=[1, 1], stem_size=8, group_size=4)
        encoders = {
            "audio": Encoder(Spectrogram("audio", bands=BANDS, frames=LENGTH), ConvModel(sound)),
            "video": Encoder(Frames("video", size=SIDE, frames=FRAMES), ConvModel(sight)),
        }
        return MultimodalClassifier(encoders, classes=CLASSES, fusion_name=fusion, dim=dim)


def clip_batch(rows: int, *, seed: int = 0, masked: tuple[int, ...] = (), unlabelled: tuple[int, ...] = ()) -> Batch:
    """Random clips; `masked` rows are invalid, `unlabelled` ones have no class, row 1 has no sound, row 2 one frame."""
    draw = torch.Generator().manual_seed(seed)
    label = torch.randint(0, CLASSES, (rows,), generator=draw)
    label[list(unlabelled)] = -1
    valid = torch.ones(rows, dtype=torch.bool)
    valid[list(masked)] = False
    length = torch.full((rows,), LENGTH, dtype=torch.int32)
    mask = torch.ones(rows, FRAMES, dtype=torch.bool)
    length[1], mask[2, 1:] = 0, False
    fields = {
        "audio": torch.randn(rows, LENGTH, BANDS, generator=draw),
        "audio_length": length,
        "video": torch.randint(0, 256, (rows, FRAMES, SIDE, SIDE, 3), generator=draw, dtype=torch.uint8),
        "video_mask": mask,
        "label": label,
    }
    return Batch(torch.arange(rows), valid, fields)


def two_domains(rows: int = 8, *, seed: int = 0, masked: tuple[int, ...] = ()) -> Batch:
    """As many clips of a target behind those of the source: louder, darker, and with zeros for a label."""
    batch = clip_batch(2 * rows, seed=seed, masked=masked)
    fields = {name: x.clone() for name, x in batch.fields.items()}
    fields["audio"][rows:] += 1.0
    fields["video"][rows:] //= 2
    fields["label"][rows:] = 0  # a column that these rows lack
    return Batch(batch.row, batch.valid, fields, {SOURCE: rows, TARGET: rows})


def adapting(
    space: str = "features",
    method: str = "dann",
    places: tuple[str, ...] = ("audio", "video"),
    *,
    rule: str = "mmpareto",
    strength: float = 1.0,
    critic_steps: int = 1,
    schedule: str = "constant",
    **options,
) -> TrainState:
    """A state whose classifier meets a target at `places`."""
    model = classifier()
    widths = {name: model.encoder(name).width for name in model.modalities} | {JOINT: model.fusion.dim}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        losses = {place: DomainLoss(method, widths[place], hidden=(16,), classes=CLASSES) for place in places}
    meeting = Places(losses, Strength(peak=strength, steps=10, schedule=schedule), critic_steps=critic_steps)
    objective, weighed = balanced(Balance(method=rule, space=space), model, meeting)
    rate = CosineSchedule(peak=1e-2, total_steps=100, warmup_steps=3)
    options = {"optimizer": "sgd", "momentum": 0.9, "max_grad_norm": None, **options}
    return TrainState.create(objective, schedule=rate, seed=3, space=weighed, **options)
