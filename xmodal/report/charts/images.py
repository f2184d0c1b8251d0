"""Pixels in, small images as data URIs out."""

import base64
import io
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

QUALITY = 80
RAMP = ("#f4f7fb", "#cde2fb", "#86b6ef", "#3987e5", "#1c5cab", "#0d366b")  # light to dark, one hue


def photo_uri(pixels: UInt8[np.ndarray, "H W 3"]) -> str:
    """A JPEG."""
    target = io.BytesIO()
    Image.fromarray(pixels).save(target, "JPEG", quality=QUALITY, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(target.getvalue()).decode()}"


def heat_uri(values: Float[np.ndarray, "R C"], low: float, high: float) -> str:
    """A PNG with one pixel for each value, from the lightest colour of the ramp at `low` to the darkest at `high`."""
    share = np.clip((values - low) / max(high - low, 1e-12), 0, 1)
    stops = np.array([_rgb(colour) for colour in RAMP], dtype=float)
    places = np.linspace(0, 1, len(stops))
    channels: Sequence[np.ndarray] = [np.interp(share, places, stops[:, c]) for c in range(3)]
    target = io.BytesIO()
    Image.fromarray(np.stack(channels, -1).round().astype(np.uint8)).save(target, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(target.getvalue()).decode()}"


def _rgb(colour: str) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)
