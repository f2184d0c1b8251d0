"""A small multimodal classifier, and batches of clips for it: audio as a spectrogram, and frames."""

import torch

from xmodal.batch import Batch
from xmodal.encoders.av_inputs import AudioInput, VideoInput
from xmodal.encoders.multimodal_classifier import ModalityEncoder, MultimodalClassifier
from xmodal.encoders.small_resnet import ConvConfig, ConvModel
from xmodal.training.balance_options import GradientBalance
from xmodal.training.balanced_learning import build_objective
from xmodal.training.domain_methods import JOINT, SOURCE, TARGET
from xmodal.training.engine.schedule import CosineSchedule
from xmodal.training.engine.state import TrainState
from xmodal.training.objectives.alignment_points import AlignmentPoints
from xmodal.training.objectives.domain import DomainLoss
from xmodal.training.objectives.domain_strength import StrengthSchedule

BANDS, LENGTH, FRAMES, SIDE, CLASSES = 16, 24, 3, 16, 5


def classifier(fusion: str = "concatenation", *, seed: int = 0, dim: int = 16) -> MultimodalClassifier:
    """Return a classifier with two tiny convolutional encoders of different widths."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        audio_config = ConvConfig(hidden_sizes=[8, 16], depths=[1, 1], stem_size=8, group_size=4, num_channels=1)
        video_config = ConvConfig(hidden_sizes=[8, 12], depths=[1, 1], stem_size=8, group_size=4)
        encoders = {
            "audio": ModalityEncoder(AudioInput("audio", bands=BANDS, frames=LENGTH), ConvModel(audio_config)),
            "video": ModalityEncoder(VideoInput("video", size=SIDE, frames=FRAMES), ConvModel(video_config)),
        }
        return MultimodalClassifier(encoders, classes=CLASSES, fusion_name=fusion, dim=dim)


def clip_batch(rows: int, *, seed: int = 0, masked: tuple[int, ...] = (), unlabelled: tuple[int, ...] = ()) -> Batch:
    """Return random clips: `masked` rows are invalid, `unlabelled` ones have no class.

    Row 1 has no audio, row 2 a single frame.
    """
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
    """Return the clips of a source and as many of a target, which are louder, darker, and have zeros for a label."""
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
    meeting = AlignmentPoints(
        losses, StrengthSchedule(peak=strength, steps=10, schedule=schedule), critic_steps=critic_steps
    )
    objective, weighed = build_objective(GradientBalance(method=rule, space=space), model, meeting)
    rate = CosineSchedule(peak=1e-2, total_steps=100, warmup_steps=3)
    options = {"optimizer": "sgd", "momentum": 0.9, "max_grad_norm": None, **options}
    return TrainState.create(objective, schedule=rate, seed=3, space=weighed, **options)
