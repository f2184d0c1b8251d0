"""A classifier of clips: its configuration in, its fields, its model and its files out."""

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import torch
from torch import Tensor

from pipelines.config.classifier import Classifier
from xmodal import checkpoint, storage
from xmodal.data.decode.augment import Augment
from xmodal.data.decode.label import LabelField
from xmodal.data.media.audio import AudioField
from xmodal.data.media.clip_window import Window
from xmodal.data.media.mel import Mel
from xmodal.data.media.video import VideoField
from xmodal.encoders.av_cnn import network, spectrogram
from xmodal.encoders.av_inputs import Frames, Spectrogram
from xmodal.encoders.av_transformers import frame_transformer, spectrogram_transformer
from xmodal.encoders.classifier_files import save_classifier, take_weights, tower_weights
from xmodal.encoders.dual_encoder import DualEncoder
from xmodal.encoders.multimodal_classifier import Encoder, MultimodalClassifier
from xmodal.errors import CheckpointError
from xmodal.storage import StorageOptions
from xmodal.training.engine.state import TrainState

FIELDS = ("audio", "video", "label")
WITHOUT = ("optimizer.safetensors", "critics.safetensors", "state.json", "quarantine.parquet")


def fields_of(chosen: Classifier, augment: Augment | None) -> tuple[AudioField, VideoField, LabelField]:
    """What decodes a clip; with `augment` its window is drawn as well, else it lies in the middle."""
    window = Window(seconds=chosen.seconds, place="random" if augment else "centre", margin=chosen.margin)
    audio = AudioField(rate=chosen.rate, window=window, mel=Mel(bands=chosen.bands))
    video = VideoField(frames=chosen.frames, size=chosen.size, window=window, augment=augment)
    return audio, video, LabelField(classes=chosen.classes)


def build_classifier(chosen: Classifier, seed: int, start: Mapping[str, Tensor] | None = None) -> MultimodalClassifier:
    """The model at step 0, drawn from the seed; encoders of which `start` has the weights begin with those."""
    sound = spectrogram(
        chosen.seconds, chosen.margin, chosen.rate, chosen.bands, chosen.level, chosen.level_spread
    )  # fmt: skip
    sight = Frames("video", size=chosen.size, frames=chosen.frames, seconds=chosen.seconds, margin=chosen.margin)
    torch.manual_seed(seed)
    audio, video = _backbones(chosen, sound)
    encoders = {"audio": Encoder(sound, audio), "video": Encoder(sight, video)}
    model = MultimodalClassifier(encoders, classes=len(chosen.classes), fusion_name=chosen.fusion, dim=chosen.dim)
    if start is not None:
        model.load_state_dict(start, strict=False)
    return model


def _backbones(chosen: Classifier, sound: Spectrogram) -> tuple[Any, Any]:
    """Of sound and of sight."""
    if chosen.encoders == "convolutional":
        return network(chosen.widths, channels=1), network(chosen.widths, channels=3)
    sizes = {"width": chosen.width, "depth": chosen.depth, "heads": chosen.heads, "patch": chosen.patch}
    return (
        spectrogram_transformer(sound.bands, sound.frames, **sizes),
        frame_transformer(chosen.size, **sizes),
    )


def weights_to_start_from(chosen: Classifier, options: StorageOptions) -> dict[str, Tensor] | None:
    """What the encoders begin with, None for the seed's; CheckpointError where the named checkpoint does not fit."""
    if chosen.start_from is None:
        return None
    storage.check(chosen.start_from, writable=False, options=options)
    found = checkpoint.resolve(chosen.start_from, options=options)
    with TemporaryDirectory(prefix="xmodal-start-") as scratch:
        directory = checkpoint.fetch(found, Path(scratch), skip=WITHOUT, options=options)
        try:
            towers = DualEncoder.from_pretrained(directory)
        except CheckpointError as error:
            raise CheckpointError(str(error).replace(str(directory), found.uri)) from error
    with torch.device("meta"):
        shapes = build_classifier(chosen, 0)
    return tower_weights(shapes, towers, found.uri)


def save_files(classes: tuple[str, ...], state: TrainState, directory: Path) -> None:
    """The model as a described directory."""
    save_classifier(_model_of(state), classes, directory)


def load_files(state: TrainState, directory: Path) -> None:
    """Weights of a checkpoint of the same architecture."""
    take_weights(_model_of(state), directory)


def _model_of(state: TrainState) -> MultimodalClassifier:
    return cast(MultimodalClassifier, state.objective.model)
