"""GRID: what a talking head says, from its lips and its sound; a word of the sentence is the class.

Clips of one speaker, decoded once to mouths (grey, 25 or 12.5 a second) and log-mel spectrograms of the same seconds.
A clip's mouth is one picture: its mean over time is the first channel, what each moment differs by the others, so
that the first convolution sees motion and clothes and light count less. Both encoders are the residual networks that
classify clips elsewhere. There are few clips to train on, so every view is drawn.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from jobs.reproduce.arms import Arm, some
from jobs.reproduce.experiment import Experiment, Floor, Settings, Splits
from jobs.reproduce.hypotheses import OF_MODALITIES
from jobs.reproduce.learner import Subject, of_modalities
from jobs.reproduce.row_batches import Fields
from jobs.reproduce.tar_members import members
from xmodal.data.decode.fields import Excerpt, allocate, row_of
from xmodal.data.media.audio import SILENCE, AudioField
from xmodal.data.media.clip_window import Window
from xmodal.data.media.mel import Mel
from xmodal.data.media.video import VideoField
from xmodal.encoders.av_inputs import Spectrogram
from xmodal.encoders.inputs import Pixels
from xmodal.encoders.multimodal_classifier import Encoder, MultimodalClassifier
from xmodal.encoders.small_resnet import ConvConfig, ConvModel

SIDE, MOUTH, CROP = 112, (slice(68, 112), slice(32, 80)), 40  # of the picture; where lips moved in training clips
BANDS, VALIDATION_EVERY = 40, 8
SAMPLE = 200  # training clips whose mean and spread the inputs are normalised by
GREY = np.array([0.299, 0.587, 0.114], np.float32)
MODALITIES = ("audio", "video")
BAND_MASK, TIME_MASK = 6, 0.1  # at most: mel bands, share of the frames


@dataclass(frozen=True, kw_only=True)
class Word:
    """Which word is the class, and the seconds that are kept (a step sees `seen` pictures of `pictures`)."""

    name: str  # of the label
    classes: int
    place: int | None  # among the timed words; None: the whole clip
    pictures: int  # kept
    seen: int
    rate: float  # pictures a second
    hop_ms: float  # of the spectrogram

    @property
    def frames_a_picture(self) -> int:
        return round(1000 / self.rate / self.hop_ms)

    @property
    def window(self) -> Window:
        return Window(seconds=self.pictures / self.rate)

    @property
    def length(self) -> int:
        """Spectrogram frames that a step sees."""
        return self.seen * self.frames_a_picture


def read(word: Word, root: Path, rows: int | None) -> Splits:
    """`video` uint8 [N, 44, 48, T], `audio` float16 [N, L, 40], `label` int64 [N]; `rows` of the training clips.

    Every eighth training clip (by name) is for validation.
    """
    train = decoded(word, f"{root}/grid_s1/train-*.tar")
    validation = torch.arange(len(train["label"])) % VALIDATION_EVERY == VALIDATION_EVERY - 1
    return {
        "train": {name: x[~validation][:rows] for name, x in train.items()},
        "validation": {name: x[validation] for name, x in train.items()},
        "test": decoded(word, f"{root}/grid_s1/test-*.tar"),
    }


Change = Callable[[np.ndarray, np.ndarray, int], tuple[np.ndarray, np.ndarray]]


def unchanged(pictures: np.ndarray, waveform: np.ndarray, clip: int) -> tuple[np.ndarray, np.ndarray]:
    """The grey mouths [T, 44, 48] of the pictures uint8 [T, 112, 112, 3], and the sound as it is."""
    return pictures[:, *MOUTH] @ GREY, waveform


def decoded(word: Word, uri: str, change: Change = unchanged) -> Fields:
    """Every clip; `change` gives mouths and sound of pictures, waveform and the clip's number."""
    video = VideoField(frames=word.pictures, size=SIDE, rate=word.rate, window=word.window)
    audio, mel = AudioField(window=word.window, mel=None), Mel(bands=BANDS, hop_ms=word.hop_ms)
    block, rng = allocate([video, audio], 1), np.random.default_rng(0)
    mouths, sounds, labels = [], [], []
    for number, sample in enumerate(members(uri)):
        said = json.loads(sample["json"])
        clip = sample["mp4"] if word.place is None else Excerpt(sample["mp4"], said["words"][word.place])
        for field in (video, audio):
            field.decode(clip, rng, row_of(block, 0))
        mouth, heard = change(block["video"][0], block["audio"][0][: block["audio_length"][0]], number)
        mouths.append(np.rint(mouth).astype(np.uint8).transpose(1, 2, 0))
        spectrum = np.full((mel.frames(audio.samples, audio.rate), BANDS), SILENCE, np.float16)
        spectrum[: mel.frames(len(heard), audio.rate)] = mel.log_mel(heard, audio.rate)
        sounds.append(spectrum)
        labels.append(said["class_ids"][word.name])
    stacks = {"video": np.stack(mouths), "audio": np.stack(sounds), "label": np.array(labels, np.int64)}
    return {name: torch.from_numpy(x) for name, x in stacks.items()}


def view(word: Word, fields: Fields, rng: np.random.Generator | None) -> Fields:
    """A stretch of the kept seconds, alike in sight and sound; drawn: crop, mirror image, masks on the spectrogram."""
    rows = len(fields["label"])
    shift = np.full(rows, (word.pictures - word.seen) // 2)
    room = np.array(fields["video"].shape[1:3]) - CROP
    corner = np.tile(room // 2, (rows, 1))
    if rng is not None:
        shift = rng.integers(0, word.pictures - word.seen + 1, rows)
        corner = rng.integers(0, room + 1, (rows, 2))
    mouths = [
        clip[y : y + CROP, x : x + CROP, s : s + word.seen]
        for clip, (y, x), s in zip(fields["video"], corner, shift, strict=True)
    ]
    starts = shift * word.frames_a_picture
    sounds = [sound[s : s + word.length].float() for sound, s in zip(fields["audio"], starts, strict=True)]
    video, audio = torch.stack(mouths), torch.stack(sounds)
    if rng is not None:
        mirrored = torch.from_numpy(rng.random(rows) < 0.5)
        video = torch.where(mirrored[:, None, None, None], video.flip(2), video)
        audio = _masked(audio, rng)
    length = torch.full((rows,), word.length, dtype=torch.int32)
    return {"video": moving(video), "audio": audio, "audio_length": length, "label": fields["label"]}


def moving(video: torch.Tensor) -> torch.Tensor:
    """Grey pictures [B, H, W, T] in; their mean over time, then what each differs from it by, [B, H, W, 1 + T] out."""
    levels = video.float()
    mean = levels.mean(3, keepdim=True)
    return torch.cat([mean, levels - mean], 3)


def _masked(audio: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """A run of frames and a run of bands of each row set to that row's mean (SpecAugment, Park et al. 2019)."""
    rows, frames, bands = audio.shape
    level = audio.mean((1, 2), keepdim=True)
    for size, most, dim in ((frames, round(TIME_MASK * frames), 1), (bands, BAND_MASK, 2)):
        width = rng.integers(0, most + 1, rows)
        start = rng.integers(0, size - width + 1)
        place = torch.arange(size)[None]
        hidden = (place >= torch.from_numpy(start)[:, None]) & (place < torch.from_numpy(start + width)[:, None])
        audio = torch.where(hidden.unsqueeze(3 - dim), level, audio)
    return audio


def subject(word: Word, arm: Arm, train: Fields, seed: int) -> Subject:
    return of_modalities(arm, network_of(word, train, seed))


def network_of(word: Word, train: Fields, seed: int) -> MultimodalClassifier:
    """A small residual network for sound, one for the stack of mouths, joined by concatenation."""
    torch.manual_seed(seed)
    sounds, pictures = train["audio"][:SAMPLE].float(), moving(train["video"][:SAMPLE]) / 255
    level, loudness = _level(sounds)
    sound = Spectrogram("audio", bands=BANDS, frames=word.length, mean=level, std=loudness)
    (light, contrast), motion = _level(pictures[..., 0]), _level(pictures[..., 1:])[1]
    mean, spread = (light, *[0.0] * word.seen), (contrast, *[motion] * word.seen)
    sight = Pixels("video", size=CROP, mean=mean, std=spread)
    encoders = {
        "audio": Encoder(sound, ConvModel(_network(1))),
        "video": Encoder(sight, ConvModel(_network(1 + word.seen))),
    }
    return MultimodalClassifier(encoders, classes=word.classes, fusion_name="concatenation")


def _level(x: torch.Tensor) -> tuple[float, float]:
    """Mean and spread; not less than a quarter of a grey level, lest a still picture be divided by nothing."""
    return x.mean().item(), max(1e-3, x.std().item())


def _network(channels: int) -> ConvConfig:
    return ConvConfig(hidden_sizes=[16, 32, 64], depths=[1, 1, 1], stem_size=16, group_size=8, num_channels=channels)


def _experiment(word: Word, **own: Any) -> Experiment:
    arms = some(
        "joint", "uniform", "uniform-gamma", "mmpareto", "mmpareto-features", "mmpareto-per-tensor", "min-norm-2",
        "pcgrad", "stop-gradient", "uniform-adamw", "mmpareto-adamw",
    )  # fmt: skip
    seconds = word.seen / word.rate
    return Experiment(
        needs={"grid_s1/train-*.tar": "clips of a talking head", "grid_s1/test-*.tar": "clips of a talking head"},
        arms=arms,
        heads=MODALITIES,
        encoders=MODALITIES,
        chance=1 / word.classes,
        read=partial(read, word),
        view=partial(view, word),
        subject=partial(subject, word),
        facts={
            "Data": "1,000 clips of one speaker of the GRID corpus: 700 to train on, 100 for validation, 200 for test",
            "Video": f"{word.seen} grey mouths of {CROP} x {CROP} pixels, {word.rate:g} a second, as channels: "
            "their mean, and what each differs from it by",
            "Audio": f"log-mel, {BANDS} bands, {word.length} frames of the same {seconds:.2f} s",
            "Views": "drawn: the stretch of time, the crop, the mirror image, masks on bands and frames",
            "Validation": "rates, epochs and views were chosen there; the test was judged once for each trial",
        },
        predictions=OF_MODALITIES,
        **own,
    )


RIDGE = "ridge regression on hand-made features, all 800 clips"
SPOKEN = Word(name="letter", classes=25, place=4, pictures=14, seen=12, rate=25.0, hop_ms=10.0)
LETTER = _experiment(
    SPOKEN,
    title="GRID: the letter",
    leads=("25 letters, seen and heard at the moment when each is spoken. Sound is easy here and lips are hard.",),
    settings=Settings(epochs=60, batch_size=32, sgd_rate=0.05, adamw_rate=2e-3, cosine=True),
    floors=(Floor(name="ridge", about=RIDGE, scores={"multimodal": 0.865, "audio": 0.905, "video": 0.285}),),
)
DIGIT = _experiment(
    Word(name="digit", classes=10, place=None, pictures=37, seen=32, rate=12.5, hop_ms=20.0),
    title="GRID: the digit",
    leads=("Ten digits in the whole sentence: nothing says when the digit is spoken.",),
    settings=Settings(epochs=40, batch_size=32, sgd_rate=0.05, adamw_rate=1e-3, cosine=True),
    floors=(Floor(name="ridge", about=RIDGE, scores={"audio": 0.525, "video": 0.215}),),
)
