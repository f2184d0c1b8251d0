"""Clips for the tests: frames that show their own number, tones, recordings, and containers in every format."""

import functools
import io
import json
import os
import tarfile
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import soundfile

from xmodal.data.decode.fields import Field, allocate_columns, row_views
from xmodal.data.media.audio import AudioField
from xmodal.data.media.container import ClipReader
from xmodal.data.media.media_limits import MediaLimits
from xmodal.data.media.video import VideoField
from xmodal.data.synthetic.mux import ClipEncoding, mux
from xmodal.errors import BadSample

FORMATS = ("mp4", "mov", "matroska", "webm", "mpeg")
RATES = {"mp4": 16_000, "mov": 16_000, "matroska": 16_000, "webm": 48_000, "mpeg": 44_100}  # that the codec supports
DATA = Path(os.environ.get("XMODAL_BENCH_DATA") or Path(__file__).resolve().parents[3] / "shared" / "data")
real_clips = pytest.mark.skipif(not (DATA / "grid_s1").is_dir(), reason=f"no GRID clips in {DATA}")


def numbered_frames(count: int, *, height: int = 64, width: int = 64) -> np.ndarray:
    """Return frames [count, height, width, 3] whose number can be read back from 8 light or dark stripes."""
    frames = np.empty((count, height, width, 3), np.uint8)
    for number in range(count):
        for bit in range(8):
            left, right = bit * width // 8, (bit + 1) * width // 8
            frames[number, :, left:right] = 215 if number >> bit & 1 else 40  # MPEG-1 cannot hold full contrast
    return frames


def frame_number(frame: np.ndarray) -> int:
    """Return the number of a frame of `numbered_frames`, after any codec and resize."""
    stripes = frame.mean((0, 2)).reshape(8, -1)[:, 1:-1].mean(1)
    assert np.abs(stripes - 127).min() > 60, stripes
    return int(sum(int(stripe > 127) << bit for bit, stripe in enumerate(stripes)))


def tone(seconds: float, rate: int, hertz: float = 440.0, channels: int = 1) -> np.ndarray:
    wave = 0.5 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)
    return np.tile(wave.astype(np.float32), (channels, 1))


@functools.cache
def clip(format: str = "mp4", seconds: float = 2.0, keyframe_interval: int = 12, fps: float = 25.0) -> bytes:
    """Return a clip of numbered frames with a tone."""
    rate = RATES[format]
    frames = numbered_frames(round(seconds * fps))
    return mux(frames, fps, tone(seconds, rate), rate, ClipEncoding(format=format, keyframe_interval=keyframe_interval))


def recording(wave: np.ndarray, rate: int, format: str, **arguments: Any) -> bytes:
    """Return an audio file of a waveform [channels, samples]."""
    out = io.BytesIO()
    soundfile.write(out, wave.T, rate, format=format, **arguments)
    return out.getvalue()


def decode_row(field: Field, raw: Any, seed: int = 0) -> dict[str, np.ndarray]:
    """Decode one row and return its columns."""
    block = allocate_columns([field], 1)
    field.decode(raw, np.random.default_rng(seed), row_views(block, 0))
    return {name: column[0] for name, column in block.items()}


def frame_numbers(field: VideoField, raw: Any) -> list[int]:
    """Return the numbers of the frames that are not masked."""
    columns = decode_row(field, raw)
    return [frame_number(frame) for frame in columns[field.name][columns[f"{field.name}_mask"]]]


def fault_reason(field: VideoField | AudioField, raw: Any) -> str:
    """Return why the field rejects `raw`, and assert that nothing was written."""
    block = allocate_columns([field], 1)
    with pytest.raises(BadSample) as caught:
        field.decode(raw, np.random.default_rng(0), row_views(block, 0))
    assert not any(column.any() for column in block.values())
    return caught.value.reason


def decode_all_frames(raw: bytes) -> list[tuple[float, np.ndarray]]:
    """Return (seconds, RGB) of all frames, decoded from the first to the last."""
    clock_start = ClipReader(raw, MediaLimits()).clock_start
    with av.open(io.BytesIO(raw)) as container:
        return [(f.time - clock_start, f.to_ndarray(format="rgb24")) for f in container.decode(video=0)]


@functools.cache
def grid_clips(count: int = 4) -> tuple[tuple[bytes, dict], ...]:
    """Return real clips with the content of their JSON."""
    with tarfile.open(DATA / "grid_s1" / "test-00000.tar") as archive:
        names = [name for name in archive.getnames() if name.endswith(".mp4")][:count]

        def member(name: str) -> bytes:
            return archive.extractfile(name).read()

        return tuple((member(name), json.loads(member(name.replace(".mp4", ".json")))) for name in names)


def grid_clip(key: str) -> bytes:
    """Return the GRID test clip of this name."""
    for path in sorted((DATA / "grid_s1").glob("test-*.tar")):
        with tarfile.open(path) as archive:
            if f"{key}.mp4" in archive.getnames():
                return archive.extractfile(f"{key}.mp4").read()
    raise KeyError(key)
