"""From (seed, index) to a captioned clip: a moving shape whose tone tells the shape and whose rhythm tells the motion.

Sight and sound say the same thing, the colour is seen only and the loudness heard only; so either modality alone can
learn the labels, and a pair can be told from every other pair of shape and motion.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass

import numpy as np
from jaxtyping import Float32, UInt8

from xmodal.data.formats.shard_writer import ROWS_PER_SHARD, WrittenShard, write_shards
from xmodal.data.synthetic.mux import Encoding, mux
from xmodal.data.synthetic.raster import fill, place
from xmodal.data.synthetic.scene_graph import COLOURS, Thing
from xmodal.data.synthetic.shapes import parts
from xmodal.errors import ConfigError
from xmodal.storage import StorageOptions

PITCHES = {"circle": 220.0, "square": 330.0, "triangle": 495.0, "star": 742.0, "heart": 1114.0, "cross": 1670.0}  # Hz
BEATS = {"left": 2.0, "right": 3.5, "up": 6.0, "down": 10.0, "still": 0.0}  # tones per second; 0 is one long tone
_HEADINGS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1), "still": (0, 0)}
_WORDS = {
    "left": "moves to the left", "right": "moves to the right", "up": "rises", "down": "falls", "still": "stands still",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Moving:
    """What happens in one clip."""

    shape: str
    motion: str
    colour: str
    loudness: float  # amplitude, full scale is 1
    offset: tuple[float, float]  # of the path's middle from the picture's, as shares of its side
    noise_seed: int

    @property
    def caption(self) -> str:
        return f"a {self.colour} {self.shape} {_WORDS[self.motion]}"


def moving(seed: int, index: int) -> Moving:
    """Clip number `index` of the endless corpus `seed`."""
    rng = np.random.default_rng((seed, index, 7))
    shapes, motions, colours = tuple(PITCHES), tuple(BEATS), tuple(COLOURS)
    return Moving(
        shape=shapes[int(rng.integers(len(shapes)))],
        motion=motions[int(rng.integers(len(motions)))],
        colour=colours[int(rng.integers(len(colours)))],
        loudness=float(rng.uniform(0.1, 0.6)),
        offset=(float(rng.uniform(-0.08, 0.08)), float(rng.uniform(-0.08, 0.08))),
        noise_seed=int(rng.integers(2**32)),
    )


def pictures(clip: Moving, *, count: int, size: int) -> UInt8[np.ndarray, "T S S 3"]:
    """The shape on its way across, on grey with a little noise."""
    rng = np.random.default_rng(clip.noise_seed)
    ground = np.clip(rng.normal(200, 6, (size, size, 3)), 0, 255)
    heading, colour = np.array(_HEADINGS[clip.motion], float), np.array(COLOURS[clip.colour], float)
    shots = np.empty((count, size, size, 3), np.uint8)
    for number, share in enumerate(np.linspace(-0.5, 0.5, count)):
        x, y = 0.5 + np.array(clip.offset) + 0.5 * share * heading
        thing = Thing(shape=clip.shape, colour=clip.colour, size="large", x=x, y=y, radius=0.2, angle=0.0)
        picture = ground.copy()
        for part in parts(clip.shape):
            cover = fill([place(contour, thing, size) for contour in part.contours], (size, size))[..., None]
            picture += cover * (part.tone * colour - picture)
        shots[number] = picture
    return shots


def waveform(clip: Moving, *, seconds: float, rate: int) -> Float32[np.ndarray, "1 S"]:
    """The shape's tone in the rhythm of its motion, with two overtones and some noise."""
    time = np.arange(round(seconds * rate)) / rate
    pitch, beats = PITCHES[clip.shape], BEATS[clip.motion]
    tone = sum(np.sin(2 * np.pi * pitch * k * time) / k**2 for k in (1, 2, 3) if pitch * k < 0.45 * rate)
    gate = np.ones_like(time) if beats == 0 else ((time * beats) % 1 < 0.5).astype(float)
    smooth = np.convolve(gate, np.full(max(1, rate // 200), 200 / rate), "same")  # 5 ms edges, no clicks
    noise = np.random.default_rng(clip.noise_seed).normal(0, 0.01, len(time))
    return (0.6 * clip.loudness * tone * smooth + noise)[None].astype(np.float32)


def clip_samples(
    rows: int, seed: int, *, start: int = 0, seconds: float = 2.0, size: int = 64, fps: int = 25, rate: int = 16_000
) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Rows `start` to `start + rows` of the corpus `seed`: keys, and `mp4`, `txt` (the caption), `json`, `cls`.

    `json` holds the labels by name and by number (`shape`, `motion`, `class_ids`); `cls` is the shape's number. Ranges
    that do not meet share no row.
    """
    for index in range(start, start + rows):
        clip = moving(seed, index)
        shots = pictures(clip, count=max(1, round(seconds * fps)), size=size)
        encoded = mux(shots, fps, waveform(clip, seconds=seconds, rate=rate), rate, Encoding(group=fps))
        ids = {"shape": list(PITCHES).index(clip.shape), "motion": list(BEATS).index(clip.motion)}
        record = {"caption": clip.caption, **asdict(clip), "class_ids": ids, "seconds": seconds}
        members = {"mp4": encoded, "txt": clip.caption.encode(), "json": json.dumps(record).encode()}
        yield f"clip-{index:08d}", {**members, "cls": str(ids["shape"]).encode()}


def write_clips(
    uri: str,
    rows: int,
    seed: int,
    *,
    start: int = 0,
    seconds: float = 2.0,
    size: int = 64,
    rows_per_shard: int = ROWS_PER_SHARD,
    options: StorageOptions | None = None,
) -> list[WrittenShard]:
    """Write `clip_samples` as tar shards `clips-00000.tar` ... below `uri`; the same arguments give the same bytes."""
    if rows < 1 or not 0 < seconds <= 60 or size < 16 or size % 2:
        raise ConfigError(f"clips: rows={rows} >= 1, 0 < seconds={seconds} <= 60, even size={size} >= 16 must hold")
    samples = clip_samples(rows, seed, start=start, seconds=seconds, size=size)
    shards = write_shards(
        samples, uri, format="tar", prefix="clips-", rows=rows_per_shard, options=options or StorageOptions()
    )
    return list(shards)


def flash_and_click(
    at: float, *, seconds: float = 2.0, fps: int = 25, size: int = 64, rate: int = 16_000
) -> tuple[UInt8[np.ndarray, "T S S 3"], Float32[np.ndarray, "1 N"]]:
    """Black pictures with one white one, and silence with one click, both from the picture nearest to `at` seconds."""
    flash = round(at * fps)
    shots = np.zeros((round(seconds * fps), size, size, 3), np.uint8)
    shots[flash] = 255
    sound = np.zeros((1, round(seconds * rate)), np.float32)
    first = round(flash / fps * rate)
    sound[0, first : first + rate // 100] = 0.8 * np.sin(2 * np.pi * 1000 / rate * np.arange(rate // 100))
    return shots, sound
