"""Generate captioned clips of a moving shape: the pitch of the tone tells the shape, its rhythm tells the motion.

Video and audio hold the same labels, while the colour is only in the video and the loudness only in the audio. So the
labels can be learned from either modality alone, and clips of different shapes and motions can be told apart.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, UInt8

from xmodal.data.synthetic.raster import fill_polygons, to_canvas
from xmodal.data.synthetic.scene_graph import COLOURS, Thing
from xmodal.data.synthetic.shapes import shape_parts

PITCHES = {"circle": 220.0, "square": 330.0, "triangle": 495.0, "star": 742.0, "heart": 1114.0, "cross": 1670.0}  # Hz
BEATS = {"left": 2.0, "right": 3.5, "up": 6.0, "down": 10.0, "still": 0.0}  # tones per second; 0 is one long tone
_DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1), "still": (0, 0)}
_VERBS = {
    "left": "moves to the left", "right": "moves to the right", "up": "rises", "down": "falls", "still": "stands still",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class MovingShape:
    """The content of one clip."""

    shape: str
    motion: str
    colour: str
    loudness: float  # amplitude, full scale is 1
    offset: tuple[float, float]  # of the path's middle from the image's, as shares of its side
    noise_seed: int

    @property
    def caption(self) -> str:
        """A sentence that describes the clip."""
        return f"a {self.colour} {self.shape} {_VERBS[self.motion]}"


def make_moving_shape(seed: int, index: int) -> MovingShape:
    """Return the content of clip number `index` of the endless corpus `seed`.

    >>> make_moving_shape(0, 0).caption
    'a red cross moves to the left'
    """
    rng = np.random.default_rng((seed, index, 7))
    shapes, motions, colours = tuple(PITCHES), tuple(BEATS), tuple(COLOURS)
    return MovingShape(
        shape=shapes[int(rng.integers(len(shapes)))],
        motion=motions[int(rng.integers(len(motions)))],
        colour=colours[int(rng.integers(len(colours)))],
        loudness=float(rng.uniform(0.1, 0.6)),
        offset=(float(rng.uniform(-0.08, 0.08)), float(rng.uniform(-0.08, 0.08))),
        noise_seed=int(rng.integers(2**32)),
    )


def render_frames(clip: MovingShape, *, count: int, size: int) -> UInt8[np.ndarray, "T S S 3"]:
    """Return `count` frames of the moving shape, on grey with a little noise."""
    rng = np.random.default_rng(clip.noise_seed)
    background = np.clip(rng.normal(200, 6, (size, size, 3)), 0, 255)
    direction, colour = np.array(_DIRECTIONS[clip.motion], float), np.array(COLOURS[clip.colour], float)
    frames = np.empty((count, size, size, 3), np.uint8)
    for number, share in enumerate(np.linspace(-0.5, 0.5, count)):
        x, y = 0.5 + np.array(clip.offset) + 0.5 * share * direction
        thing = Thing(shape=clip.shape, colour=clip.colour, size="large", x=x, y=y, radius=0.2, angle=0.0)
        image = background.copy()
        for part in shape_parts(clip.shape):
            cover = fill_polygons([to_canvas(contour, thing, size) for contour in part.contours], (size, size))[
                ..., None
            ]
            image += cover * (part.tone * colour - image)
        frames[number] = image
    return frames


def waveform(clip: MovingShape, *, seconds: float, rate: int) -> Float32[np.ndarray, "1 S"]:
    """Return the shape's tone in the rhythm of its motion, with two overtones and some noise."""
    time = np.arange(round(seconds * rate)) / rate
    pitch, beats = PITCHES[clip.shape], BEATS[clip.motion]
    tone = sum(np.sin(2 * np.pi * pitch * k * time) / k**2 for k in (1, 2, 3) if pitch * k < 0.45 * rate)
    gate = np.ones_like(time) if beats == 0 else ((time * beats) % 1 < 0.5).astype(float)
    smooth = np.convolve(gate, np.full(max(1, rate // 200), 200 / rate), "same")  # 5 ms edges, no clicks
    noise = np.random.default_rng(clip.noise_seed).normal(0, 0.01, len(time))
    return (0.6 * clip.loudness * tone * smooth + noise)[None].astype(np.float32)
