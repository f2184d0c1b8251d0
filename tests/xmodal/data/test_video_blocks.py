"""Clips written as shards arrive as blocks of pictures, sound and text; a bad one travels masked."""

import json

import numpy as np
import pytest

from support.media import DATA, number_of, numbered, real_clips, tone
from xmodal.data.decode.fields import Excerpt, FieldMap, Source, available_members, parse_field_map
from xmodal.data.formats.shard_writer import tar_shard
from xmodal.data.index.corpus import open_corpus
from xmodal.data.media.audio import AudioField
from xmodal.data.media.clip_window import Window
from xmodal.data.media.video import VideoField
from xmodal.data.stream.blocks import Recipe, faults, read, read_tasks
from xmodal.data.stream.order import Plan
from xmodal.data.synthetic.clips import BEATS, PITCHES, clip_samples, moving, write_clips
from xmodal.data.synthetic.mux import mux
from xmodal.errors import BadSample, ConfigError

WINDOW = Window(seconds=0.4, place="random")
FIELDS = (VideoField(frames=4, rate=10.0, size=32, window=WINDOW), AudioField(window=WINDOW))


def blocks_of(uri: str, specs: tuple, fields: tuple, rows_per_block: int = 4, index: str | None = None) -> list[dict]:
    """All blocks of one epoch in the order of the shards."""
    corpus = open_corpus(uri, index=index)
    plan = Plan(corpus.extents.rows, corpus.extents.shard, 0, rows_per_block, shuffle=False)
    recipe = Recipe(parse_field_map(specs), fields)
    tasks = read_tasks(corpus, plan, 0, plan.steps_per_epoch, rows_per_block)
    return [block for task in tasks for block in read(task, recipe)]


def test_a_corpus_of_clips_arrives_as_blocks_with_equal_seconds(tmp_path) -> None:
    write_clips(str(tmp_path), 6, seed=0, seconds=1.0, rows_per_shard=4)
    blocks = blocks_of(str(tmp_path), ("video=mp4", "audio=mp4"), FIELDS)
    rows = {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}
    assert rows["valid"].sum() == 6 and sorted(rows["row"][rows["valid"]]) == list(range(6))
    assert rows["video"].shape[1:] == (4, 32, 32, 3) and rows["video_mask"][rows["valid"]].all()
    assert rows["audio"].shape[1:] == (40, 64) and (rows["audio_length"][rows["valid"]] == 40).all()
    again = blocks_of(str(tmp_path), ("video=mp4", "audio=mp4"), FIELDS)
    assert all(np.array_equal(one[name], other[name]) for one, other in zip(blocks, again, strict=True) for name in one)


def test_a_bad_clip_travels_masked_with_its_reason(tmp_path) -> None:
    whole = mux(numbered(10), 25, tone(0.4, 16_000), 16_000)
    samples = {"a": whole, "b": whole[:900], "c": mux(numbered(10), 25, None), "d": whole}
    (tmp_path / "0.tar").write_bytes(tar_shard((key, {"mp4": raw}) for key, raw in samples.items()))
    (block,) = blocks_of(str(tmp_path), ("video=mp4", "audio=mp4"), FIELDS)
    assert block["valid"].tolist() == [True, False, False, True]
    assert [(bad["key"], bad["field"], bad["reason"]) for bad in faults(block)] == [
        ("b", "video", "decode_truncated"),
        ("c", "audio", "no_audio_track"),
    ]
    assert not block["video"][2].any() and not block["video_mask"][2].any()


def test_the_seconds_of_a_word_come_from_the_json_beside_the_clip(tmp_path) -> None:
    words = [{"word": "a", "start": 0.0, "end": 0.2}, {"word": "b", "start": 0.2, "end": 0.4}]
    raw = mux(numbered(10), 25, tone(0.4, 16_000), 16_000)
    members = {"mp4": raw, "json": json.dumps({"words": words}), "txt": "a b"}
    short = {"mp4": raw, "json": json.dumps({"words": words[:1]})}
    (tmp_path / "0.tar").write_bytes(tar_shard([("0", members), ("1", short), ("2", {"mp4": raw})]))
    field = VideoField(frames=5, rate=25.0, size=32)
    (block,) = blocks_of(str(tmp_path), ("video=mp4@json:words.1",), (field,))
    assert block["valid"].tolist() == [True, False, False, False]  # the fourth is padding
    assert [number_of(picture) for picture in block["video"][0]] == [5, 6, 7, 8, 9]
    assert [bad["reason"] for bad in faults(block)] == ["bad_window", "missing_member"]


def test_a_map_with_seconds_is_what_its_spec_says() -> None:
    specs = ("video=mp4@json:words.4|webm", "audio=wav@speech|mp4@json:words.4")
    field_map = parse_field_map(specs)
    assert field_map.specs == specs and field_map.members == {"mp4", "webm", "wav", "speech", "json"}
    assert field_map.sources["video"][0] == Source("mp4", (), Source("json", ("words", "4")))
    assert field_map.pick("audio", {"wav": b"w", "speech": [0.5, 1.0]}) == Excerpt(b"w", [0.5, 1.0])
    for wrong in ("video=mp4@", "video=@json:words", "video=mp4@json:a@json:b"):
        with pytest.raises(ConfigError, match="seconds"):
            parse_field_map((wrong,))
    with pytest.raises(BadSample, match="missing_member"):
        field_map.pick("video", {"mp4": b"v"})


def test_usual_names_of_clips_and_recordings_are_guessed() -> None:
    have = available_members({"mp4": b"", "txt": b"", "json": b"{}"})
    guessed = FieldMap.guess(have, "tar", ("video", "audio", "text"))
    assert guessed.specs == ("video=mp4", "audio=mp4", "text=txt")
    assert FieldMap.guess({"flac", "mpg", "txt"}, "tar", ("audio", "video")).specs == ("audio=flac|mpg", "video=mpg")


def test_the_synthetic_corpus_is_a_function_of_its_seed_and_tells_the_same_by_eye_and_ear() -> None:
    (key, members), (_, other) = clip_samples(2, 3, start=5)
    assert next(iter(clip_samples(1, 3, start=5))) == (key, members) and members["mp4"] != other["mp4"]
    facts = json.loads(members["json"])
    assert facts["caption"] == members["txt"].decode() and facts["shape"] in facts["caption"]
    assert int(members["cls"]) == facts["class_ids"]["shape"] == list(PITCHES).index(facts["shape"])
    clips = [moving(0, index) for index in range(200)]
    assert {clip.shape for clip in clips} == set(PITCHES) and {clip.motion for clip in clips} == set(BEATS)


def test_the_pitch_of_a_synthetic_clip_tells_its_shape() -> None:
    field = AudioField(window=Window(seconds=2.0, place="start"), mel=None)
    for _, members in clip_samples(8, 1, size=16, fps=5):
        wave = np.zeros(field.samples, np.float32)
        out = {"audio": wave, "audio_length": np.zeros((), np.int32)}
        field.decode(members["mp4"], np.random.default_rng(0), out)
        hertz = np.abs(np.fft.rfft(wave)).argmax() / 2.0
        assert abs(hertz - PITCHES[json.loads(members["json"])["shape"]]) < 8


@real_clips
def test_grid_streams_with_the_window_of_its_letter(tmp_path) -> None:
    window = Window(seconds=0.4)
    fields = (VideoField(frames=8, size=64, window=window), AudioField(window=window))
    specs = ("video=mp4@json:words.4", "audio=mp4@json:words.4")
    first = blocks_of(str(DATA / "grid_s1" / "test-00000.tar"), specs, fields, 20, str(tmp_path))[0]
    assert first["valid"].all() and first["video_mask"].all() and (first["audio_length"] == 40).all()
