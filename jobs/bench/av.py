"""Clips a second and core from mp4 to 8 pictures of 112 px and a log-mel spectrogram, against decoding everything.

Three cases: real clips of 3 s taken whole (one group of pictures, so that little can be left out), a word of 0.64 s in
them, and 3 s out of a 30 s clip of 320x240. The contenders take turns on one thread, several rounds; rates are by CPU
time, and a ratio is of one round. decord takes part where it is installed (`pip install decord`).
"""

import importlib.util
import io
import tarfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import av
import cv2
import numpy as np

from jobs.bench.measurement import Figure, median_figure
from jobs.bench.real_data import material
from xmodal.data.decode.fields import Excerpt, allocate, row_of
from xmodal.data.media.audio import AudioField
from xmodal.data.media.clip_window import Window
from xmodal.data.media.mel import Mel
from xmodal.data.media.video import VideoField
from xmodal.data.synthetic.clips import BEATS, moving, pictures, waveform
from xmodal.data.synthetic.mux import Encoding, mux

FRAMES, SIZE, RATE, ROUNDS = 8, 112, 16_000, 5
CLIPS = {"whole": 60, "word": 60, "long": 4}  # per round
REACH = 1.5  # of decoding everything

Span = tuple[float, float]  # seconds
Decode = Callable[[bytes, Span], None]


def run() -> Iterator[Figure]:
    cv2.setNumThreads(1)
    for case, clips in cases().items():
        contenders = {"xmodal": xmodal(clips[0][1]), "everything": everything}
        if importlib.util.find_spec("decord"):
            contenders["decord"] = with_decord()
        rates: dict[str, list[float]] = {name: [] for name in contenders}
        for decode in contenders.values():
            decode(*clips[0])  # imports, tables, the first opening
        for _ in range(ROUNDS):
            for name, decode in contenders.items():
                rates[name].append(rate(decode, clips))
        yield from figures(case, rates)


def figures(case: str, rates: dict[str, list[float]]) -> Iterator[Figure]:
    for name, values in rates.items():
        yield median_figure(values, name=f"av_{case}_{name}_clips_per_s", unit="clips/s/core")
    for name in rates:
        if name != "xmodal":
            ratios = [ours / theirs for ours, theirs in zip(rates["xmodal"], rates[name], strict=True)]
            reach = REACH if name == "everything" else None
            yield median_figure(ratios, name=f"av_{case}_vs_{name}", unit="ratio", reach=reach)


def rate(decode: Decode, clips: list[tuple[bytes, Span]]) -> float:
    """Clips per second of this process's CPU time."""
    began = time.process_time()
    for encoded, span in clips:
        decode(bytes(bytearray(encoded)), span)  # bytes of its own, as a reader gives them: nothing is cached
    return len(clips) / (time.process_time() - began)


def cases() -> dict[str, list[tuple[bytes, Span]]]:
    """Clips with the seconds wanted of each."""
    root = material({"grid_s1/test-00000.tar": "clips of a talking head"})
    with tarfile.open(root / "grid_s1" / "test-00000.tar") as archive:
        members = [member for member in archive if member.name.endswith(".mp4")][: CLIPS["whole"]]
        real = [archive.extractfile(member).read() for member in members]  # type: ignore[union-attr]
    return {
        "whole": [(encoded, (0.0, 3.0)) for encoded in real],
        "word": [(encoded, (0.86, 1.5)) for encoded in real],
        "long": [(long_clip(index), (17.0, 20.0)) for index in range(CLIPS["long"])],
    }


def long_clip(index: int) -> bytes:
    """30 seconds of 320x240 at 25 pictures a second, a key picture every 2 s."""
    clip = moving(0, index)
    small = pictures(clip, count=750, size=64)
    shots = np.stack([cv2.resize(picture, (320, 240)) for picture in small])
    assert clip.motion in BEATS
    return mux(shots, 25, waveform(clip, seconds=30.0, rate=RATE), RATE, Encoding(group=50))


def xmodal(span: Span) -> Decode:
    """Both fields on one container, the window read from the sample."""
    window = Window(seconds=span[1] - span[0], place="start")
    fields = VideoField(frames=FRAMES, size=SIZE, window=window), AudioField(rate=RATE, window=window)
    block, rng = allocate(fields, 1), np.random.default_rng(0)

    def decode(encoded: bytes, span: Span) -> None:
        for field in fields:
            field.decode(Excerpt(encoded, list(span)), rng, row_of(block, 0))

    return decode


def everything(encoded: bytes, span: Span) -> None:
    """What most loaders do: every picture and sample of the clip, then the wanted ones."""
    shots, sounds = [], []
    with av.open(io.BytesIO(encoded), "r") as container:
        for stream in container.streams:
            stream.thread_type = "NONE"  # type: ignore[attr-defined]
        resampler = av.AudioResampler("flt", "mono", RATE)
        frame: Any
        for frame in container.decode(video=0, audio=0):
            if isinstance(frame, av.VideoFrame):
                small = frame.reformat(SIZE, SIZE, "rgb24", interpolation="AREA", threads=1)
                shots.append((frame.time, small.to_ndarray()))
            else:
                sounds += [part.to_ndarray()[0] for part in resampler.resample(frame)]
    times = np.linspace(*span, FRAMES, endpoint=False) + (span[1] - span[0]) / FRAMES / 2
    chosen = np.searchsorted([when for when, _ in shots], times, "right") - 1
    np.stack([shots[place][1] for place in chosen])
    Mel().log_mel(np.concatenate(sounds)[round(span[0] * RATE) : round(span[1] * RATE)], RATE)


def with_decord() -> Decode:
    """decord's readers, one thread, pictures scaled by the decoder."""
    import decord

    decord.logging.set_level(decord.logging.QUIET)

    def decode(encoded: bytes, span: Span) -> None:
        video = decord.VideoReader(io.BytesIO(encoded), width=SIZE, height=SIZE, num_threads=1)
        times = np.linspace(*span, FRAMES, endpoint=False) + (span[1] - span[0]) / FRAMES / 2
        video.get_batch(np.minimum(times * video.get_avg_fps(), len(video) - 1).astype(int)).asnumpy()
        sound = decord.AudioReader(io.BytesIO(encoded), sample_rate=RATE, mono=True)
        samples = sound[round(span[0] * RATE) : min(round(span[1] * RATE), len(sound))].asnumpy()[0]
        Mel().log_mel(samples.astype(np.float32), RATE)

    return decode
