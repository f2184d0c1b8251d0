"""Make two rooms of the GRID corpus: clips as they are, and others with another lamp, camera frame and noise.

The shift belongs to the second room; the part of it that differs from clip to clip is drawn from the clip's number: it
is the same in every run, whatever its seed.
"""

from pathlib import Path

import cv2
import numpy as np
import torch

from jobs.reproduce.grid import GREY, MOUTH, Word, decode_clips, grey_mouths
from jobs.reproduce.row_batches import Fields

SEED = 20_161
HELD_EVERY = 5  # every so many training clips, by name, one is held out for validators
LAMP = np.array([1.1, 0.9, 0.7], np.float32)  # gains of red, green and blue: warm light
GAMMA, SIDE_LIGHT = 1.2, 0.3  # contrast; how much darker the far side of the mouth is
SHIFT, ZOOM = (-2, 2), (0.9, 0.95)  # pixels down and right; side of the frame in units of the first room's
SNR_DB = (10.0, 20.0)  # signal-to-noise ratio of the fan, drawn for each clip; at 0 to 10 speech is not recognised


def read(word: Word, root: Path, rows: int | None) -> dict[str, Fields]:
    """Return the parts of both domains: every other training clip belongs to the source, the rest to the target.

    Test clips are evaluated in both rooms.
    """
    transforms = {"source": grey_mouths, "target": second_room}
    parts: dict[str, Fields] = {}
    for first, (domain, transform) in enumerate(transforms.items()):
        clips = {name: x[first::2] for name, x in decode_clips(word, f"{root}/grid_s1/train-*.tar", transform).items()}
        held_out = torch.arange(len(clips["label"])) % HELD_EVERY == HELD_EVERY - 1
        parts[f"{domain}/train"] = {name: x[~held_out][:rows] for name, x in clips.items()}
        parts[f"{domain}/held"] = {name: x[held_out] for name, x in clips.items()}
        parts[f"{domain}/test"] = decode_clips(word, f"{root}/grid_s1/test-*.tar", transform)
    return parts


def second_room(frames: np.ndarray, waveform: np.ndarray, clip: int) -> tuple[np.ndarray, np.ndarray]:
    """Return grey mouths [T, 44, 48] and waveform of a clip as in the second room."""
    rng = np.random.default_rng((SEED, clip))
    return _change_frames(frames, rng), _add_noise(waveform, rng)


def _change_frames(frames: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return grey mouths under another lamp, in a frame that is zoomed and shifted."""
    rows, columns = ((part.start, part.stop - part.start) for part in MOUTH)
    zoom = rng.uniform(*ZOOM)
    height, width = round(zoom * rows[1]), round(zoom * columns[1])
    top = rows[0] + (rows[1] - height) // 2 + SHIFT[0] + int(rng.integers(-2, 3))
    left = columns[0] + (columns[1] - width) // 2 + SHIFT[1] + int(rng.integers(-2, 3))
    zoomed = frames[:, top : top + height, left : left + width].astype(np.float32) / 255
    lit = zoomed**GAMMA * LAMP * np.linspace(1, 1 - SIDE_LIGHT, width, dtype=np.float32)[:, None]
    grey = np.clip(lit, 0, 1) @ GREY * 255
    return np.stack([cv2.resize(frame, (columns[1], rows[1]), interpolation=cv2.INTER_LINEAR) for frame in grey])


def _add_noise(waveform: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the waveform with pink noise (power 1 / f), at a signal-to-noise ratio that is drawn."""
    count = len(waveform)
    spectrum = np.fft.rfft(rng.standard_normal(count)) / np.sqrt(np.arange(count // 2 + 1).clip(1))
    noise = np.fft.irfft(spectrum, count)
    speech_power, noise_power = np.square(waveform, dtype=np.float64).mean(), np.square(noise).mean()
    gain = np.sqrt(max(speech_power, 1e-8) / noise_power / 10 ** (rng.uniform(*SNR_DB) / 10))
    return (waveform + gain * noise).astype(np.float32)
