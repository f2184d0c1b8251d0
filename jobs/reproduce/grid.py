"""GRID: classify a word of a spoken sentence from the speaker's lips and voice.

Clips of one speaker are decoded once to mouths (grey, 25 or 12.5 frames a second) and log-mel spectrograms of the same
seconds. The frames of a mouth form one image with channels: their mean over time, then each frame's difference from it,
so that the first convolution sees motion, and clothes and light count less. Both encoders are small residual networks.
There are few clips to train on, so every view is drawn.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from jobs.bench.tar_members import sample_members
from jobs.reproduce.arms import BalanceArm, select_arms
from jobs.reproduce.experiment import BalanceExperiment, BalanceSettings, ReferenceResult, Splits
from jobs.reproduce.hypotheses import MODALITY_PREDICTIONS
from jobs.reproduce.learner import ExperimentModel, modality_model
from jobs.reproduce.row_batches import Fields
from xmodal.data.decode.fields import ValueWithSpan, allocate_columns, row_views
from xmodal.data.media.audio import SILENCE, AudioField
from xmodal.data.media.clip_window import ClipWindow
from xmodal.data.media.mel import MelSpectrogram
from xmodal.data.media.video import VideoField
from xmodal.encoders.av_inputs import AudioInput
from xmodal.encoders.inputs import ImageInput
from xmodal.encoders.multimodal_classifier import ModalityEncoder, MultimodalClassifier
from xmodal.encoders.small_resnet import ConvConfig, ConvModel

SIDE, CROP = 112, 40  # pixels of a frame, and of the mouth that a model sees
MOUTH = slice(68, 112), slice(32, 80)  # rows and columns of a frame where lips move in training clips
BANDS, VALIDATION_EVERY = 40, 8
STATISTICS_ROWS = 200  # training clips whose mean and standard deviation normalise the inputs
GREY = np.array([0.299, 0.587, 0.114], np.float32)
MODALITIES = ("audio", "video")
BAND_MASK, TIME_MASK = 6, 0.1  # the widest masks: mel bands, share of the frames


@dataclass(frozen=True, kw_only=True)
class Word:
    """The word that is the class, and the seconds of a clip that are used (a step sees `seen` frames of `pictures`).

    The repr is part of the name of the cached file (`jobs.reproduce.data`): a renamed field decodes all clips anew.
    """

    name: str  # of the label
    classes: int
    place: int | None  # index among the timed words of the sentence; None: the whole clip
    pictures: int  # video frames that are decoded and cached
    seen: int  # video frames that a step sees
    rate: float  # video frames a second
    hop_ms: float  # of the spectrogram

    @property
    def audio_frames_per_video_frame(self) -> int:
        """Spectrogram frames of one video frame."""
        return round(1000 / self.rate / self.hop_ms)

    @property
    def window(self) -> ClipWindow:
        return ClipWindow(seconds=self.pictures / self.rate)

    @property
    def length(self) -> int:
        """Spectrogram frames that a step sees."""
        return self.seen * self.audio_frames_per_video_frame


def read(word: Word, root: Path, rows: int | None) -> Splits:
    """Return splits of `video` uint8 [N, 44, 48, T], `audio` float16 [N, L, 40] and `label` int64 [N].

    `rows` bounds the training clips. Every eighth training clip (by name) is for validation.
    """
    train = decode_clips(word, f"{root}/grid_s1/train-*.tar")
    validation = torch.arange(len(train["label"])) % VALIDATION_EVERY == VALIDATION_EVERY - 1
    return {
        "train": {name: x[~validation][:rows] for name, x in train.items()},
        "validation": {name: x[validation] for name, x in train.items()},
        "test": decode_clips(word, f"{root}/grid_s1/test-*.tar"),
    }


ClipTransform = Callable[[np.ndarray, np.ndarray, int], tuple[np.ndarray, np.ndarray]]


def grey_mouths(frames: np.ndarray, waveform: np.ndarray, clip: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the grey mouths [T, 44, 48] of frames uint8 [T, 112, 112, 3], and the waveform as it is."""
    return frames[:, *MOUTH] @ GREY, waveform


def decode_clips(word: Word, uri: str, transform: ClipTransform = grey_mouths) -> Fields:
    """Return the fields of every clip; `transform(frames, waveform, clip number)` returns its mouths and waveform."""
    video = VideoField(frames=word.pictures, size=SIDE, rate=word.rate, window=word.window)
    audio, mel = AudioField(window=word.window, mel=None), MelSpectrogram(bands=BANDS, hop_ms=word.hop_ms)
    block, rng = allocate_columns([video, audio], 1), np.random.default_rng(0)
    mouths, spectrograms, labels = [], [], []
    for clip, sample in enumerate(sample_members(uri)):
        annotation = json.loads(sample["json"])
        encoded = sample["mp4"] if word.place is None else ValueWithSpan(sample["mp4"], annotation["words"][word.place])
        for field in (video, audio):
            field.decode(encoded, rng, row_views(block, 0))
        mouth, clip_waveform = transform(block["video"][0], block["audio"][0][: block["audio_length"][0]], clip)
        mouths.append(np.rint(mouth).astype(np.uint8).transpose(1, 2, 0))
        spectrum = np.full((mel.frame_count(audio.samples, audio.rate), BANDS), SILENCE, np.float16)
        spectrum[: mel.frame_count(len(clip_waveform), audio.rate)] = mel.log_mel(clip_waveform, audio.rate)
        spectrograms.append(spectrum)
        labels.append(annotation["class_ids"][word.name])
    stacks = {"video": np.stack(mouths), "audio": np.stack(spectrograms), "label": np.array(labels, np.int64)}
    return {name: torch.from_numpy(x) for name, x in stacks.items()}


def view(word: Word, fields: Fields, rng: np.random.Generator | None) -> Fields:
    """Return mouths and spectrograms of the same stretch of time.

    With a generator, the stretch, the crop, the horizontal flip and the masks of the spectrogram are drawn.
    """
    rows = len(fields["label"])
    start = np.full(rows, (word.pictures - word.seen) // 2)
    slack = np.array(fields["video"].shape[1:3]) - CROP
    corner = np.tile(slack // 2, (rows, 1))
    if rng is not None:
        start = rng.integers(0, word.pictures - word.seen + 1, rows)
        corner = rng.integers(0, slack + 1, (rows, 2))
    mouths = [
        clip[y : y + CROP, x : x + CROP, first : first + word.seen]
        for clip, (y, x), first in zip(fields["video"], corner, start, strict=True)
    ]
    audio_start = start * word.audio_frames_per_video_frame
    spectrograms = [
        spectrogram[first : first + word.length].float()
        for spectrogram, first in zip(fields["audio"], audio_start, strict=True)
    ]
    video, audio = torch.stack(mouths), torch.stack(spectrograms)
    if rng is not None:
        flipped = torch.from_numpy(rng.random(rows) < 0.5)
        video = torch.where(flipped[:, None, None, None], video.flip(2), video)
        audio = _mask_spectrograms(audio, rng)
    length = torch.full((rows,), word.length, dtype=torch.int32)
    return {"video": mean_and_motion(video), "audio": audio, "audio_length": length, "label": fields["label"]}


def mean_and_motion(video: torch.Tensor) -> torch.Tensor:
    """Return the mean over time of grey frames [B, H, W, T], then each frame's difference from it: [B, H, W, 1 + T]."""
    frames = video.float()
    mean = frames.mean(3, keepdim=True)
    return torch.cat([mean, frames - mean], 3)


def _mask_spectrograms(audio: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Set a run of frames and a run of bands of each row to that row's mean (SpecAugment, Park et al. 2019)."""
    rows, frames, bands = audio.shape
    mean = audio.mean((1, 2), keepdim=True)
    for size, max_width, dim in ((frames, round(TIME_MASK * frames), 1), (bands, BAND_MASK, 2)):
        width = rng.integers(0, max_width + 1, rows)
        start = rng.integers(0, size - width + 1)
        positions = torch.arange(size)[None]
        mask = (positions >= torch.from_numpy(start)[:, None]) & (positions < torch.from_numpy(start + width)[:, None])
        audio = torch.where(mask.unsqueeze(3 - dim), mean, audio)
    return audio


def build_model(word: Word, arm: BalanceArm, train: Fields, seed: int) -> ExperimentModel:
    """Return the network with the objective of an arm."""
    return modality_model(arm, build_network(word, train, seed))


def build_network(word: Word, train: Fields, seed: int) -> MultimodalClassifier:
    """Return a small residual network for audio and one for the stack of mouths, joined by concatenation."""
    torch.manual_seed(seed)
    audio, video = train["audio"][:STATISTICS_ROWS].float(), mean_and_motion(train["video"][:STATISTICS_ROWS]) / 255
    audio_mean, audio_sd = _mean_and_sd(audio)
    audio_input = AudioInput("audio", bands=BANDS, frames=word.length, mean=audio_mean, std=audio_sd)
    (mean_light, contrast), motion = _mean_and_sd(video[..., 0]), _mean_and_sd(video[..., 1:])[1]
    mean, spread = (mean_light, *[0.0] * word.seen), (contrast, *[motion] * word.seen)
    video_input = ImageInput("video", size=CROP, mean=mean, std=spread)
    encoders = {
        "audio": ModalityEncoder(audio_input, ConvModel(_conv_config(1))),
        "video": ModalityEncoder(video_input, ConvModel(_conv_config(1 + word.seen))),
    }
    return MultimodalClassifier(encoders, classes=word.classes, fusion_name="concatenation")


def _mean_and_sd(x: torch.Tensor) -> tuple[float, float]:
    """Return mean and standard deviation; the latter at least a quarter of a grey level: still images divide by it."""
    return x.mean().item(), max(1e-3, x.std().item())


def _conv_config(channels: int) -> ConvConfig:
    return ConvConfig(hidden_sizes=[16, 32, 64], depths=[1, 1, 1], stem_size=16, group_size=8, num_channels=channels)


def _experiment(word: Word, **fields: Any) -> BalanceExperiment:
    arms = select_arms(
        "joint", "uniform", "uniform-gamma", "mmpareto", "mmpareto-features", "mmpareto-per-tensor", "min-norm-2",
        "pcgrad", "stop-gradient", "uniform-adamw", "mmpareto-adamw",
    )  # fmt: skip
    seconds = word.seen / word.rate
    return BalanceExperiment(
        arms=arms,
        heads=MODALITIES,
        encoders=MODALITIES,
        chance=1 / word.classes,
        read=partial(read, word),
        view=partial(view, word),
        build_model=partial(build_model, word),
        facts={
            "Data": "1,000 clips of one speaker of the GRID corpus: 700 to train on, 100 for validation, 200 for test",
            "Video": f"{word.seen} grey mouths of {CROP} x {CROP} pixels, {word.rate:g} a second, as channels: "
            "their mean, and what each differs from it by",
            "Audio": f"log-mel, {BANDS} bands, {word.length} frames of the same {seconds:.2f} s",
            "Views": "drawn: the stretch of time, the crop, the mirror image, masks on bands and frames",
            "Validation": "rates, epochs and views were chosen there; the test was judged once for each trial",
        },
        predictions=MODALITY_PREDICTIONS,
        **fields,
    )


RIDGE = "ridge regression on hand-made features, all 800 clips"
LETTER_WORD = Word(name="letter", classes=25, place=4, pictures=14, seen=12, rate=25.0, hop_ms=10.0)
LETTER = _experiment(
    LETTER_WORD,
    title="GRID: the letter",
    intro=("25 letters, seen and heard at the moment when each is spoken. Sound is easy here and lips are hard.",),
    settings=BalanceSettings(epochs=60, batch_size=32, sgd_rate=0.05, adamw_rate=2e-3, cosine=True),
    references=(
        ReferenceResult(name="ridge", about=RIDGE, scores={"multimodal": 0.865, "audio": 0.905, "video": 0.285}),
    ),
)
DIGIT = _experiment(
    Word(name="digit", classes=10, place=None, pictures=37, seen=32, rate=12.5, hop_ms=20.0),
    title="GRID: the digit",
    intro=("Ten digits in the whole sentence: nothing says when the digit is spoken.",),
    settings=BalanceSettings(epochs=40, batch_size=32, sgd_rate=0.05, adamw_rate=1e-3, cosine=True),
    references=(ReferenceResult(name="ridge", about=RIDGE, scores={"audio": 0.525, "video": 0.215}),),
)
