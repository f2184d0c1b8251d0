"""Pictures of real containers are those that stand on the screen at the instants asked for."""

import pickle
from fractions import Fraction

import numpy as np
import pytest

from support.media import FORMATS, clip, decoded, every_picture, grid, number_of, numbered, numbers, real_clips, tone
from xmodal.data.decode.augment import Augment
from xmodal.data.decode.fields import Excerpt
from xmodal.data.media.clip_window import Span, Window
from xmodal.data.media.container import Clip
from xmodal.data.media.media_limits import MediaLimits
from xmodal.data.media.video import VideoField
from xmodal.data.media.video_frames import frames_at
from xmodal.data.synthetic.mux import Encoding, mux
from xmodal.errors import BadSample, ConfigError

ALL = VideoField(frames=50, rate=25.0, size=32)


@pytest.mark.parametrize("format", FORMATS)
def test_every_picture_of_a_container_is_found_at_its_time(format: str) -> None:
    assert numbers(ALL, clip(format)) == list(range(50))


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("group", [12, 250])
def test_pictures_spread_over_the_clip_are_the_middles_of_equal_parts(format: str, group: int) -> None:
    assert numbers(VideoField(frames=4, size=32), clip(format, group=group)) == [6, 18, 31, 43]  # 6.25, 18.75, ...


@pytest.mark.parametrize("format", FORMATS)
def test_a_window_by_seconds_and_an_excerpt_of_the_corpus_choose_the_same_pictures(format: str) -> None:
    field = VideoField(frames=10, rate=25.0, size=32, window=Window(seconds=0.4, place="start"))
    assert numbers(field, Excerpt(clip(format), {"start": 1.2, "end": 1.6})) == list(range(30, 40))
    assert numbers(field, Excerpt(clip(format), [1.2, 1.6])) == list(range(30, 40))
    assert numbers(field, clip(format)) == list(range(10))


def test_a_window_is_centred_on_a_short_excerpt_and_stays_inside_the_clip() -> None:
    field = VideoField(frames=10, rate=25.0, size=32, window=Window(seconds=0.4))
    assert numbers(field, Excerpt(clip(), [1.38, 1.42])) == list(range(30, 40))
    assert numbers(field, Excerpt(clip(), [0.0, 0.1])) == list(range(10))
    assert numbers(field, Excerpt(clip(), [1.9, 2.0])) == list(range(40, 50))
    margin = VideoField(frames=4, size=32, window=Window(margin=0.2))
    assert numbers(margin, Excerpt(clip(), [1.0, 1.4])) == [22, 27, 32, 37]


@pytest.mark.parametrize("raw", [clip(), clip(group=250), clip("mpeg"), clip("webm")])
def test_skipping_pictures_and_groups_changes_no_pixel(raw: bytes) -> None:
    """The planned decode against a plain one of everything, at every instant."""
    truth = every_picture(raw)
    for time in np.array((0.0, 0.3, 0.52, 1.0, 1.46, 1.96)) + Clip(raw, MediaLimits()).span.start:
        ((places, frame),) = frames_at(Clip(raw, MediaLimits()), [time])
        shown = [pixels for start, pixels in truth if start <= time + 1e-3][-1]
        assert places == [0] and np.array_equal(frame.to_ndarray(format="rgb24"), shown), time


def test_a_picture_costs_no_more_than_its_own_group() -> None:
    """What is decoded for the picture at 3.9 s of groups of 12 stays below the bytes of 12 pictures."""
    limits = MediaLimits(max_decoded_bytes=12 * 64 * 64 * 3 // 2)
    ((places, _),) = frames_at(Clip(clip(seconds=4.0), limits), [3.9])
    assert places == [0]
    with pytest.raises(BadSample, match="too_large"):
        list(frames_at(Clip(clip(seconds=4.0, group=250), limits), [3.9]))


def test_a_late_window_of_a_long_stream_without_an_index() -> None:
    field = VideoField(frames=4, rate=25.0, size=32, window=Window(seconds=0.16, place="start"))
    raw = mux(numbered(256).repeat(4, 0), 25, tone(40.96, 44_100), 44_100, Encoding(format="mpeg"))
    for start in (32.0, 1.6, 32.0):
        assert numbers(field, Excerpt(raw, [start, start + 0.16])) == [round(start * 25 / 4)] * 4


def test_a_late_window_of_a_long_clip_is_sought_not_walked() -> None:
    raw = clip(seconds=40.0, fps=2.0, group=4)
    opened = Clip(raw, MediaLimits())
    assert len(opened.packets(opened.video, 30.0, 32.0)) < 12
    field = VideoField(frames=4, rate=2.0, size=32, window=Window(seconds=2.0, place="start"))
    assert numbers(field, Excerpt(raw, [30.0, 32.0])) == list(range(60, 64))
    assert numbers(field, Excerpt(raw, [2.0, 4.0])) == list(range(4, 8))


@pytest.mark.parametrize("format", ["mp4", "mov", "matroska", "webm"])
def test_variable_frame_rates_show_what_stands_on_the_screen(format: str) -> None:
    times = [0.0, 0.1, 0.15, 0.2, 1.0, 1.04, 1.5, 1.9]
    raw = mux(numbered(8), times, None, encoding=Encoding(format=format))
    wanted = [0, 1, 3, 3, 3, 3, 3, 3, 3, 3, 4, 5, 5, 5, 5, 6, 6, 6, 6, 7]
    assert numbers(VideoField(frames=20, rate=10.0, size=32), raw) == wanted


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
@pytest.mark.parametrize("mirrored", [False, True])
def test_a_turned_camera_gives_upright_pictures(rotation: int, mirrored: bool) -> None:
    """The header turns what is stored to the left, then mirrors it; so it is stored mirrored, turned to the right."""
    upright = np.zeros((64, 96, 3), np.uint8)
    upright[:32, :48], upright[32:, 48:] = (255, 0, 0), (0, 0, 255)  # red at the top left, blue at the bottom right
    upright[:32, 48:] = (0, 255, 0)
    stored = np.rot90(upright[:, ::-1] if mirrored else upright, -rotation // 90)
    encoding = Encoding(rotation=rotation, mirrored=mirrored)
    raw = mux(np.ascontiguousarray(np.stack([stored] * 5)), 25, None, encoding=encoding)
    shown = decoded(VideoField(frames=1, size=32, fit="squash"), raw)["video"][0].astype(int)
    assert np.abs(shown[4:12, 4:12].mean((0, 1)) - (254, 0, 0)).max() < 12
    assert np.abs(shown[20:28, 20:28].mean((0, 1)) - (0, 0, 254)).max() < 12
    assert np.abs(shown[4:12, 20:28].mean((0, 1)) - (0, 254, 0)).max() < 12


def test_pixels_that_are_not_square_are_stretched() -> None:
    """A circle stored at half its width is a circle again."""
    rows, columns = np.mgrid[:64, :64]
    disc = ((rows - 31.5) ** 2 + (2 * (columns - 31.5)) ** 2 < 24**2)[..., None] * np.uint8(255)
    raw = mux(np.repeat(np.repeat(disc, 3, 2)[None], 3, 0), 25, None, encoding=Encoding(pixel_aspect=Fraction(2)))
    shown = decoded(VideoField(frames=1, size=64), raw)["video"][0, ..., 0] > 127
    assert abs(shown.any(0).sum() - shown.any(1).sum()) <= 3


def test_a_still_picture_repeats_and_time_beyond_the_clip_is_masked() -> None:
    short = mux(numbered(3), 25, None)
    assert numbers(VideoField(frames=6, size=32), short) == [0, 0, 1, 1, 2, 2]
    columns = decoded(VideoField(frames=6, rate=25.0, size=32, window=Window(seconds=0.24)), short)
    assert columns["video_mask"].tolist() == [True] * 3 + [False] * 3
    assert not columns["video"][3:].any()


def test_one_picture_is_a_clip() -> None:
    assert numbers(VideoField(frames=4, size=32), mux(numbered(1), 25, None)) == [0] * 4


def test_the_view_is_the_same_for_every_picture_of_a_clip_and_another_for_the_next_row() -> None:
    augment = Augment(scale=(0.3, 0.5), mirror=0.5, rotate=10.0, jitter=1.0, brightness=0.4, contrast=0.4, hue=0.1)
    rng = np.random.default_rng(5)
    still = mux(np.repeat(rng.integers(0, 255, (1, 96, 96, 3), np.uint8), 6, 0), 25, None, encoding=Encoding(quality=1))
    field = VideoField(frames=4, size=32, augment=augment)
    first = decoded(field, still, seed=0)["video"].astype(int)
    assert np.abs(first - first[0]).max() < 40 and np.abs(first - first[0]).mean() < 3
    other = decoded(field, still, seed=1)["video"].astype(int)
    assert np.abs(first - other).mean() > 10
    assert np.array_equal(first, decoded(field, still, seed=0)["video"])


def test_colour_jitter_does_not_flicker_with_the_brightness_of_single_pictures() -> None:
    """Contrast about each picture's own grey would pull white and black together to their own means."""
    shots = np.zeros((4, 64, 64, 3), np.uint8)
    shots[1::2] = 200
    augment = Augment(scale=(1.0, 1.0), jitter=1.0, contrast=0.9)
    found = decoded(VideoField(frames=4, size=32, augment=augment), mux(shots, 25, None), seed=3)["video"]
    steps = found.mean((1, 2, 3))
    assert abs(steps[0] - steps[2]) < 3 and abs(steps[1] - steps[3]) < 3 and abs(steps[1] - steps[0]) > 20


def test_large_pictures_shrink_without_aliasing() -> None:
    """Stripes of one pixel become grey, on the way through swscale's reduction as well."""
    stripes = np.zeros((2, 256, 256, 3), np.uint8)
    stripes[:, :, ::2] = 255
    raw = mux(stripes, 25, None, encoding=Encoding(quality=1))
    shown = decoded(VideoField(frames=1, size=32), raw)["video"][0].astype(int)
    assert np.abs(shown[2:-2, 2:-2] - 127).max() < 20


def test_random_windows_are_drawn_from_the_row_and_cover_the_clip() -> None:
    field = VideoField(frames=2, rate=25.0, size=32, window=Window(seconds=0.08, place="random"))
    starts = [number_of(decoded(field, clip(), seed=seed)["video"][0]) for seed in range(40)]
    assert min(starts) < 10 and max(starts) > 38 and len(set(starts)) > 15
    assert starts[3] == number_of(decoded(field, clip(), seed=3)["video"][0])


def test_sound_does_not_lengthen_the_clip_that_pictures_are_spread_over() -> None:
    raw = mux(numbered(25), 25, tone(3.0, 16_000), 16_000)
    assert numbers(VideoField(frames=5, size=32), raw) == [2, 7, 12, 17, 22]
    assert Clip(raw, MediaLimits()).span.seconds == pytest.approx(1.0, abs=0.01)


def test_a_field_travels_by_pickle_and_names_its_columns() -> None:
    field = VideoField(frames=3, size=32, name="face", window=Window(seconds=1.0))
    assert pickle.loads(pickle.dumps(field)) == field
    assert field.columns["face"].shape == (3, 32, 32, 3) and field.columns["face_mask"].shape == (3,)


@pytest.mark.parametrize(
    "wrong", [{"frames": 0}, {"rate": 0.0}, {"size": 0}, {"fit": "crop_"}], ids=lambda wrong: next(iter(wrong))
)
def test_wrong_values_are_named(wrong: dict) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        VideoField(**wrong)


def test_wrong_windows_are_named() -> None:
    for wrong in ({"seconds": 0.0}, {"place": "center"}, {"margin": -1.0}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            Window(**wrong)


def test_a_window_lies_where_it_says() -> None:
    rng = np.random.default_rng(0)
    whole = Span(0.0, 4.0)
    assert Window(seconds=1.0).choose(whole, None, rng) == Span(1.5, 2.5)
    assert Window(seconds=1.0, place="start").choose(whole, None, rng) == Span(0.0, 1.0)
    assert Window(seconds=5.0).choose(whole, None, rng) == Span(0.0, 5.0)
    for _ in range(50):
        drawn = Window(seconds=1.0, place="random").choose(whole, Span(3.0, 3.2), np.random.default_rng(_))
        assert 2.2 - 1e-9 <= drawn.start <= 3.0 + 1e-9 and drawn.stop <= 4.0 + 1e-9


@real_clips
def test_grid_clips_show_their_75_pictures_at_25_a_second() -> None:
    field = VideoField(frames=75, rate=25.0, size=112)
    for raw, facts in grid():
        truth = every_picture(raw)
        columns = decoded(field, raw)
        assert columns["video_mask"].sum() == facts["frames"] == len(truth)
        for picture, (_, pixels) in zip(columns["video"], truth, strict=False):
            assert np.abs(picture.astype(int) - pixels).max() <= 1
