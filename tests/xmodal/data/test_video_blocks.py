"""Clips in shards are read as blocks of video, audio and text; a bad one is a masked row."""

import json

import numpy as np
import pytest

from support.clip_shards import clip_samples, write_clips
from support.media import DATA, frame_number, numbered_frames, real_clips, tone
from xmodal.data.decode.fields import FieldMap, FieldSource, ValueWithSpan, available_members, parse_field_map
from xmodal.data.formats.shard_writer import tar_shard
from xmodal.data.index.corpus import open_corpus
from xmodal.data.media.audio import AudioField
from xmodal.data.media.clip_window import ClipWindow
from xmodal.data.media.video import VideoField
from xmodal.data.stream.blocks import RowDecoder, block_faults, block_tasks, read_blocks
from xmodal.data.stream.order import StreamPlan
from xmodal.data.synthetic.clips import BEATS, PITCHES, make_moving_shape
from xmodal.data.synthetic.mux import mux
from xmodal.errors import BadSample, ConfigError

WINDOW = ClipWindow(seconds=0.4, position="random")
FIELDS = (VideoField(frames=4, rate=10.0, size=32, window=WINDOW), AudioField(window=WINDOW))


def blocks_of(uri: str, specs: tuple, fields: tuple, rows_per_block: int = 4, index: str | None = None) -> list[dict]:
    """Return all blocks of one epoch in the order of the shards."""
    corpus = open_corpus(uri, index=index)
    plan = StreamPlan(corpus.extents.rows, corpus.extents.shard, 0, rows_per_block, shuffle="off")
    decoder = RowDecoder(parse_field_map(specs), fields)
    tasks = block_tasks(corpus, plan, 0, plan.steps_per_epoch, rows_per_block)
    return [block for task in tasks for block in read_blocks(task, decoder)]


def test_a_corpus_of_clips_is_read_as_blocks(tmp_path) -> None:
    write_clips(str(tmp_path), 6, seed=0, seconds=1.0, rows_per_shard=4)
    blocks = blocks_of(str(tmp_path), ("video=mp4", "audio=mp4"), FIELDS)
    rows = {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}
    assert rows["valid"].sum() == 6 and sorted(rows["row"][rows["valid"]]) == list(range(6))
    assert rows["video"].shape[1:] == (4, 32, 32, 3) and rows["video_mask"][rows["valid"]].all()
    assert rows["audio"].shape[1:] == (40, 64) and (rows["audio_length"][rows["valid"]] == 40).all()
    again = blocks_of(str(tmp_path), ("video=mp4", "audio=mp4"), FIELDS)
    for first, second in zip(blocks, again, strict=True):
        assert all(np.array_equal(first[name], second[name]) for name in first)


def test_a_bad_clip_is_a_masked_row_with_its_reason(tmp_path) -> None:
    whole = mux(numbered_frames(10), 25, tone(0.4, 16_000), 16_000)
    samples = {"a": whole, "b": whole[:900], "c": mux(numbered_frames(10), 25, None), "d": whole}
    (tmp_path / "0.tar").write_bytes(tar_shard((key, {"mp4": raw}) for key, raw in samples.items()))
    (block,) = blocks_of(str(tmp_path), ("video=mp4", "audio=mp4"), FIELDS)
    assert block["valid"].tolist() == [True, False, False, True]
    assert [(bad["key"], bad["field"], bad["reason"]) for bad in block_faults(block)] == [
        ("b", "video", "decode_truncated"),
        ("c", "audio", "no_audio_track"),
    ]
    assert not block["video"][2].any() and not block["video_mask"][2].any()


def test_the_time_span_of_a_word_comes_from_the_json_of_the_sample(tmp_path) -> None:
    words = [{"word": "a", "start": 0.0, "end": 0.2}, {"word": "b", "start": 0.2, "end": 0.4}]
    raw = mux(numbered_frames(10), 25, tone(0.4, 16_000), 16_000)
    members = {"mp4": raw, "json": json.dumps({"words": words}), "txt": "a b"}
    short = {"mp4": raw, "json": json.dumps({"words": words[:1]})}
    (tmp_path / "0.tar").write_bytes(tar_shard([("0", members), ("1", short), ("2", {"mp4": raw})]))
    field = VideoField(frames=5, rate=25.0, size=32)
    (block,) = blocks_of(str(tmp_path), ("video=mp4@json:words.1",), (field,))
    assert block["valid"].tolist() == [True, False, False, False]  # the fourth is padding
    assert [frame_number(frame) for frame in block["video"][0]] == [5, 6, 7, 8, 9]
    assert [bad["reason"] for bad in block_faults(block)] == ["bad_window", "missing_member"]


def test_a_field_map_with_time_spans_round_trips() -> None:
    specs = ("video=mp4@json:words.4|webm", "audio=wav@speech|mp4@json:words.4")
    field_map = parse_field_map(specs)
    assert field_map.specs == specs and field_map.members == {"mp4", "webm", "wav", "speech", "json"}
    assert field_map.sources["video"][0] == FieldSource("mp4", (), FieldSource("json", ("words", "4")))
    assert field_map.pick("audio", {"wav": b"w", "speech": [0.5, 1.0]}) == ValueWithSpan(b"w", [0.5, 1.0])
    for wrong in ("video=mp4@", "video=@json:words", "video=mp4@json:a@json:b"):
        with pytest.raises(ConfigError, match="seconds"):
            parse_field_map((wrong,))
    with pytest.raises(BadSample, match="missing_member"):
        field_map.pick("video", {"mp4": b"v"})


def test_the_usual_names_of_video_and_audio_are_guessed() -> None:
    available = available_members({"mp4": b"", "txt": b"", "json": b"{}"})
    guessed = FieldMap.guess(available, "tar", ("video", "audio", "text"))
    assert guessed.specs == ("video=mp4", "audio=mp4", "text=txt")
    assert FieldMap.guess({"flac", "mpg", "txt"}, "tar", ("audio", "video")).specs == ("audio=flac|mpg", "video=mpg")


def test_synthetic_clips_depend_on_their_seed_alone_and_have_consistent_labels() -> None:
    (key, members), (_, other) = clip_samples(2, 3, start=5)
    assert next(iter(clip_samples(1, 3, start=5))) == (key, members) and members["mp4"] != other["mp4"]
    facts = json.loads(members["json"])
    assert facts["caption"] == members["txt"].decode() and facts["shape"] in facts["caption"]
    assert int(members["cls"]) == facts["class_ids"]["shape"] == list(PITCHES).index(facts["shape"])
    clips = [make_moving_shape(0, index) for index in range(200)]
    assert {clip.shape for clip in clips} == set(PITCHES) and {clip.motion for clip in clips} == set(BEATS)


def test_the_pitch_of_a_synthetic_clip_tells_its_shape() -> None:
    field = AudioField(window=ClipWindow(seconds=2.0, position="start"), mel=None)
    for _, members in clip_samples(8, 1, size=16, fps=5):
        wave = np.zeros(field.samples, np.float32)
        out = {"audio": wave, "audio_length": np.zeros((), np.int32)}
        field.decode(members["mp4"], np.random.default_rng(0), out)
        hertz = np.abs(np.fft.rfft(wave)).argmax() / 2.0
        assert abs(hertz - PITCHES[json.loads(members["json"])["shape"]]) < 8


@real_clips
def test_grid_is_read_with_the_window_of_its_letter(tmp_path) -> None:
    window = ClipWindow(seconds=0.4)
    fields = (VideoField(frames=8, size=64, window=window), AudioField(window=window))
    specs = ("video=mp4@json:words.4", "audio=mp4@json:words.4")
    first = blocks_of(str(DATA / "grid_s1" / "test-00000.tar"), specs, fields, 20, str(tmp_path))[0]
    assert first["valid"].all() and first["video_mask"].all() and (first["audio_length"] == 40).all()
