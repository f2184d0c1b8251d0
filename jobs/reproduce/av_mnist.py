"""AV-MNIST: a handwritten digit robbed of three quarters of its variance, and the same digit spoken in noise.

After Vielzeuf et al. (2018), who left a picture the first principal components with a quarter of the variance, and
mixed spoken digits with noises of the street. Here the components are those of the training pictures, the spoken digits
are the Free Spoken Digit Dataset, and the noise is white. Recordings of validation and test are never in training;
their speakers are. Which recording a picture meets, and its noise, are drawn once, whatever a run's seed.
"""

import json
from pathlib import Path

import numpy as np
import torch

from jobs.reproduce import digits
from jobs.reproduce.arms import Arm, some
from jobs.reproduce.experiment import Experiment, Settings, Splits
from jobs.reproduce.learner import Subject, of_modalities
from jobs.reproduce.row_batches import Fields
from jobs.reproduce.tar_members import members
from xmodal.data.decode.fields import allocate, row_of
from xmodal.data.media.audio import AudioField
from xmodal.data.media.clip_window import Window
from xmodal.data.media.mel import Mel
from xmodal.encoders.av_inputs import Spectrogram
from xmodal.encoders.inputs import Pixels
from xmodal.encoders.multimodal_classifier import Encoder, MultimodalClassifier
from xmodal.encoders.small_resnet import ConvConfig, ConvModel

KEPT = 0.25  # of the pictures' variance
NOISE = 4.0  # standard deviation beside that of the speech: -12 dB, in which half of the digits are recognised
RATE, SECONDS = 8_000, 0.64
MEL = Mel(bands=32, hop_ms=20.0)
FRAMES = MEL.frames(round(RATE * SECONDS), RATE)
INDEX = {"test": range(5), "validation": range(5, 10), "train": range(10, 50)}  # of the recordings of a speaker
MODALITIES = ("image", "audio")
SAMPLE = 2_000  # rows whose mean and spread the inputs are normalised by

Spoken = dict[int, list[np.ndarray]]  # waveforms by digit


def read(root: Path, rows: int | None) -> Splits:
    """`image` uint8 [N, 28, 28, 1], `audio` float16 [N, 32, 32], `label` int64 [N]."""
    written, spoken = digits.splits(root, rows), recordings(root)
    components = principal(written["train"][0])
    return {
        name: paired(*written[name], spoken[name], components, seed=seed)
        for seed, name in enumerate(("train", "validation", "test"))
    }


def recordings(root: Path) -> dict[str, Spoken]:
    """Every recording in the one split that its index belongs to."""
    field = AudioField(rate=RATE, window=Window(seconds=SECONDS, place="start"), mel=None)
    found: dict[str, Spoken] = {name: {digit: [] for digit in range(digits.CLASSES)} for name in INDEX}
    block = allocate([field], 1)
    for sample in members(f"{root}/fsdd/*.tar"):
        about = json.loads(sample["json"])
        field.decode(sample["flac"], np.random.default_rng(0), row_of(block, 0))
        split = next(name for name, places in INDEX.items() if int(about["index"]) in places)
        found[split][int(about["digit"])].append(block["audio"][0].copy())
    return found


def principal(pictures: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean [784] and the first components [K, 784], as few as hold at least `KEPT` of the variance."""
    flat = pictures.reshape(len(pictures), -1).astype(np.float64)
    mean = flat.mean(0)
    variance, directions = np.linalg.eigh(np.cov(flat.T))
    share = np.cumsum(variance[::-1]) / variance.sum()
    count = int(np.searchsorted(share, KEPT)) + 1
    return mean, directions[:, ::-1][:, :count].T


def paired(
    pictures: np.ndarray, label: np.ndarray, spoken: Spoken, components: tuple[np.ndarray, np.ndarray], *, seed: int
) -> Fields:
    """Each picture beside a recording of its digit, drawn with repeats, in noise of its own."""
    rng = np.random.default_rng(seed)
    mean, directions = components
    flat = pictures.reshape(len(pictures), -1) - mean
    blurred = np.clip(np.rint(flat @ directions.T @ directions + mean), 0, 255).astype(np.uint8)
    sounds = np.empty((len(label), FRAMES, MEL.bands), np.float16)
    for row, digit in enumerate(label):
        choice = spoken[int(digit)]
        sounds[row] = heard(choice[rng.integers(len(choice))], rng)
    return {
        "image": torch.from_numpy(blurred.reshape(*pictures.shape, 1)),
        "audio": torch.from_numpy(sounds),
        "label": torch.from_numpy(label),
    }


def heard(waveform: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The log-mel spectrogram of a recording brought to unit power, with noise from start to end."""
    loud = waveform / max(1e-6, float(waveform[waveform != 0].std())) if waveform.any() else waveform
    noise = rng.normal(0, NOISE, len(waveform)).astype(np.float32)
    return MEL.log_mel((0.1 * (loud + noise)).astype(np.float32), RATE)


def view(fields: Fields, rng: np.random.Generator | None) -> Fields:
    """Every spectrogram is full of sound: that of the noise at the least."""
    return {**fields, "audio_length": torch.full((len(fields["label"]),), FRAMES, dtype=torch.int32)}


def subject(arm: Arm, train: Fields, seed: int) -> Subject:
    """Two small residual networks, joined by concatenation."""
    torch.manual_seed(seed)
    sounds, pictures = train["audio"][:SAMPLE].float(), train["image"][:SAMPLE].float() / 255
    sound = Spectrogram("audio", bands=MEL.bands, frames=FRAMES, mean=sounds.mean().item(), std=sounds.std().item())
    sight = Pixels("image", size=digits.SIDE, mean=(pictures.mean().item(),), std=(pictures.std().item(),))
    config = ConvConfig(hidden_sizes=[32, 64], depths=[1, 1], stem_size=16, group_size=8, num_channels=1)
    encoders = {"image": Encoder(sight, ConvModel(config)), "audio": Encoder(sound, ConvModel(config))}
    return of_modalities(arm, MultimodalClassifier(encoders, classes=digits.CLASSES, fusion_name="concatenation"))


EXPERIMENT = Experiment(
    title="AV-MNIST",
    leads=("A blurred handwritten digit, and the same digit spoken in noise: two modalities that need each other.",),
    needs={**digits.NEEDS, "fsdd/*.tar": "recordings of spoken digits"},
    settings=Settings(rows=10_000, epochs=8, batch_size=64, sgd_rate=0.02, adamw_rate=1e-3),
    arms=some(
        "joint", "uniform", "uniform-gamma", "mmpareto", "mmpareto-features", "min-norm-2", "pcgrad", "stop-gradient"
    ),
    heads=MODALITIES,
    encoders=MODALITIES,
    chance=1 / digits.CLASSES,
    read=read,
    view=view,
    subject=subject,
    facts={
        "Pictures": f"MNIST, the first principal components with {KEPT:.0%} of the variance",
        "Sound": "3,000 recordings of six speakers, 0.64 s at 8 kHz, white noise of "
        f"{NOISE:g} times their amplitude, log-mel 32 x 32",
        "Pairs": "a picture meets a recording of its digit; 2,400 recordings in training, 300 others in validation, "
        "300 others in the test; the same six speakers in all; drawn once",
        "Validation": f"{digits.VALIDATION:,} pairs; rates and epochs were chosen there",
        "Test": "10,000 pairs of 10,000 pictures and 300 recordings, judged once for each trial",
    },
    predictions=("most-of-the-gain", "half-of-the-gap", "few-conflicts", "features"),
)
