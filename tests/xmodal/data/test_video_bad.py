"""A clip or recording that cannot or must not be decoded is a BadSample with its reason, never a crash or a hang."""

import functools
import io
import os
import struct
import subprocess
import sys
import time
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.media import (
    FORMATS,
    clip,
    decode_row,
    fault_reason,
    frame_numbers,
    grid_clips,
    numbered_frames,
    real_clips,
    recording,
    tone,
)
from xmodal.data.decode.fields import Field, ValueWithSpan, allocate_columns, row_views
from xmodal.data.media.audio import AudioField
from xmodal.data.media.clip_window import ClipWindow
from xmodal.data.media.media_limits import MediaLimits
from xmodal.data.media.video import VideoField
from xmodal.data.synthetic.mux import ClipEncoding, mux
from xmodal.errors import BadSample

VIDEO = VideoField(frames=4, size=16)
AUDIO = AudioField(window=ClipWindow(seconds=2.0, position="start"))
DAMAGED = {"decode_truncated", "decode_corrupt", "not_a_video", "no_video_track", "no_audio_track", "unknown_codec"}
REFUSED = {*DAMAGED, "too_large", "too_long", "bad_window", "not_finite", "no_media_track", "missing_member"}


@pytest.mark.parametrize("raw", [None, b"", 7, "text", b"not a clip at all" * 9, bytes(4096), b"\xff" * 4096])
@pytest.mark.parametrize("field", [VIDEO, AUDIO], ids=["video", "audio"])
def test_bytes_that_are_no_clip_are_rejected_with_a_reason(raw: object, field: VideoField | AudioField) -> None:
    assert fault_reason(field, raw) in {"missing_member", "not_a_video", "decode_truncated", "decode_corrupt"}


def test_the_reason_names_a_missing_track() -> None:
    assert fault_reason(AUDIO, mux(numbered_frames(9), 25, None)) == "no_audio_track"
    assert fault_reason(VIDEO, mux(None, 25, tone(1.0, 16_000), 16_000)) == "no_video_track"
    assert fault_reason(VIDEO, recording(tone(1.0, 16_000), 16_000, "WAV")) == "no_video_track"
    assert fault_reason(VIDEO, recording(tone(1.0, 16_000), 16_000, "MP3")) == "no_video_track"


def playlist() -> bytes:
    return b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n"


@pytest.mark.parametrize("raw", [playlist(), b"ffconcat version 1.0\nfile /etc/passwd\n", b"<svg></svg>" * 99])
def test_formats_that_open_other_files_are_not_read(raw: bytes) -> None:
    assert fault_reason(VIDEO, raw) == "not_a_video"


CUTS = (0.02, 0.3, 0.6, 0.9, 0.98)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("share", CUTS)
def test_a_truncated_clip_is_rejected_or_read_as_a_shorter_one(format: str, share: float) -> None:
    """MPEG streams, and Matroska without an index, do not hold their length, so a part of one is a shorter clip."""
    raw = clip(format)
    cut = raw[: int(share * len(raw))]
    try:
        frames = frame_numbers(VideoField(frames=4, size=32), cut)
    except BadSample as bad:
        assert bad.reason in DAMAGED
    else:
        assert format in ("mpeg", "matroska", "webm") and frames == sorted(frames)


@real_clips
@pytest.mark.parametrize("lost", [10, 8_000, 20_000])
def test_a_real_mp4_without_its_last_bytes_is_decode_truncated(lost: int) -> None:
    """Its index is at the front, so that simple readers deliver the frames before the cut as if they were all."""
    raw = grid_clips()[0][0][:-lost]
    assert {fault_reason(AUDIO, raw) if lost < 400 else fault_reason(VIDEO, raw)} == {"decode_truncated"}


@pytest.mark.parametrize("format", ["WAV", "FLAC", "OGG", "MP3"])
@pytest.mark.parametrize("share", CUTS)
def test_a_truncated_recording_is_rejected_or_read_as_a_shorter_one(format: str, share: float) -> None:
    raw = recording(tone(2.0, 16_000), 16_000, format)
    cut = raw[: int(share * len(raw))]
    if format in ("WAV", "FLAC"):
        assert fault_reason(AUDIO, cut) in DAMAGED
        return
    try:  # Ogg and MP3 have no length in their header
        assert decode_row(AUDIO, cut)["audio_length"] < 200
    except BadSample as bad:
        assert bad.reason in DAMAGED


LIMITS = [
    ({"max_bytes": 1000}, "too_large"),
    ({"max_seconds": 1.5}, "too_long"),
    ({"max_side": 32}, "too_large"),
    ({"max_pixels": 1000}, "too_large"),
    ({"max_decoded_bytes": 10_000}, "too_large"),
]


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize(("limit", "expected"), LIMITS, ids=lambda value: str(value)[:20])
def test_limits_are_checked_before_a_frame_is_decoded(
    format: str, limit: dict, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> None:
        raise AssertionError("a frame was decoded")

    from xmodal.data.media import video_frames

    monkeypatch.setattr(video_frames, "_decode", fail)
    assert fault_reason(VideoField(frames=4, size=16, limits=MediaLimits(**limit)), clip(format)) == expected


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        ({"max_bytes": 100}, "too_large"),
        ({"max_seconds": 1.5}, "too_long"),
        ({"max_rate": 8_000}, "too_large"),
        ({"max_channels": 1}, "too_large"),
        ({"max_decoded_bytes": 10_000}, "too_large"),
    ],
    ids=lambda value: str(value)[:20],
)
@pytest.mark.parametrize(
    "raw", [recording(tone(2.0, 16_000, channels=2), 16_000, "WAV"), clip("mp4")], ids=["wav", "mp4"]
)
def test_limits_of_audio(limit: dict, expected: str, raw: bytes) -> None:
    if "max_channels" in limit and not raw.startswith(b"RIFF"):
        raw = mux(None, 25, tone(2.0, 16_000, channels=2), 16_000)
    window = ClipWindow(seconds=2.0, position="start")
    assert fault_reason(AudioField(window=window, limits=MediaLimits(**limit)), raw) == expected


def test_a_clip_of_too_many_frames_is_rejected_by_its_packets() -> None:
    """Twenty minutes of black in 200 kB are too long by the header or, where it has no length, by the timestamps."""
    black = np.zeros((600, 16, 16, 3), np.uint8)
    for format in ("mp4", "matroska", "mpeg"):
        times = 25 if format == "mpeg" else 0.5
        raw = mux(black, times, None, encoding=ClipEncoding(format=format, keyframe_interval=250))
        limits = MediaLimits(max_seconds=20.0)
        began = time.process_time()
        assert fault_reason(VideoField(frames=4, size=16, limits=limits), raw) == "too_long"
        assert time.process_time() - began < 0.5


def test_a_time_span_outside_the_clip_is_bad_window() -> None:
    for span in (None, [3.0, 4.0], [1.0], [1.0, 0.5], ["a", "b"], {"start": 1.0}, [float("nan"), 1.0], [-2.0, -1.0]):
        assert fault_reason(VIDEO, ValueWithSpan(clip(), span)) == "bad_window"
        assert fault_reason(AUDIO, ValueWithSpan(clip(), span)) == "bad_window"


def test_samples_that_are_not_finite_are_rejected() -> None:
    wave = tone(1.0, 16_000)
    wave[0, 500] = np.nan
    assert fault_reason(AUDIO, recording(wave, 16_000, "WAV", subtype="FLOAT")) == "not_finite"


def test_a_wav_of_no_samples_and_one_of_an_impossible_rate() -> None:
    assert fault_reason(AUDIO, recording(np.zeros((1, 0), np.float32), 16_000, "WAV")) in DAMAGED
    raw = bytearray(recording(tone(0.5, 16_000), 16_000, "WAV"))
    raw[24:28] = struct.pack("<I", 3_000_000)
    assert fault_reason(AUDIO, bytes(raw)) in {"too_large", *DAMAGED}


def test_cover_art_is_not_video() -> None:
    out = io.BytesIO()
    with av.open(out, "w", format="mp4") as container:
        audio = container.add_stream("aac", rate=16_000, layout="mono")
        cover = container.add_stream("mjpeg", rate=25)
        cover.width = cover.height = 16
        cover.pix_fmt = "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        for frame in (av.AudioFrame.from_ndarray(tone(1.0, 16_000), format="fltp", layout="mono"),):
            frame.sample_rate, frame.pts = 16_000, 0
            container.mux(audio.encode(frame))
        container.mux(audio.encode(None))
        container.mux(
            cover.encode(av.VideoFrame.from_ndarray(numbered_frames(1, height=16, width=16)[0], format="rgb24"))
        )
        container.mux(cover.encode(None))
    assert fault_reason(VIDEO, out.getvalue()) == "no_video_track"
    assert decode_row(AUDIO, out.getvalue())["audio_length"] == pytest.approx(100, abs=8)


@functools.cache
def fuzz_inputs() -> tuple[tuple[Field, bytes], ...]:
    """Return valid clips and recordings, each with the field that decodes it."""
    clips = [clip(format, seconds=0.6) for format in FORMATS]
    sounds = [recording(tone(0.4, 16_000), 16_000, format) for format in ("WAV", "FLAC", "OGG", "MP3")]
    return tuple([(VIDEO, raw) for raw in clips] + [(AUDIO, raw) for raw in (*clips, *sounds)])


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 13), st.lists(st.tuples(st.floats(0, 1), st.integers(0, 7)), min_size=1, max_size=40))
def test_clips_with_flipped_bits_are_decoded_or_rejected(number: int, flips: list) -> None:
    field, raw = fuzz_inputs()[number % len(fuzz_inputs())]
    damaged = bytearray(raw)
    for share, bit in flips:
        damaged[min(len(raw) - 1, int(share * len(raw)))] ^= 1 << bit
    block = allocate_columns([field], 1)
    try:
        field.decode(bytes(damaged), np.random.default_rng(0), row_views(block, 0))
    except BadSample as bad:
        assert bad.reason in REFUSED
        assert not any(column.any() for column in block.values())


FUZZ_SCRIPT = """
import random, sys, time
sys.path[:0] = [{here!r}, {root!r}]
import numpy as np
from support.media import clip, recording, tone
from xmodal.data.media.audio import AudioField
from xmodal.data.decode.fields import allocate_columns, row_views
from xmodal.data.media.video import VideoField
from xmodal.data.media.clip_window import ClipWindow
from xmodal.errors import BadSample
fields = [VideoField(frames=4, size=16), AudioField(window=ClipWindow(seconds=1.0, position="start"))]
raws = [clip(f, seconds=0.6) for f in ("mp4", "webm", "matroska", "mpeg")] + [recording(tone(.4, 16000), 16000, "WAV")]
block, rng, dice = allocate_columns(fields, 1), np.random.default_rng(0), random.Random({seed})
refused, slowest = 0, 0.0
for turn in range({turns}):
    damaged = bytearray(raws[turn % len(raws)])
    if dice.random() < 0.3:
        del damaged[dice.randrange(len(damaged)):]
    for _ in range(bool(damaged) and dice.choice((0, 1, 3, 10, 100))):
        damaged[dice.randrange(min(len(damaged), dice.choice((200, 10**9))))] = dice.randrange(256)
    for field in fields:
        began = time.process_time()
        try:
            field.decode(bytes(damaged), rng, row_views(block, 0))
        except BadSample:
            refused += 1
        slowest = max(slowest, time.process_time() - began)
print(refused, slowest)
"""


def test_a_process_that_decodes_damaged_clips_neither_crashes_nor_hangs() -> None:
    """A process of its own shows no signal, no hang, nothing on stderr, and no decode above a second."""
    here = str(Path(__file__).parents[2])
    turns = int(os.environ.get("XMODAL_FUZZ_TURNS", "250"))
    code = FUZZ_SCRIPT.format(here=here, root=os.path.dirname(here), seed=0, turns=turns)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0 and done.stderr == "", done.stderr[-2000:]
    refused, slowest = done.stdout.split()
    assert int(refused) > turns // 4 and float(slowest) < 1.0
