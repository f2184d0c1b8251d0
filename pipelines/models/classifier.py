"""Build the multimodal classifier that a run is configured to train, what decodes its inputs, and its files."""

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import cast

import torch
from torch import Tensor

from pipelines.config.classifier import ClassifierConfig
from xmodal.data.decode.augment import Augment
from xmodal.data.decode.fields import Field
from xmodal.data.decode.image import ImageField
from xmodal.data.decode.label import LabelField
from xmodal.data.decode.text import TextField
from xmodal.data.decode.tokenizer import save_tokenizer, special_ids
from xmodal.data.media.audio import AudioField
from xmodal.data.media.clip_window import ClipWindow
from xmodal.data.media.mel import MelSpectrogram
from xmodal.data.media.video import VideoField
from xmodal.encoders.av_cnn import small_resnet, spectrogram_input
from xmodal.encoders.av_inputs import AudioInput, VideoInput
from xmodal.encoders.av_transformers import frame_transformer, spectrogram_transformer, text_transformer
from xmodal.encoders.classifier_files import load_weights, save_classifier, tower_weights
from xmodal.encoders.inputs import ImageInput, TextInput
from xmodal.encoders.multimodal_classifier import ModalityEncoder, MultimodalClassifier
from xmodal.errors import ConfigError
from xmodal.inference import load_checkpoint
from xmodal.storage import StorageOptions
from xmodal.training.engine.state import TrainState


def decoded_fields(config: ClassifierConfig, augment: Augment | None, tokenizer: str | None) -> tuple[Field, ...]:
    """Return what decodes both modalities of a row and its label, by `config.fields`.

    With `augment` images and the time span of a clip are drawn as in training; without, as at an evaluation.
    `tokenizer` is that of a text encoder.
    """
    label = LabelField(classes=config.classes)
    if config.reads_text:
        assert tokenizer is not None
        image = ImageField(size=config.size, augment=augment)
        return image, TextField(tokenizer_json=tokenizer, length=config.context), label
    window = ClipWindow(seconds=config.seconds, position="random" if augment else "centre", margin=config.margin)
    audio = AudioField(rate=config.rate, window=window, mel=MelSpectrogram(bands=config.bands))
    video = VideoField(frames=config.frames, size=config.size, window=window, augment=augment)
    return audio, video, label


def build_classifier(
    config: ClassifierConfig, seed: int, start: Mapping[str, Tensor] | None = None, *, tokenizer: str | None = None
) -> MultimodalClassifier:
    """Build the model at step 0, drawn from the seed; encoders begin with the weights that `start` has of them."""
    torch.manual_seed(seed)
    encoders = _image_text_encoders(config, tokenizer) if config.reads_text else _audio_video_encoders(config)
    model = MultimodalClassifier(encoders, classes=len(config.classes), fusion_name=config.fusion, dim=config.dim)
    if start is not None:
        model.load_state_dict(start, strict=False)
    return model


def _image_text_encoders(config: ClassifierConfig, tokenizer: str | None) -> dict[str, ModalityEncoder]:
    """Build an encoder of images and a BERT (Devlin et al. 2019) of texts."""
    sizes = {"width": config.width, "depth": config.depth, "heads": config.heads}
    assert tokenizer is not None
    image = (
        small_resnet(config.widths, channels=3)
        if config.encoders == "convolutional"
        else frame_transformer(config.size, **sizes, patch=config.patch)
    )
    ids = special_ids(tokenizer)
    text = text_transformer(ids.vocab_size, config.context, pad_id=ids.pad, **sizes)
    return {
        "image": ModalityEncoder(ImageInput("image", size=config.size), image),
        "text": ModalityEncoder(TextInput("text", size=config.context, masked=True), text),
    }


def _audio_video_encoders(config: ClassifierConfig) -> dict[str, ModalityEncoder]:
    """Build the encoders of a clip's spectrogram and of its frames."""
    audio_input = spectrogram_input(
        config.seconds, config.margin, config.rate, config.bands, config.level, config.level_spread
    )  # fmt: skip
    video_input = VideoInput(
        "video", size=config.size, frames=config.frames, seconds=config.seconds, margin=config.margin
    )
    audio, video = _backbones(config, audio_input)
    return {"audio": ModalityEncoder(audio_input, audio), "video": ModalityEncoder(video_input, video)}


def _backbones(config: ClassifierConfig, audio_input: AudioInput) -> tuple[object, object]:
    """Build the backbones of audio and of video."""
    if config.encoders == "convolutional":
        return small_resnet(config.widths, channels=1), small_resnet(config.widths, channels=3)
    sizes = {"width": config.width, "depth": config.depth, "heads": config.heads, "patch": config.patch}
    return (
        spectrogram_transformer(audio_input.bands, audio_input.frames, **sizes),
        frame_transformer(config.size, **sizes),
    )


def initial_encoder_weights(config: ClassifierConfig, options: StorageOptions) -> dict[str, Tensor] | None:
    """Load what the encoders begin with; None: drawn from the seed. CheckpointError where it does not fit."""
    if config.start_from is None:
        return None
    if config.reads_text:
        raise ConfigError("--start-from takes the encoders of clips; a classifier of image and text starts without it")
    with TemporaryDirectory(prefix="xmodal-start-") as scratch:
        towers, _, uri = load_checkpoint(config.start_from, Path(scratch), options)
    with torch.device("meta"):
        shapes = build_classifier(config, 0)
    return tower_weights(shapes, towers, uri)


def save_files(classes: tuple[str, ...], tokenizer: str | None, state: TrainState, directory: Path) -> None:
    """Write the model as a directory with its description, and the tokenizer of a text encoder."""
    save_classifier(_model_of(state), classes, directory)
    if tokenizer is not None:
        save_tokenizer(tokenizer, directory)


def load_files(state: TrainState, directory: Path) -> None:
    """Read the weights of a checkpoint of the same architecture."""
    load_weights(_model_of(state), directory)


def _model_of(state: TrainState) -> MultimodalClassifier:
    return cast(MultimodalClassifier, state.objective.model)
