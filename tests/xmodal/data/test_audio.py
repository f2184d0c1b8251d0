"""Audio of recordings and clips has the right timing, rate and pitch, and is in sync with the video."""

import pickle

import numpy as np
import pytest

from support.clip_shards import flash_and_click
from support.media import (
    FORMATS,
    RATES,
    clip,
    decode_row,
    frame_number,
    grid_clips,
    numbered_frames,
    real_clips,
    recording,
    tone,
)
from xmodal.data.decode.fields import ValueWithSpan
from xmodal.data.media.audio import SILENCE, AudioField
from xmodal.data.media.clip_window import ClipWindow
from xmodal.data.media.container import ClipReader
from xmodal.data.media.media_limits import MediaLimits
from xmodal.data.media.mel import MelSpectrogram
from xmodal.data.media.video import VideoField
from xmodal.data.synthetic.mux import ClipEncoding, mux
from xmodal.errors import ConfigError

START = ClipWindow(seconds=2.0, position="start")
WAVE = AudioField(window=START, mel=None)
RECORDINGS = {"WAV": {}, "FLAC": {}, "OGG": {}, "MP3": {}}


def onset(wave: np.ndarray, rate: int = 16_000) -> float:
    """Return the seconds to the first loud sample."""
    return float(np.flatnonzero(np.abs(wave) > 0.2)[0] / rate)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("at", [0.0, 0.48, 1.2])
def test_audio_and_video_are_in_sync(format: str, at: float) -> None:
    """The guarantee is within a frame (40 ms); the timestamps give a millisecond."""
    frames, waveform = flash_and_click(at, rate=RATES[format])
    raw = mux(frames, 25, waveform, RATES[format], ClipEncoding(format=format))
    brightness = decode_row(VideoField(frames=50, rate=25.0, size=16, window=START), raw)["video"].mean((1, 2, 3))
    audio = decode_row(WAVE, raw)["audio"]
    assert brightness.argmax() == round(at * 25) and brightness.max() > 200
    assert abs(onset(audio) - at) < 0.002


@pytest.mark.parametrize("format", FORMATS)
def test_a_window_shifts_audio_and_video_equally(format: str) -> None:
    frames, waveform = flash_and_click(1.2, rate=RATES[format])
    raw = ValueWithSpan(
        mux(frames, 25, waveform, RATES[format], ClipEncoding(format=format)), {"start": 1.0, "end": 1.5}
    )
    window = ClipWindow(seconds=0.4)  # 1.05 to 1.45
    brightness = decode_row(VideoField(frames=10, rate=25.0, size=16, window=window), raw)["video"].mean((1, 2, 3))
    assert abs(onset(decode_row(AudioField(window=window, mel=None), raw)["audio"]) - 0.15) < 0.002
    assert brightness.argmax() == 4  # shown from 0.15 s on: the frames are those of 0.00, 0.04, ...


def test_random_windows_of_both_fields_agree_with_augmentation() -> None:
    from xmodal.data.decode.augment import Augment

    frames = numbered_frames(50)
    ramp = np.repeat(np.linspace(0.0, 0.98, 50, dtype=np.float32), 640)[None]  # louder with each frame
    carrier = np.sin(2 * np.pi * 2000 * np.arange(32_000) / 16_000).astype(np.float32)
    raw = mux(frames, 25, ramp * carrier, 16_000)
    window = ClipWindow(seconds=0.2, position="random")
    augment = Augment(scale=(1.0, 1.0), ratio=(1.0, 1.0), jitter=1.0, brightness=0.02)
    for seed in range(12):
        rng, out = np.random.default_rng(seed), {}
        video = VideoField(frames=1, rate=25.0, size=32, window=window, augment=augment)
        audio = AudioField(window=window, mel=None)
        for field in (video, audio):
            out |= {name: np.zeros(column.shape, column.dtype) for name, column in field.columns.items()}
            field.decode(raw, rng, out)
        loudness = np.abs(out["audio"][100:500]).max()
        assert abs(loudness * 49 / 0.98 - frame_number(out["video"][0])) < 2.5


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("channels", [1, 2])
def test_a_tone_keeps_its_pitch_and_loudness_in_every_container(format: str, channels: int) -> None:
    rate = RATES[format]
    raw = mux(numbered_frames(50), 25, tone(2.0, rate, channels=channels), rate, ClipEncoding(format=format))
    row = decode_row(WAVE, raw)
    spectrum = np.abs(np.fft.rfft(row["audio"][4000:20000]))
    assert row["audio_length"] == pytest.approx(32_000, abs=1200)
    assert spectrum.argmax() == 440
    assert 0.45 < np.abs(row["audio"][4000:20000]).max() < 0.55


@pytest.mark.parametrize("format", RECORDINGS)
@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100, 48_000])
@pytest.mark.parametrize("channels", [1, 2])
def test_recordings_of_any_rate_keep_their_timing(format: str, rate: int, channels: int) -> None:
    wave = tone(1.5, rate, channels=channels)
    wave[:, : round(0.5 * rate)] = 0
    row = decode_row(WAVE, recording(wave, rate, format))
    assert row["audio_length"] == pytest.approx(24_000, abs=1_900 if format == "MP3" else 1)
    assert abs(onset(row["audio"]) - 0.5) < 0.003
    assert np.abs(np.fft.rfft(row["audio"][10_000:18_000])).argmax() == 220


def test_a_recording_at_the_target_rate_is_unchanged() -> None:
    wave = tone(2.0, 16_000)
    for format, tolerance in (("WAV", 4e-5), ("FLAC", 4e-5)):
        assert np.abs(decode_row(WAVE, recording(wave, 16_000, format))["audio"] - wave[0]).max() < tolerance
    stereo = np.stack([wave[0], np.zeros_like(wave[0])])
    assert np.abs(decode_row(WAVE, recording(stereo, 16_000, "WAV"))["audio"] - wave[0] / 2).max() < 2e-5


def test_a_window_of_a_recording_starts_at_its_sample() -> None:
    wave = (np.arange(48_000, dtype=np.float32) / 48_000)[None]
    field = AudioField(window=ClipWindow(seconds=0.1, position="start"), mel=None)
    audio = decode_row(field, ValueWithSpan(recording(wave, 16_000, "WAV"), [1.25, 2.0]))["audio"]
    assert np.abs(audio - wave[0, 20_000:21_600]).max() < 5e-5


def test_a_short_recording_is_followed_by_silence() -> None:
    raw = recording(tone(0.5, 16_000), 16_000, "WAV")
    spectrogram = decode_row(AudioField(window=START), raw)
    assert spectrogram["audio"].shape == (200, 64) and spectrogram["audio_length"] == 50
    assert (spectrogram["audio"][50:] == SILENCE).all() and spectrogram["audio"][:50].max() > -2
    wave = decode_row(WAVE, raw)
    assert wave["audio_length"] == 8_000 and not wave["audio"][8_000:].any()


def test_audio_shorter_or_longer_than_the_video() -> None:
    shorter = decode_row(WAVE, mux(numbered_frames(50), 25, tone(1.0, 16_000), 16_000))
    assert shorter["audio_length"] == pytest.approx(16_000, abs=1_100) and not shorter["audio"][17_100:].any()
    longer = decode_row(
        AudioField(window=ClipWindow(seconds=1.0)), mux(numbered_frames(25), 25, tone(3.0, 16_000), 16_000)
    )
    assert longer["audio_length"] == 100


def test_a_container_without_video_is_read_as_a_recording() -> None:
    row = decode_row(WAVE, mux(None, 25, tone(2.0, 16_000), 16_000))
    assert row["audio_length"] == pytest.approx(32_000, abs=100)
    assert np.abs(np.fft.rfft(row["audio"][4000:20000])).argmax() == 440


def test_a_late_window_equals_that_part_of_a_full_decode() -> None:
    """AAC needs the packet before the window; with or without seeking, the samples are the same."""
    time = np.arange(40 * 16_000) / 16_000
    sweep = (0.5 * np.sin(2 * np.pi * (200 + 30 * time) * time))[None].astype(np.float32)
    raw = mux(numbered_frames(40), 1, sweep, 16_000, ClipEncoding(keyframe_interval=4))
    whole = decode_row(AudioField(window=ClipWindow(seconds=40.0, position="start"), mel=None), raw)["audio"]
    field = AudioField(window=ClipWindow(seconds=1.0, position="start"), mel=None)
    for start in (0.0, 7.5, 33.3):
        part = decode_row(field, ValueWithSpan(raw, [start, start + 1.0]))["audio"]
        first = round(start * 16_000)
        assert np.abs(part - whole[first : first + 16_000]).max() < 1e-5


def test_log_mel_equals_transformers() -> None:
    from transformers import audio_utils

    wave = np.random.default_rng(0).normal(0, 0.1, 24_000).astype(np.float32)
    for mel, rate in ((MelSpectrogram(), 16_000), (MelSpectrogram(bands=80, highest_hz=7600.0, lowest_hz=0.0), 16_000)):
        bank = audio_utils.mel_filter_bank(
            257, mel.bands, mel.lowest_hz, mel.highest_hz or rate / 2, rate, norm="slaney", mel_scale="slaney"
        )
        theirs = audio_utils.spectrogram(
            wave, audio_utils.window_function(400, "hann"), 400, 160, fft_length=512, power=2.0, center=True,
            pad_mode="constant", mel_filters=bank, log_mel="log10", mel_floor=1e-10,
        ).T  # fmt: skip
        assert np.abs(mel.log_mel(wave, rate) - theirs[:150]).max() < 1e-4


def test_a_tone_is_in_its_band_and_frames_are_centred_on_their_hop() -> None:
    mel = MelSpectrogram()
    low, high = (mel.log_mel(tone(1.0, 16_000, hertz)[0], 16_000) for hertz in (300.0, 3_000.0))
    assert (low[5:95].argmax(1) < 12).all() and (high[5:95].argmax(1) > 35).all()
    click = np.zeros(16_000, np.float32)
    click[8_000] = 1.0
    assert mel.log_mel(click, 16_000).max(1).argmax() == 50


def test_half_precision_is_the_rounded_spectrogram() -> None:
    full, half = (
        decode_row(AudioField(window=START, dtype=dtype), clip())["audio"] for dtype in ("float32", "float16")
    )
    assert half.dtype == np.float16 and np.abs(full - half).max() < 0.005


def test_both_fields_open_a_container_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from xmodal.data.media import container

    calls = []
    original = container._open_container
    monkeypatch.setattr(container, "_open_container", lambda *arguments: calls.append(1) or original(*arguments))
    raw = mux(numbered_frames(20), 25, tone(0.8, 16_000), 16_000)
    video, audio = VideoField(frames=2, size=16), AudioField(window=START)
    for times, field in ((1, video), (1, audio), (2, audio), (2, video)):
        decode_row(field, raw)
        assert len(calls) == times
    decode_row(audio, bytes(bytearray(raw)))  # equal bytes in another object are another sample
    assert len(calls) == 3


def test_a_second_decode_of_the_same_bytes_is_bit_identical() -> None:
    """AAC's noise substitution has a random state, which a decoder that is used twice would keep."""
    noise = np.random.default_rng(0).normal(0, 0.2, (1, 16_000)).astype(np.float32)
    raw = mux(None, 25, noise, 16_000)
    first, second = (decode_row(WAVE, raw)["audio"] for _ in range(2))
    assert np.array_equal(first, second)


def test_a_field_pickles_and_names_its_columns() -> None:
    field = AudioField(name="speech", window=ClipWindow(seconds=1.0), mel=MelSpectrogram(bands=40))
    assert pickle.loads(pickle.dumps(field)) == field
    assert field.columns["speech"].shape == (100, 40) and field.columns["speech_length"].shape == ()


WRONG = [
    ({"window": ClipWindow()}, "seconds"),
    ({"rate": 10}, "rate"),
    ({"dtype": "int16"}, "dtype"),
    ({"mel": MelSpectrogram(highest_hz=9_000.0)}, "8000"),
]


@pytest.mark.parametrize(("wrong", "argument"), WRONG)
def test_errors_name_the_wrong_argument(wrong: dict, argument: str) -> None:
    with pytest.raises(ConfigError, match=argument):
        AudioField(**wrong)


def test_errors_name_the_wrong_argument_of_a_spectrogram() -> None:
    for wrong in ({"bands": 0}, {"hop_ms": 0.0}, {"hop_ms": 50.0}, {"lowest_hz": -1.0}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            MelSpectrogram(**wrong)


@real_clips
def test_grid_speech_begins_at_the_time_in_its_transcript() -> None:
    """A reader that ignores the edit list is 64 ms late; words start within 50 ms of their time in the transcript."""
    field = AudioField(window=ClipWindow(seconds=3.0, position="start"), mel=None)
    errors = []
    for raw, facts in grid_clips(12):
        wave = decode_row(field, raw)["audio"]
        assert ClipReader(raw, MediaLimits()).span.start == 0.0
        loud = np.sqrt(np.convolve(wave**2, np.full(160, 1 / 160), "same"))
        first = next(word["start"] for word in facts["words"] if word["word"] != "sil")
        errors.append(np.flatnonzero(loud > 0.15 * loud.max())[0] / 16_000 - first)
    assert abs(np.median(errors)) < 0.05


@real_clips
def test_the_audio_of_a_grid_clip_is_in_sync_with_its_original() -> None:
    """The cross-correlation of the mp4's AAC and the MPEG it was made from peaks close to zero lag."""
    from support.media import DATA, grid_clip

    field = AudioField(window=ClipWindow(seconds=2.9, position="start"), mel=None)
    lags = []
    for path in sorted((DATA / "grid_s1_original").glob("*.mpg"))[:5]:
        original, copy = (decode_row(field, raw)["audio"] for raw in (path.read_bytes(), grid_clip(path.stem)))
        correlation = np.correlate(original[16_000:24_000], copy[15_200:24_800], "valid")
        lags.append((correlation.argmax() - 800) / 16_000)
    assert max(map(abs, lags)) < 0.015, lags
