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

from support.media import FORMATS, clip, decoded, grid, numbered, numbers, real_clips, reason, recording, tone
from xmodal.data.decode.fields import Excerpt, Field, allocate, row_of
from xmodal.data.media.audio import AudioField
from xmodal.data.media.clip_window import Window
from xmodal.data.media.media_limits import MediaLimits
from xmodal.data.media.video import VideoField
from xmodal.data.synthetic.mux import Encoding, mux
from xmodal.errors import BadSample

VIDEO = VideoField(frames=4, size=16)
AUDIO = AudioField(window=Window(seconds=2.0, place="start"))
DAMAGED = {"decode_truncated", "decode_corrupt", "not_a_video", "no_video_track", "no_audio_track", "unknown_codec"}
REFUSED = {*DAMAGED, "too_large", "too_long", "bad_window", "not_finite", "no_media_track", "missing_member"}


@pytest.mark.parametrize("raw", [None, b"", 7, "text", b"not a clip at all" * 9, bytes(4096), b"\xff" * 4096])
@pytest.mark.parametrize("field", [VIDEO, AUDIO], ids=["video", "audio"])
def test_what_is_no_clip_says_so(raw: object, field: VideoField | AudioField) -> None:
    assert reason(field, raw) in {"missing_member", "not_a_video", "decode_truncated", "decode_corrupt"}


def test_a_missing_track_is_named() -> None:
    assert reason(AUDIO, mux(numbered(9), 25, None)) == "no_audio_track"
    assert reason(VIDEO, mux(None, 25, tone(1.0, 16_000), 16_000)) == "no_video_track"
    assert reason(VIDEO, recording(tone(1.0, 16_000), 16_000, "WAV")) == "no_video_track"
    assert reason(VIDEO, recording(tone(1.0, 16_000), 16_000, "MP3")) == "no_video_track"


def playlist() -> bytes:
    return b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n"


@pytest.mark.parametrize("raw", [playlist(), b"ffconcat version 1.0\nfile /etc/passwd\n", b"<svg></svg>" * 99])
def test_formats_that_open_other_files_are_not_read(raw: bytes) -> None:
    assert reason(VIDEO, raw) == "not_a_video"


CUTS = (0.02, 0.3, 0.6, 0.9, 0.98)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("share", CUTS)
def test_a_clip_cut_short_is_refused_or_whole(format: str, share: float) -> None:
    """MPEG streams and Matroska without an index say nothing of their length: what is there is a shorter clip."""
    raw = clip(format)
    cut = raw[: int(share * len(raw))]
    try:
        found = numbers(VideoField(frames=4, size=32), cut)
    except BadSample as bad:
        assert bad.reason in DAMAGED
    else:
        assert format in ("mpeg", "matroska", "webm") and found == sorted(found)


@real_clips
@pytest.mark.parametrize("lost", [10, 8_000, 20_000])
def test_a_real_mp4_that_lacks_its_last_bytes_is_truncated(lost: int) -> None:
    """Its index is at the front: plain readers deliver the pictures before the cut as if they were all."""
    raw = grid()[0][0][:-lost]
    assert {reason(AUDIO, raw) if lost < 400 else reason(VIDEO, raw)} == {"decode_truncated"}


@pytest.mark.parametrize("format", ["WAV", "FLAC", "OGG", "MP3"])
@pytest.mark.parametrize("share", CUTS)
def test_a_recording_cut_short_is_refused_or_shorter(format: str, share: float) -> None:
    raw = recording(tone(2.0, 16_000), 16_000, format)
    cut = raw[: int(share * len(raw))]
    if format in ("WAV", "FLAC"):
        assert reason(AUDIO, cut) in DAMAGED
        return
    try:  # Ogg and MP3 have no length in their header
        assert decoded(AUDIO, cut)["audio_length"] < 200
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
@pytest.mark.parametrize(("limit", "wanted"), LIMITS, ids=lambda value: str(value)[:20])
def test_limits_are_checked_before_a_picture_is_decoded(
    format: str, limit: dict, wanted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*given: object) -> None:
        raise AssertionError("a picture was decoded")

    from xmodal.data.media import video_frames

    monkeypatch.setattr(video_frames, "_decoded", never)
    assert reason(VideoField(frames=4, size=16, limits=MediaLimits(**limit)), clip(format)) == wanted


@pytest.mark.parametrize(
    ("limit", "wanted"),
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
def test_limits_of_sound(limit: dict, wanted: str, raw: bytes) -> None:
    if "max_channels" in limit and not raw.startswith(b"RIFF"):
        raw = mux(None, 25, tone(2.0, 16_000, channels=2), 16_000)
    window = Window(seconds=2.0, place="start")
    assert reason(AudioField(window=window, limits=MediaLimits(**limit)), raw) == wanted


def test_a_bomb_of_pictures_is_refused_at_the_price_of_its_packets() -> None:
    """Twenty minutes of black in 200 kB: the header says too long, and where it says nothing the timestamps do."""
    black = np.zeros((600, 16, 16, 3), np.uint8)
    for format in ("mp4", "matroska", "mpeg"):
        times = 25 if format == "mpeg" else 0.5
        raw = mux(black, times, None, encoding=Encoding(format=format, group=250))
        limits = MediaLimits(max_seconds=20.0)
        began = time.process_time()
        assert reason(VideoField(frames=4, size=16, limits=limits), raw) == "too_long"
        assert time.process_time() - began < 0.5


def test_an_excerpt_that_is_not_in_the_clip_is_named() -> None:
    for span in (None, [3.0, 4.0], [1.0], [1.0, 0.5], ["a", "b"], {"start": 1.0}, [float("nan"), 1.0], [-2.0, -1.0]):
        assert reason(VIDEO, Excerpt(clip(), span)) == "bad_window"
        assert reason(AUDIO, Excerpt(clip(), span)) == "bad_window"


def test_samples_that_are_not_numbers_are_refused() -> None:
    wave = tone(1.0, 16_000)
    wave[0, 500] = np.nan
    assert reason(AUDIO, recording(wave, 16_000, "WAV", subtype="FLOAT")) == "not_finite"


def test_a_wav_of_no_samples_and_one_of_an_impossible_rate() -> None:
    assert reason(AUDIO, recording(np.zeros((1, 0), np.float32), 16_000, "WAV")) in DAMAGED
    raw = bytearray(recording(tone(0.5, 16_000), 16_000, "WAV"))
    raw[24:28] = struct.pack("<I", 3_000_000)
    assert reason(AUDIO, bytes(raw)) in {"too_large", *DAMAGED}


def test_cover_art_is_no_video() -> None:
    out = io.BytesIO()
    with av.open(out, "w", format="mp4") as container:
        sound = container.add_stream("aac", rate=16_000, layout="mono")
        cover = container.add_stream("mjpeg", rate=25)
        cover.width = cover.height = 16
        cover.pix_fmt = "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        for frame in (av.AudioFrame.from_ndarray(tone(1.0, 16_000), format="fltp", layout="mono"),):
            frame.sample_rate, frame.pts = 16_000, 0
            container.mux(sound.encode(frame))
        container.mux(sound.encode(None))
        container.mux(cover.encode(av.VideoFrame.from_ndarray(numbered(1, height=16, width=16)[0], format="rgb24")))
        container.mux(cover.encode(None))
    assert reason(VIDEO, out.getvalue()) == "no_video_track"
    assert decoded(AUDIO, out.getvalue())["audio_length"] == pytest.approx(100, abs=8)


@functools.cache
def soup() -> tuple[tuple[Field, bytes], ...]:
    """What is to be damaged, with the field that reads it."""
    clips = [clip(format, seconds=0.6) for format in FORMATS]
    sounds = [recording(tone(0.4, 16_000), 16_000, format) for format in ("WAV", "FLAC", "OGG", "MP3")]
    return tuple([(VIDEO, raw) for raw in clips] + [(AUDIO, raw) for raw in (*clips, *sounds)])


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 13), st.lists(st.tuples(st.floats(0, 1), st.integers(0, 7)), min_size=1, max_size=40))
def test_flipped_bits_are_delivered_or_refused(which: int, flips: list) -> None:
    field, raw = soup()[which % len(soup())]
    damaged = bytearray(raw)
    for share, bit in flips:
        damaged[min(len(raw) - 1, int(share * len(raw)))] ^= 1 << bit
    block = allocate([field], 1)
    try:
        field.decode(bytes(damaged), np.random.default_rng(0), row_of(block, 0))
    except BadSample as bad:
        assert bad.reason in REFUSED
        assert not any(column.any() for column in block.values())


DEATHS = """
import random, sys, time
sys.path[:0] = [{here!r}, {root!r}]
import numpy as np
from support.media import clip, recording, tone
from xmodal.data.media.audio import AudioField
from xmodal.data.decode.fields import allocate, row_of
from xmodal.data.media.video import VideoField
from xmodal.data.media.clip_window import Window
from xmodal.errors import BadSample
fields = [VideoField(frames=4, size=16), AudioField(window=Window(seconds=1.0, place="start"))]
raws = [clip(f, seconds=0.6) for f in ("mp4", "webm", "matroska", "mpeg")] + [recording(tone(.4, 16000), 16000, "WAV")]
block, rng, dice = allocate(fields, 1), np.random.default_rng(0), random.Random({seed})
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
            field.decode(bytes(damaged), rng, row_of(block, 0))
        except BadSample:
            refused += 1
        slowest = max(slowest, time.process_time() - began)
print(refused, slowest)
"""


def test_a_process_that_decodes_damage_lives_quietly() -> None:
    """In a process of its own: no signal, no hang, nothing on stderr, no decode above a second."""
    here = str(Path(__file__).parents[2])
    turns = int(os.environ.get("XMODAL_FUZZ_TURNS", "250"))
    code = DEATHS.format(here=here, root=os.path.dirname(here), seed=0, turns=turns)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0 and done.stderr == "", done.stderr[-2000:]
    refused, slowest = done.stdout.split()
    assert int(refused) > turns // 4 and float(slowest) < 1.0
