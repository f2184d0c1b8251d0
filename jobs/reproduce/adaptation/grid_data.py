"""GRID in, two rooms out: the clips as they are with labels, and others under another lamp, framed anew, in noise.

The shift is a property of the second room, its lamp, camera and fan, with what differs from clip to clip drawn once
from the clip's number: the same at every start, whatever a run's seed.
"""

from pathlib import Path

import cv2
import numpy as np
import torch

from jobs.reproduce.grid import GREY, MOUTH, Word, decoded, unchanged
from jobs.reproduce.row_batches import Fields

SEED = 20_161
HELD_EVERY = 5  # training clips, by name, that validators look at
LAMP = np.array([1.1, 0.9, 0.7], np.float32)  # gains of red, green and blue: warm light
GAMMA, SIDE_LIGHT = 1.2, 0.3  # contrast; how much darker the far side of the mouth is
SHIFT, ZOOM = (-2, 2), (0.9, 0.95)  # pixels down and right, and sides of the frame beside the first room's
SNR_DB = (10.0, 20.0)  # of the fan, from clip to clip; at 0 to 10 nothing of the sound is understood


def read(word: Word, root: Path, rows: int | None) -> dict[str, Fields]:
    """Every other training clip is the source's, the others are the target's; test clips are judged in both rooms."""
    kinds = {"source": unchanged, "target": other_room}
    found: dict[str, Fields] = {}
    for first, (domain, change) in enumerate(kinds.items()):
        own = {name: x[first::2] for name, x in decoded(word, f"{root}/grid_s1/train-*.tar", change).items()}
        held = torch.arange(len(own["label"])) % HELD_EVERY == HELD_EVERY - 1
        found[f"{domain}/train"] = {name: x[~held][:rows] for name, x in own.items()}
        found[f"{domain}/held"] = {name: x[held] for name, x in own.items()}
        found[f"{domain}/test"] = decoded(word, f"{root}/grid_s1/test-*.tar", change)
    return found


def other_room(pictures: np.ndarray, waveform: np.ndarray, clip: int) -> tuple[np.ndarray, np.ndarray]:
    """Grey mouths [T, 44, 48] and sound of the same clip in the second room."""
    rng = np.random.default_rng((SEED, clip))
    return _seen(pictures, rng), _heard(waveform, rng)


def _seen(pictures: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    rows, columns = ((part.start, part.stop - part.start) for part in MOUTH)
    zoom = rng.uniform(*ZOOM)
    height, width = round(zoom * rows[1]), round(zoom * columns[1])
    top = rows[0] + (rows[1] - height) // 2 + SHIFT[0] + int(rng.integers(-2, 3))
    left = columns[0] + (columns[1] - width) // 2 + SHIFT[1] + int(rng.integers(-2, 3))
    framed = pictures[:, top : top + height, left : left + width].astype(np.float32) / 255
    lit = framed**GAMMA * LAMP * np.linspace(1, 1 - SIDE_LIGHT, width, dtype=np.float32)[:, None]
    grey = np.clip(lit, 0, 1) @ GREY * 255
    return np.stack([cv2.resize(one, (columns[1], rows[1]), interpolation=cv2.INTER_LINEAR) for one in grey])


def _heard(waveform: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """With noise of falling spectrum (a power of 1 / f), as loud beside the speech as was drawn."""
    count = len(waveform)
    spectrum = np.fft.rfft(rng.standard_normal(count)) / np.sqrt(np.arange(count // 2 + 1).clip(1))
    noise = np.fft.irfft(spectrum, count)
    speech, loud = np.square(waveform, dtype=np.float64).mean(), np.square(noise).mean()
    gain = np.sqrt(max(speech, 1e-8) / loud / 10 ** (rng.uniform(*SNR_DB) / 10))
    return (waveform + gain * noise).astype(np.float32)
