"""Clips of moving shapes as samples and tar shards, and clips with a single flash and click."""

import json
from collections.abc import Iterator
from dataclasses import asdict

import numpy as np

from xmodal.data.formats.shard_writer import ROWS_PER_SHARD, write_shards
from xmodal.data.synthetic.clips import BEATS, PITCHES, make_moving_shape, render_frames, waveform
from xmodal.data.synthetic.mux import ClipEncoding, mux


def clip_samples(
    rows: int, seed: int, *, start: int = 0, seconds: float = 2.0, size: int = 64, fps: int = 25, rate: int = 16_000
) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Yield key and members of the rows `start` to `start + rows - 1` of the corpus `seed`.

    Members are `mp4`, `txt` (the caption), `json` (the labels by name and by number: `shape`, `motion`, `class_ids`)
    and `cls` (the shape's number). Ranges that do not overlap share no row.
    """
    for index in range(start, start + rows):
        clip = make_moving_shape(seed, index)
        frames = render_frames(clip, count=max(1, round(seconds * fps)), size=size)
        encoded = mux(
            frames, fps, waveform(clip, seconds=seconds, rate=rate), rate, ClipEncoding(keyframe_interval=fps)
        )
        ids = {"shape": list(PITCHES).index(clip.shape), "motion": list(BEATS).index(clip.motion)}
        record = {"caption": clip.caption, **asdict(clip), "class_ids": ids, "seconds": seconds}
        members = {"mp4": encoded, "txt": clip.caption.encode(), "json": json.dumps(record).encode()}
        yield f"clip-{index:08d}", {**members, "cls": str(ids["shape"]).encode()}


def write_clips(
    uri: str, rows: int, seed: int, *, seconds: float = 2.0, size: int = 64, rows_per_shard: int = ROWS_PER_SHARD
) -> None:
    """Write `clip_samples` as tar shards `clips-00000.tar` ... below `uri`; equal arguments give equal bytes."""
    samples = clip_samples(rows, seed, seconds=seconds, size=size)
    list(write_shards(samples, uri, format="tar", prefix="clips-", rows_per_shard=rows_per_shard))


def flash_and_click(
    at: float, *, seconds: float = 2.0, fps: int = 25, size: int = 64, rate: int = 16_000
) -> tuple[np.ndarray, np.ndarray]:
    """Return black frames [T, S, S, 3] with a white one and silence [1, N] with a click, both about `at` seconds."""
    flash = round(at * fps)
    frames = np.zeros((round(seconds * fps), size, size, 3), np.uint8)
    frames[flash] = 255
    waveform = np.zeros((1, round(seconds * rate)), np.float32)
    first = round(flash / fps * rate)
    waveform[0, first : first + rate // 100] = 0.8 * np.sin(2 * np.pi * 1000 / rate * np.arange(rate // 100))
    return frames, waveform
