"""Small images as data URIs: photos as JPEG, matrices of numbers as a heat map in PNG."""

import base64
import io

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

JPEG_QUALITY = 80
COLOR_RAMP = ("#f4f7fb", "#cde2fb", "#86b6ef", "#3987e5", "#1c5cab", "#0d366b")  # light to dark, one hue


def jpeg_data_uri(pixels: UInt8[np.ndarray, "H W 3"]) -> str:
    """Return an RGB image as the data URI of a JPEG."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=JPEG_QUALITY, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def heatmap_data_uri(values: Float[np.ndarray, "R C"], low: float, high: float) -> str:
    """Return a matrix as the data URI of a PNG, one pixel for each value.

    Values up to `low` get the lightest colour of COLOR_RAMP, values from `high` on the darkest.
    """
    share = np.clip((values - low) / max(high - low, 1e-12), 0, 1)
    colors = np.array([_rgb(color) for color in COLOR_RAMP], dtype=float)
    stops = np.linspace(0, 1, len(colors))
    channels = [np.interp(share, stops, colors[:, c]) for c in range(3)]
    buffer = io.BytesIO()
    Image.fromarray(np.stack(channels, -1).round().astype(np.uint8)).save(buffer, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _rgb(color: str) -> tuple[int, int, int]:
    return int(color[1:3], 16), int(color[3:5], 16), int(color[5:7], 16)
