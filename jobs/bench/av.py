"""Clips a second and core from mp4 to 8 frames of 112 px and a log-mel spectrogram, against decoding everything.

Three cases: real clips of 3 s taken whole (one group of pictures, so that little can be left out), a word of 0.64 s in
them, and 3 s out of a 30 s clip of 320x240. The contenders take turns on one thread, several rounds; rates are by CPU
time, and a ratio is of one round. decord takes part where it is installed (`pip install decord`).
"""

import importlib.util
import io
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np

from jobs.bench.measurement import Measurement, median_measurement
from xmodal.data.decode.fields import ValueWithSpan, allocate_columns, row_views
from xmodal.data.media.audio import AudioField
from xmodal.data.media.clip_window import ClipWindow
from xmodal.data.media.mel import MelSpectrogram
from xmodal.data.media.video import VideoField
from xmodal.data.synthetic.clips import BEATS, make_moving_shape, render_frames, waveform
from xmodal.data.synthetic.mux import ClipEncoding, mux

NEEDS = ("grid_s1/test-00000.tar",)
FRAMES, SIZE, RATE, ROUNDS = 8, 112, 16_000, 5
CLIPS = {"whole": 60, "word": 60, "long": 4}  # per round
TARGET = 1.5  # of decoding everything

Span = tuple[float, float]  # seconds
Decode = Callable[[bytes, Span], None]


def run(folder: Path) -> Iterator[Measurement]:
    """Yield the rates of all contenders in all cases and their ratios; `folder` holds the data sets."""
    cv2.setNumThreads(1)
    for case, clips in cases(folder).items():
        contenders = {"xmodal": decode_with_xmodal(clips[0][1]), "everything": decode_everything}
        if importlib.util.find_spec("decord"):
            contenders["decord"] = decode_with_decord()
        rates: dict[str, list[float]] = {name: [] for name in contenders}
        for decode in contenders.values():
            decode(*clips[0])  # imports, tables, the first opening
        for _ in range(ROUNDS):
            for name, decode in contenders.items():
                rates[name].append(clips_per_second(decode, clips))
        yield from measurements(case, rates)


def measurements(case: str, rates: dict[str, list[float]]) -> Iterator[Measurement]:
    """Yield the rate of every contender in one case, then the ratios of ours to the others."""
    for name, values in rates.items():
        yield median_measurement(values, name=f"av_{case}_{name}_clips_per_s", unit="clips/s/core")
    for name in rates:
        if name != "xmodal":
            ratios = [ours / theirs for ours, theirs in zip(rates["xmodal"], rates[name], strict=True)]
            target = TARGET if name == "everything" else None
            yield median_measurement(ratios, name=f"av_{case}_vs_{name}", unit="ratio", target=target)


def clips_per_second(decode: Decode, clips: list[tuple[bytes, Span]]) -> float:
    """Return clips per second of this process's CPU time."""
    began = time.process_time()
    for encoded, span in clips:
        decode(bytes(bytearray(encoded)), span)  # a copy, as a reader gives it: nothing is cached
    return len(clips) / (time.process_time() - began)


def cases(folder: Path) -> dict[str, list[tuple[bytes, Span]]]:
    """Return clips with the seconds wanted of each, by case."""
    with tarfile.open(folder / "grid_s1" / "test-00000.tar") as archive:
        members = [member for member in archive if member.name.endswith(".mp4")][: CLIPS["whole"]]
        real = [archive.extractfile(member).read() for member in members]  # type: ignore[union-attr]
    return {
        "whole": [(encoded, (0.0, 3.0)) for encoded in real],
        "word": [(encoded, (0.86, 1.5)) for encoded in real],
        "long": [(long_clip(index), (17.0, 20.0)) for index in range(CLIPS["long"])],
    }


def long_clip(index: int) -> bytes:
    """Return 30 seconds of 320x240 at 25 frames a second, with a key frame every 2 s."""
    clip = make_moving_shape(0, index)
    small_frames = render_frames(clip, count=750, size=64)
    frames = np.stack([cv2.resize(frame, (320, 240)) for frame in small_frames])
    assert clip.motion in BEATS
    return mux(frames, 25, waveform(clip, seconds=30.0, rate=RATE), RATE, ClipEncoding(keyframe_interval=50))


def decode_with_xmodal(span: Span) -> Decode:
    """Return a function that decodes both fields from one container, with the window read from the sample."""
    window = ClipWindow(seconds=span[1] - span[0], position="start")
    fields = VideoField(frames=FRAMES, size=SIZE, window=window), AudioField(rate=RATE, window=window)
    block, rng = allocate_columns(fields, 1), np.random.default_rng(0)

    def decode(encoded: bytes, span: Span) -> None:
        for field in fields:
            field.decode(ValueWithSpan(encoded, list(span)), rng, row_views(block, 0))

    return decode


def decode_everything(encoded: bytes, span: Span) -> None:
    """Decode as most loaders do: every frame and audio sample of the clip, then select the wanted ones."""
    frames, sound_parts = [], []
    with av.open(io.BytesIO(encoded), "r") as container:
        for stream in container.streams:
            stream.thread_type = "NONE"  # type: ignore[attr-defined]
        resampler = av.AudioResampler("flt", "mono", RATE)
        frame: Any
        for frame in container.decode(video=0, audio=0):
            if isinstance(frame, av.VideoFrame):
                resized = frame.reformat(SIZE, SIZE, "rgb24", interpolation="AREA", threads=1)
                frames.append((frame.time, resized.to_ndarray()))
            else:
                sound_parts += [part.to_ndarray()[0] for part in resampler.resample(frame)]
    times = np.linspace(*span, FRAMES, endpoint=False) + (span[1] - span[0]) / FRAMES / 2
    indexes = np.searchsorted([time_s for time_s, _ in frames], times, "right") - 1
    np.stack([frames[index][1] for index in indexes])
    MelSpectrogram().log_mel(np.concatenate(sound_parts)[round(span[0] * RATE) : round(span[1] * RATE)], RATE)


def decode_with_decord() -> Decode:
    """Return a function that decodes with decord's readers, one thread, frames scaled by the decoder."""
    import decord

    decord.logging.set_level(decord.logging.QUIET)

    def decode(encoded: bytes, span: Span) -> None:
        video = decord.VideoReader(io.BytesIO(encoded), width=SIZE, height=SIZE, num_threads=1)
        times = np.linspace(*span, FRAMES, endpoint=False) + (span[1] - span[0]) / FRAMES / 2
        video.get_batch(np.minimum(times * video.get_avg_fps(), len(video) - 1).astype(int)).asnumpy()
        audio = decord.AudioReader(io.BytesIO(encoded), sample_rate=RATE, mono=True)
        samples = audio[round(span[0] * RATE) : min(round(span[1] * RATE), len(audio))].asnumpy()[0]
        MelSpectrogram().log_mel(samples.astype(np.float32), RATE)

    return decode
