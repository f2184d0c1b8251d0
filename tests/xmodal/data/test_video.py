"""Decoded frames of real containers are those on the screen at the requested times."""

import pickle
from fractions import Fraction

import numpy as np
import pytest

from support.media import (
    FORMATS,
    clip,
    decode_all_frames,
    decode_row,
    frame_number,
    frame_numbers,
    grid_clips,
    numbered_frames,
    real_clips,
    tone,
)
from xmodal.data.decode.augment import Augment
from xmodal.data.decode.fields import ValueWithSpan
from xmodal.data.media.clip_window import ClipWindow, TimeSpan
from xmodal.data.media.container import ClipReader
from xmodal.data.media.media_limits import MediaLimits
from xmodal.data.media.video import VideoField
from xmodal.data.media.video_frames import frames_at
from xmodal.data.synthetic.mux import ClipEncoding, mux
from xmodal.errors import BadSample, ConfigError

ALL = VideoField(frames=50, rate=25.0, size=32)


@pytest.mark.parametrize("format", FORMATS)
def test_every_frame_of_a_container_is_found_at_its_time(format: str) -> None:
    assert frame_numbers(ALL, clip(format)) == list(range(50))


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("group", [12, 250])
def test_frames_spread_over_the_clip_are_the_middles_of_equal_parts(format: str, group: int) -> None:
    assert frame_numbers(VideoField(frames=4, size=32), clip(format, keyframe_interval=group)) == [
        6,
        18,
        31,
        43,
    ]  # 6.25, 18.75, ...


@pytest.mark.parametrize("format", FORMATS)
def test_a_time_span_of_the_sample_moves_the_window(format: str) -> None:
    field = VideoField(frames=10, rate=25.0, size=32, window=ClipWindow(seconds=0.4, position="start"))
    assert frame_numbers(field, ValueWithSpan(clip(format), {"start": 1.2, "end": 1.6})) == list(range(30, 40))
    assert frame_numbers(field, ValueWithSpan(clip(format), [1.2, 1.6])) == list(range(30, 40))
    assert frame_numbers(field, clip(format)) == list(range(10))


def test_a_window_is_centred_on_a_short_span_and_stays_inside_the_clip() -> None:
    field = VideoField(frames=10, rate=25.0, size=32, window=ClipWindow(seconds=0.4))
    assert frame_numbers(field, ValueWithSpan(clip(), [1.38, 1.42])) == list(range(30, 40))
    assert frame_numbers(field, ValueWithSpan(clip(), [0.0, 0.1])) == list(range(10))
    assert frame_numbers(field, ValueWithSpan(clip(), [1.9, 2.0])) == list(range(40, 50))
    margin = VideoField(frames=4, size=32, window=ClipWindow(margin=0.2))
    assert frame_numbers(margin, ValueWithSpan(clip(), [1.0, 1.4])) == [22, 27, 32, 37]


@pytest.mark.parametrize("raw", [clip(), clip(keyframe_interval=250), clip("mpeg"), clip("webm")])
def test_skipping_frames_and_groups_changes_no_pixel(raw: bytes) -> None:
    """Decoding only what is needed gives the same frames as decoding everything."""
    all_frames = decode_all_frames(raw)
    for time in np.array((0.0, 0.3, 0.52, 1.0, 1.46, 1.96)) + ClipReader(raw, MediaLimits()).span.start:
        ((positions, frame),) = frames_at(ClipReader(raw, MediaLimits()), [time])
        shown = [pixels for start, pixels in all_frames if start <= time + 1e-3][-1]
        assert positions == [0] and np.array_equal(frame.to_ndarray(format="rgb24"), shown), time


def test_one_frame_costs_no_more_than_its_group() -> None:
    """To get the frame at 3.9 s of a clip with groups of 12, at most the bytes of 12 frames are decoded."""
    limits = MediaLimits(max_decoded_bytes=12 * 64 * 64 * 3 // 2)
    ((positions, _),) = frames_at(ClipReader(clip(seconds=4.0), limits), [3.9])
    assert positions == [0]
    with pytest.raises(BadSample, match="too_large"):
        list(frames_at(ClipReader(clip(seconds=4.0, keyframe_interval=250), limits), [3.9]))


def test_a_late_window_of_a_long_stream_without_an_index() -> None:
    field = VideoField(frames=4, rate=25.0, size=32, window=ClipWindow(seconds=0.16, position="start"))
    raw = mux(numbered_frames(256).repeat(4, 0), 25, tone(40.96, 44_100), 44_100, ClipEncoding(format="mpeg"))
    for start in (32.0, 1.6, 32.0):
        assert frame_numbers(field, ValueWithSpan(raw, [start, start + 0.16])) == [round(start * 25 / 4)] * 4


def test_a_late_window_of_a_long_clip_is_found_by_seeking() -> None:
    raw = clip(seconds=40.0, fps=2.0, keyframe_interval=4)
    reader = ClipReader(raw, MediaLimits())
    assert len(reader.packets(reader.video_track, 30.0, 32.0)) < 12
    field = VideoField(frames=4, rate=2.0, size=32, window=ClipWindow(seconds=2.0, position="start"))
    assert frame_numbers(field, ValueWithSpan(raw, [30.0, 32.0])) == list(range(60, 64))
    assert frame_numbers(field, ValueWithSpan(raw, [2.0, 4.0])) == list(range(4, 8))


@pytest.mark.parametrize("format", ["mp4", "mov", "matroska", "webm"])
def test_variable_frame_rates_give_the_frame_on_the_screen(format: str) -> None:
    times = [0.0, 0.1, 0.15, 0.2, 1.0, 1.04, 1.5, 1.9]
    raw = mux(numbered_frames(8), times, None, encoding=ClipEncoding(format=format))
    expected = [0, 1, 3, 3, 3, 3, 3, 3, 3, 3, 4, 5, 5, 5, 5, 6, 6, 6, 6, 7]
    assert frame_numbers(VideoField(frames=20, rate=10.0, size=32), raw) == expected


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
@pytest.mark.parametrize("flipped", [False, True])
def test_rotated_and_flipped_video_becomes_upright(rotation: int, flipped: bool) -> None:
    """The header rotates the stored frame to the left and then flips it; so it is stored flipped, rotated right."""
    upright = np.zeros((64, 96, 3), np.uint8)
    upright[:32, :48], upright[32:, 48:] = (255, 0, 0), (0, 0, 255)  # red at the top left, blue at the bottom right
    upright[:32, 48:] = (0, 255, 0)
    stored = np.rot90(upright[:, ::-1] if flipped else upright, -rotation // 90)
    encoding = ClipEncoding(rotation=rotation, hflip=flipped)
    raw = mux(np.ascontiguousarray(np.stack([stored] * 5)), 25, None, encoding=encoding)
    shown = decode_row(VideoField(frames=1, size=32, fit="squash"), raw)["video"][0].astype(int)
    assert np.abs(shown[4:12, 4:12].mean((0, 1)) - (254, 0, 0)).max() < 12
    assert np.abs(shown[20:28, 20:28].mean((0, 1)) - (0, 0, 254)).max() < 12
    assert np.abs(shown[4:12, 20:28].mean((0, 1)) - (0, 254, 0)).max() < 12


def test_pixels_that_are_not_square_are_stretched() -> None:
    """A circle stored at half its width is a circle again."""
    rows, columns = np.mgrid[:64, :64]
    disc = ((rows - 31.5) ** 2 + (2 * (columns - 31.5)) ** 2 < 24**2)[..., None] * np.uint8(255)
    raw = mux(np.repeat(np.repeat(disc, 3, 2)[None], 3, 0), 25, None, encoding=ClipEncoding(pixel_aspect=Fraction(2)))
    shown = decode_row(VideoField(frames=1, size=64), raw)["video"][0, ..., 0] > 127
    assert abs(shown.any(0).sum() - shown.any(1).sum()) <= 3


def test_frames_repeat_and_time_beyond_the_clip_is_masked() -> None:
    short = mux(numbered_frames(3), 25, None)
    assert frame_numbers(VideoField(frames=6, size=32), short) == [0, 0, 1, 1, 2, 2]
    columns = decode_row(VideoField(frames=6, rate=25.0, size=32, window=ClipWindow(seconds=0.24)), short)
    assert columns["video_mask"].tolist() == [True] * 3 + [False] * 3
    assert not columns["video"][3:].any()


def test_one_frame_is_a_clip() -> None:
    assert frame_numbers(VideoField(frames=4, size=32), mux(numbered_frames(1), 25, None)) == [0] * 4


def test_all_frames_of_a_clip_share_one_transform_and_another_row_has_another() -> None:
    augment = Augment(scale=(0.3, 0.5), mirror=0.5, rotate=10.0, jitter=1.0, brightness=0.4, contrast=0.4, hue=0.1)
    rng = np.random.default_rng(5)
    still = mux(
        np.repeat(rng.integers(0, 255, (1, 96, 96, 3), np.uint8), 6, 0), 25, None, encoding=ClipEncoding(quality=1)
    )
    field = VideoField(frames=4, size=32, augment=augment)
    first = decode_row(field, still, seed=0)["video"].astype(int)
    assert np.abs(first - first[0]).max() < 40 and np.abs(first - first[0]).mean() < 3
    other = decode_row(field, still, seed=1)["video"].astype(int)
    assert np.abs(first - other).mean() > 10
    assert np.array_equal(first, decode_row(field, still, seed=0)["video"])


def test_color_jitter_does_not_flicker_with_the_brightness_of_single_frames() -> None:
    """Contrast about each frame's own mean would pull white and black frames to these means."""
    frames = np.zeros((4, 64, 64, 3), np.uint8)
    frames[1::2] = 200
    augment = Augment(scale=(1.0, 1.0), jitter=1.0, contrast=0.9)
    images = decode_row(VideoField(frames=4, size=32, augment=augment), mux(frames, 25, None), seed=3)["video"]
    brightness = images.mean((1, 2, 3))
    assert (
        abs(brightness[0] - brightness[2]) < 3
        and abs(brightness[1] - brightness[3]) < 3
        and abs(brightness[1] - brightness[0]) > 20
    )


def test_large_frames_shrink_without_aliasing() -> None:
    """Stripes of one pixel become grey, also through swscale's reduction."""
    stripes = np.zeros((2, 256, 256, 3), np.uint8)
    stripes[:, :, ::2] = 255
    raw = mux(stripes, 25, None, encoding=ClipEncoding(quality=1))
    shown = decode_row(VideoField(frames=1, size=32), raw)["video"][0].astype(int)
    assert np.abs(shown[2:-2, 2:-2] - 127).max() < 20


def test_random_windows_depend_on_the_row_and_cover_the_clip() -> None:
    field = VideoField(frames=2, rate=25.0, size=32, window=ClipWindow(seconds=0.08, position="random"))
    starts = [frame_number(decode_row(field, clip(), seed=seed)["video"][0]) for seed in range(40)]
    assert min(starts) < 10 and max(starts) > 38 and len(set(starts)) > 15
    assert starts[3] == frame_number(decode_row(field, clip(), seed=3)["video"][0])


def test_frames_are_spread_over_the_video_even_if_the_audio_is_longer() -> None:
    raw = mux(numbered_frames(25), 25, tone(3.0, 16_000), 16_000)
    assert frame_numbers(VideoField(frames=5, size=32), raw) == [2, 7, 12, 17, 22]
    assert ClipReader(raw, MediaLimits()).span.seconds == pytest.approx(1.0, abs=0.01)


def test_a_field_pickles_and_names_its_columns() -> None:
    field = VideoField(frames=3, size=32, name="face", window=ClipWindow(seconds=1.0))
    assert pickle.loads(pickle.dumps(field)) == field
    assert field.columns["face"].shape == (3, 32, 32, 3) and field.columns["face_mask"].shape == (3,)


@pytest.mark.parametrize(
    "wrong", [{"frames": 0}, {"rate": 0.0}, {"size": 0}, {"fit": "crop_"}], ids=lambda wrong: next(iter(wrong))
)
def test_errors_name_the_wrong_argument(wrong: dict) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        VideoField(**wrong)


def test_errors_name_the_wrong_argument_of_a_window() -> None:
    for wrong in ({"seconds": 0.0}, {"position": "center"}, {"margin": -1.0}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            ClipWindow(**wrong)


def test_the_position_of_a_window() -> None:
    rng = np.random.default_rng(0)
    clip_span = TimeSpan(0.0, 4.0)
    assert ClipWindow(seconds=1.0).choose(clip_span, None, rng) == TimeSpan(1.5, 2.5)
    assert ClipWindow(seconds=1.0, position="start").choose(clip_span, None, rng) == TimeSpan(0.0, 1.0)
    assert ClipWindow(seconds=5.0).choose(clip_span, None, rng) == TimeSpan(0.0, 5.0)
    for _ in range(50):
        window = ClipWindow(seconds=1.0, position="random").choose(
            clip_span, TimeSpan(3.0, 3.2), np.random.default_rng(_)
        )
        assert 2.2 - 1e-9 <= window.start <= 3.0 + 1e-9 and window.stop <= 4.0 + 1e-9


@real_clips
def test_grid_clips_have_75_frames_at_25_per_second() -> None:
    field = VideoField(frames=75, rate=25.0, size=112)
    for raw, facts in grid_clips():
        all_frames = decode_all_frames(raw)
        columns = decode_row(field, raw)
        assert columns["video_mask"].sum() == facts["frames"] == len(all_frames)
        for image, (_, pixels) in zip(columns["video"], all_frames, strict=False):
            assert np.abs(image.astype(int) - pixels).max() <= 1
