"""Clips as a user pretrains on them, on two workers; then searched, embedded, exported."""

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from jobs import evaluate as evaluate_job
from jobs import pretrain as job
from pipelines.config.embed import Config as Embed
from pipelines.config.evaluate import Config as Evaluate
from pipelines.config.export import Config as Export
from pipelines.config.logging import Cadence
from pipelines.config.pretrain import Config
from pipelines.config.report import Config as Report
from pipelines.config.resources import Resources
from pipelines.inference import embed, evaluate
from pipelines.results import export, report
from pipelines.stages import pretrain
from xmodal.data.formats.embedding_parts import read_embeddings
from xmodal.data.formats.shard_writer import write_shards
from xmodal.data.synthetic.clips import clip_samples, moving, waveform, write_clips
from xmodal.encoders import DualEncoder
from xmodal.encoders.input_fields import decoded, fields_of
from xmodal.errors import CheckpointError, ConfigError, CorpusError
from xmodal.run import read_metrics
from xmodal.storage import StorageOptions

pytestmark = [pytest.mark.ray]

STEPS, SECONDS, RATE = 24, 0.6, 16_000
SMALL = ("seconds=0.5", "frames=3", "size=32", "bands=16", "widths=8,16", "dim=16")
WAYS = ("video_to_audio", "audio_to_video")


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    write_clips(str(folder), 96, 0, seconds=SECONDS, size=32, rows_per_shard=24)
    return str(folder)


@pytest.fixture(scope="module")
def held_out(tmp_path_factory):
    """Other clips, whose sound lies in a wav beside them; one has no sound, one no pictures."""
    folder = tmp_path_factory.mktemp("held-out")
    samples = []
    for number, (key, members) in enumerate(clip_samples(24, 0, start=1000, seconds=SECONDS, size=32)):
        target = io.BytesIO()
        soundfile.write(target, waveform(moving(0, 1000 + number), seconds=SECONDS, rate=RATE)[0], RATE, format="WAV")
        samples.append((key, {**members, "wav": target.getvalue()}))
    samples[4][1]["wav"], samples[7][1]["mp4"] = b"no sound", b"no clip"
    list(write_shards(samples, str(folder), format="tar", prefix="clips-", rows=12, options=StorageOptions()))
    return str(folder)


def config(runs, corpus, *flags) -> Config:
    words = ["av-tiny", "--corpus", str(corpus), "--runs", str(runs), "--arguments", *SMALL]
    parsed = job.parse([*words, "--name", "a", "--steps", str(STEPS), "--batch-size", "16", *flags])
    cadence = Cadence(log_every=4, checkpoint_every=6)
    return replace(parsed, cadence=cadence, resources=Resources(workers=2, address="local"))


@pytest.fixture(scope="module")
def undisturbed(clips, held_out, ray_here, tmp_path_factory):
    """A run that measures itself on the way."""
    flags = ("--validation.corpus", held_out, "--validation.every", "12")
    result = pretrain.run(config(tmp_path_factory.mktemp("runs"), clips, *flags))
    assert result.step == STEPS
    return result.run.uri


def test_the_loss_falls_and_retrieval_is_measured_on_the_way_as_by_the_job(undisturbed, held_out, capsys):
    lines = read_metrics(undisturbed)
    assert lines[-1]["loss"] < lines[0]["loss"]
    result = evaluate.run(Evaluate(checkpoint=undisturbed, corpus=held_out))
    assert (result.rows, result.skipped) == (22, 2)
    assert set(result.metrics) == {f"{way}/{m}" for way in WAYS for m in ("recall@1", "recall@5", "recall@10",
                                                                          "median_rank")}  # fmt: skip
    for name, value in result.metrics.items():
        assert lines[-1][f"validation/{name}"] == pytest.approx(value), name
    assert result.chance["audio_to_video/recall@5"] == pytest.approx(5 / 22)
    for name, (low, high) in result.interval.items():
        assert low <= result.metrics[name] <= high, name
    assert "audio -> video R@1" in evaluate_job.table(result).replace("  ", " ")
    assert json.loads(Path(result.stored).read_text())["metrics"] == dict(result.metrics)


def test_clips_have_no_classes_in_words(undisturbed, clips):
    with pytest.raises(ConfigError, match=r"--label is for models that read text: .* pairs video and audio"):
        evaluate.run(Evaluate(checkpoint=undisturbed, corpus=clips, label="cls"))


def test_both_sides_are_embedded_or_one(undisturbed, held_out, tmp_path):
    def config_of(to, **changes) -> Embed:
        places = {"checkpoint": undisturbed, "corpus": held_out, "to": str(tmp_path / to)}
        return Embed(**places, workers=1, address="local", **changes)

    result = embed.run(config_of("both"))
    assert (result.rows, result.vectors, result.skipped, result.dim) == (22, 44, 2, 16)
    found = read_embeddings(str(tmp_path / "both")).to_pandas()
    assert found.groupby("modality").size().to_dict() == {"audio": 22, "video": 22}
    assert np.linalg.norm(np.stack(found["vector"]), axis=1) == pytest.approx(1, abs=1e-5)
    sound = embed.run(config_of("sound", modalities=("audio",)))
    assert sound.vectors == 23  # the clip without pictures has its sound
    with pytest.raises(ConfigError, match=r"--modalities image: .* pairs video and audio"):
        embed.run(config_of("image", modalities=("image",)))


def test_a_page_shows_frames_and_spectrograms(undisturbed, held_out, tmp_path):
    page = tmp_path / "report.html"
    report.run(Report(runs=(undisturbed,), corpus=held_out, to=str(page)))
    text = page.read_text()
    assert "audio → video, recall@10" in text and "Sound → the first five of 22 clips" in text
    assert text.count('class="sound"') >= 30 and "mean clip and the mean sound" in text
    assert "caption" not in text.partition('id="gallery"')[2].partition('id="health"')[0].replace("figcaption", "")


def test_it_is_exported_as_a_directory_that_gives_the_same_vectors(undisturbed, clips, tmp_path):
    to = tmp_path / "model"
    result = export.run(Export(checkpoint=undisturbed, to=str(to)))
    assert set(result.files) == {"README.md", "config.json", "model.safetensors"}
    assert "DualEncoder.from_pretrained" in result.loads
    _, members = next(clip_samples(1, 0, seconds=SECONDS, size=32))
    model, ours = (DualEncoder.from_pretrained(place).eval() for place in (to, Path(weights_at(undisturbed))))
    batch = decoded(fields_of(model), [{"video": members["mp4"], "audio": members["mp4"]}])
    with torch.no_grad():
        for name in model.modalities:
            torch.testing.assert_close(model.encode(name, batch), ours.encode(name, batch))
    card = (to / "README.md").read_text()
    assert "pixels and 16 mel bands at 16000 Hz" in card and "| audio → video R@10 |" in card
    with pytest.raises(ConfigError, match="--onnx is for pictures and captions, not for video and audio"):
        export.run(Export(checkpoint=undisturbed, to=str(tmp_path / "other"), onnx=True))


def weights_at(run: str) -> str:
    from xmodal import checkpoint

    return checkpoint.resolve(run).uri


def test_another_run_starts_from_it_where_it_is_the_same_model(undisturbed, clips, ray_here, tmp_path):
    place = weights_at(undisturbed)
    begun = pretrain.check(config(tmp_path, clips, "--start-from", place))[2]
    theirs = DualEncoder.from_pretrained(Path(place))
    for key, value in begun.state_dict().items():
        torch.testing.assert_close(value, theirs.state_dict()[key])
    other = replace(config(tmp_path, clips, "--start-from", place), name="b")
    other = replace(other, model=replace(other.model, arguments=("seconds=0.4", *SMALL[1:])))
    with pytest.raises(CheckpointError, match=r"seconds is 0\.5, expected 0\.4"):
        pretrain.check(other)


@pytest.mark.parametrize(
    ("flags", "error", "message"),
    [
        (("--arguments", "secnds=1"), ConfigError, "did you mean 'seconds'"),
        (("--tokenizer", "x"), ConfigError, "av-tiny reads no text: leave the tokenizer out"),
        (("--patch-dropout", "0.5"), ConfigError, "patch_dropout is for pictures, not for video and audio"),
        (("--gradient-checkpointing",), ConfigError, "no tower of this model can recompute"),
        (("--fields", "image=jpg", "audio=mp4"), ConfigError, "unknown field 'image'"),
        (("--fields", "video=mp4", "audio=flac"), CorpusError, "audio=flac matches nothing"),
        (("--fields", "video=mp4"), ConfigError, "says nothing of audio"),
    ],
)
def test_mistakes_are_named_before_a_worker_starts(flags, error, message, clips, ray_here, tmp_path):
    def refuse_a_start(news):
        assert news["kind"] != "start"

    with pytest.raises(error, match=message):
        pretrain.run(config(tmp_path, clips, *flags), refuse_a_start)


def test_pictures_and_captions_are_no_clips(scenes, ray_here, tmp_path):
    with pytest.raises(CorpusError, match="cannot guess where the video"):
        pretrain.run(config(tmp_path, scenes))
