"""A classifier of clips: its configuration in, its fields, its model and its files out."""

from pathlib import Path
from typing import cast

import torch

from pipelines.config.classifier import Classifier
from xmodal.data.audio import AudioField
from xmodal.data.augment import Augment
from xmodal.data.label import LabelField
from xmodal.data.mel import Mel
from xmodal.data.video import VideoField
from xmodal.data.window import Window
from xmodal.encoders.conv import ConvConfig, ConvModel
from xmodal.encoders.intake_av import Frames, Spectrogram
from xmodal.encoders.multimodal import Encoder, MultimodalClassifier
from xmodal.encoders.multimodal_layout import save_classifier, take_weights
from xmodal.training.state import TrainState

FIELDS = ("audio", "video", "label")
GROUP = 16  # channels normalised together


def fields_of(chosen: Classifier, augment: Augment | None) -> tuple[AudioField, VideoField, LabelField]:
    """What decodes a clip; with `augment` its window is drawn as well, else it lies in the middle."""
    window = Window(seconds=chosen.seconds, place="random" if augment else "centre", margin=chosen.margin)
    audio = AudioField(rate=chosen.rate, window=window, mel=Mel(bands=chosen.bands))
    video = VideoField(frames=chosen.frames, size=chosen.size, window=window, augment=augment)
    return audio, video, LabelField(classes=chosen.classes)


def build_classifier(chosen: Classifier, seed: int) -> MultimodalClassifier:
    """The model at step 0, drawn from the seed."""
    audio, _, _ = fields_of(chosen, None)
    length, bands = audio.columns["audio"].shape
    sound = Spectrogram("audio", bands=bands, frames=length, mean=chosen.level, std=chosen.level_spread)
    sight = Frames("video", size=chosen.size, frames=chosen.frames)
    torch.manual_seed(seed)
    encoders = {
        "audio": Encoder(sound, ConvModel(_network(chosen, channels=1))),
        "video": Encoder(sight, ConvModel(_network(chosen, channels=3))),
    }
    return MultimodalClassifier(encoders, classes=len(chosen.classes), fusion_name=chosen.fusion, dim=chosen.dim)


def _network(chosen: Classifier, *, channels: int) -> ConvConfig:
    depths = [1] * len(chosen.widths)
    group = min(GROUP, *chosen.widths)
    return ConvConfig(
        hidden_sizes=list(chosen.widths), depths=depths, stem_size=chosen.widths[0], group_size=group,
        num_channels=channels,
    )  # fmt: skip


def save_files(classes: tuple[str, ...], state: TrainState, directory: Path) -> None:
    """The model as a described directory."""
    save_classifier(_model_of(state), classes, directory)


def load_files(state: TrainState, directory: Path) -> None:
    """Weights of a checkpoint of the same architecture."""
    take_weights(_model_of(state), directory)


def _model_of(state: TrainState) -> MultimodalClassifier:
    return cast(MultimodalClassifier, state.objective.model)
