"""AV-MNIST: a handwritten digit without three quarters of its variance, and the same digit spoken in noise.

After Vielzeuf et al. (2018), who reduced the images to the first principal components with a quarter of the variance,
and mixed spoken digits with noises of the street. Here the components are those of the training images, the spoken
digits are the Free Spoken Digit Dataset, and the noise is white. Recordings of validation and test are never in
training; their speakers are. Pairs and noise are drawn once, with fixed seeds, whatever the seed of a run.
"""

import json
from pathlib import Path

import numpy as np
import torch

from jobs.bench.tar_members import sample_members
from jobs.reproduce import digits
from jobs.reproduce.arms import BalanceArm, select_arms
from jobs.reproduce.experiment import BalanceExperiment, BalanceSettings, Splits
from jobs.reproduce.learner import ExperimentModel, modality_model
from jobs.reproduce.row_batches import Fields
from xmodal.data.decode.fields import allocate_columns, row_views
from xmodal.data.media.audio import AudioField
from xmodal.data.media.clip_window import ClipWindow
from xmodal.data.media.mel import MelSpectrogram
from xmodal.encoders.av_inputs import AudioInput
from xmodal.encoders.inputs import ImageInput
from xmodal.encoders.multimodal_classifier import ModalityEncoder, MultimodalClassifier
from xmodal.encoders.small_resnet import ConvConfig, ConvModel

VARIANCE_SHARE = 0.25  # of the images' variance that the components hold
NOISE = 4.0  # standard deviation in units of the speech's: -12 dB, at which half of the digits are recognised
RATE, SECONDS = 8_000, 0.64
MEL = MelSpectrogram(bands=32, hop_ms=20.0)
FRAMES = MEL.frame_count(round(RATE * SECONDS), RATE)
SPLIT_INDEXES = {"test": range(5), "validation": range(5, 10), "train": range(10, 50)}  # of the recordings of a speaker
MODALITIES = ("image", "audio")
STATISTICS_ROWS = 2_000  # rows whose mean and standard deviation normalise the inputs

WaveformsByDigit = dict[int, list[np.ndarray]]


def read(root: Path, rows: int | None) -> Splits:
    """Return splits of `image` uint8 [N, 28, 28, 1], `audio` float16 [N, 32, 32] and `label` int64 [N]."""
    handwritten, spoken = digits.read_splits(root, rows), read_recordings(root)
    components = principal_components(handwritten["train"][0])
    return {
        name: pair_digits(*handwritten[name], spoken[name], components, seed=seed)
        for seed, name in enumerate(("train", "validation", "test"))
    }


def read_recordings(root: Path) -> dict[str, WaveformsByDigit]:
    """Return every recording in the split that its index belongs to."""
    field = AudioField(rate=RATE, window=ClipWindow(seconds=SECONDS, position="start"), mel=None)
    recordings: dict[str, WaveformsByDigit] = {
        name: {digit: [] for digit in range(digits.CLASSES)} for name in SPLIT_INDEXES
    }
    block = allocate_columns([field], 1)
    for sample in sample_members(f"{root}/fsdd/*.tar"):
        facts = json.loads(sample["json"])
        field.decode(sample["flac"], np.random.default_rng(0), row_views(block, 0))
        split = next(name for name, indexes in SPLIT_INDEXES.items() if int(facts["index"]) in indexes)
        recordings[split][int(facts["digit"])].append(block["audio"][0].copy())
    return recordings


def principal_components(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean [784] and the fewest first components [K, 784] with `VARIANCE_SHARE` of the variance."""
    flat = images.reshape(len(images), -1).astype(np.float64)
    mean = flat.mean(0)
    variance, directions = np.linalg.eigh(np.cov(flat.T))
    share = np.cumsum(variance[::-1]) / variance.sum()
    count = int(np.searchsorted(share, VARIANCE_SHARE)) + 1
    return mean, directions[:, ::-1][:, :count].T


def pair_digits(
    images: np.ndarray,
    label: np.ndarray,
    spoken: WaveformsByDigit,
    components: tuple[np.ndarray, np.ndarray],
    *,
    seed: int,
) -> Fields:
    """Return each blurred image with a recording of its digit, drawn with repeats, in noise of its own."""
    rng = np.random.default_rng(seed)
    mean, directions = components
    flat = images.reshape(len(images), -1) - mean
    blurred = np.clip(np.rint(flat @ directions.T @ directions + mean), 0, 255).astype(np.uint8)
    spectrograms = np.empty((len(label), FRAMES, MEL.bands), np.float16)
    for row, digit in enumerate(label):
        recordings = spoken[int(digit)]
        spectrograms[row] = noisy_log_mel(recordings[rng.integers(len(recordings))], rng)
    return {
        "image": torch.from_numpy(blurred.reshape(*images.shape, 1)),
        "audio": torch.from_numpy(spectrograms),
        "label": torch.from_numpy(label),
    }


def noisy_log_mel(waveform: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the log-mel spectrogram of a recording at unit power, with white noise from start to end."""
    speech = waveform / max(1e-6, float(waveform[waveform != 0].std())) if waveform.any() else waveform
    noise = rng.normal(0, NOISE, len(waveform)).astype(np.float32)
    return MEL.log_mel((0.1 * (speech + noise)).astype(np.float32), RATE)


def view(fields: Fields, rng: np.random.Generator | None) -> Fields:
    """Return the fields with the spectrograms' lengths: all are full, of noise at least."""
    return {**fields, "audio_length": torch.full((len(fields["label"]),), FRAMES, dtype=torch.int32)}


def build_model(arm: BalanceArm, train: Fields, seed: int) -> ExperimentModel:
    """Return two small residual networks, joined by concatenation."""
    torch.manual_seed(seed)
    audio, images = train["audio"][:STATISTICS_ROWS].float(), train["image"][:STATISTICS_ROWS].float() / 255
    audio_input = AudioInput("audio", bands=MEL.bands, frames=FRAMES, mean=audio.mean().item(), std=audio.std().item())
    image_input = ImageInput("image", size=digits.SIDE, mean=(images.mean().item(),), std=(images.std().item(),))
    config = ConvConfig(hidden_sizes=[32, 64], depths=[1, 1], stem_size=16, group_size=8, num_channels=1)
    encoders = {
        "image": ModalityEncoder(image_input, ConvModel(config)),
        "audio": ModalityEncoder(audio_input, ConvModel(config)),
    }
    return modality_model(arm, MultimodalClassifier(encoders, classes=digits.CLASSES, fusion_name="concatenation"))


EXPERIMENT = BalanceExperiment(
    title="AV-MNIST",
    intro=("A blurred handwritten digit, and the same digit spoken in noise: two modalities that need each other.",),
    settings=BalanceSettings(rows=10_000, epochs=8, batch_size=64, sgd_rate=0.02, adamw_rate=1e-3),
    arms=select_arms(
        "joint", "uniform", "uniform-gamma", "mmpareto", "mmpareto-features", "min-norm-2", "pcgrad", "stop-gradient"
    ),
    heads=MODALITIES,
    encoders=MODALITIES,
    chance=1 / digits.CLASSES,
    read=read,
    view=view,
    build_model=build_model,
    facts={
        "Pictures": f"MNIST, the first principal components with {VARIANCE_SHARE:.0%} of the variance",
        "Sound": "3,000 recordings of six speakers, 0.64 s at 8 kHz, white noise of "
        f"{NOISE:g} times their amplitude, log-mel 32 x 32",
        "Pairs": "a picture meets a recording of its digit; 2,400 recordings in training, 300 others in validation, "
        "300 others in the test; the same six speakers in all; drawn once",
        "Validation": f"{digits.VALIDATION_ROWS:,} pairs; rates and epochs were chosen there",
        "Test": "10,000 pairs of 10,000 pictures and 300 recordings, judged once for each trial",
    },
    predictions=("most-of-the-gain", "half-of-the-gap", "few-conflicts", "features"),
)
