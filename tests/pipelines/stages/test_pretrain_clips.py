"""Pretraining on clips on two workers, then validation, embedding, the report and the export."""

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
from pipelines.config.embed import EmbedConfig
from pipelines.config.evaluate import EvaluateConfig
from pipelines.config.export import ExportConfig
from pipelines.config.logging import CheckpointConfig, LoggingConfig
from pipelines.config.pretrain import PretrainConfig
from pipelines.config.report import ReportConfig
from pipelines.config.resources import ResourceConfig
from pipelines.inference import embed, evaluate
from pipelines.results import export, report
from pipelines.runtime.events import WorkerGroupStart
from pipelines.stages import pretrain
from support.clip_shards import clip_samples, write_clips
from support.embedding_tables import read_embeddings
from support.model_flags import model_flags
from xmodal.data.formats.shard_writer import write_shards
from xmodal.data.synthetic.clips import make_moving_shape, waveform
from xmodal.encoders import DualEncoder
from xmodal.encoders.input_fields import decode_batch, fields_for_model
from xmodal.errors import CheckpointError, ConfigError, CorpusError
from xmodal.run import read_metrics
from xmodal.storage import StorageOptions

pytestmark = [pytest.mark.ray]

STEPS, SECONDS, RATE = 24, 0.6, 16_000
SMALL = {"seconds": 0.5, "frames": 3, "size": 32, "bands": 16, "widths": (8, 16), "dim": 16}
WAYS = ("video_to_audio", "audio_to_video")


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    write_clips(str(folder), 96, 0, seconds=SECONDS, size=32, rows_per_shard=24)
    return str(folder)


@pytest.fixture(scope="module")
def held_out(tmp_path_factory):
    """Write other clips, whose audio is in a separate wav; one has no audio, one no video."""
    folder = tmp_path_factory.mktemp("held-out")
    samples = []
    for number, (key, members) in enumerate(clip_samples(24, 0, start=1000, seconds=SECONDS, size=32)):
        target = io.BytesIO()
        soundfile.write(
            target, waveform(make_moving_shape(0, 1000 + number), seconds=SECONDS, rate=RATE)[0], RATE, format="WAV"
        )
        samples.append((key, {**members, "wav": target.getvalue()}))
    samples[4][1]["wav"], samples[7][1]["mp4"] = b"no sound", b"no clip"
    list(write_shards(samples, str(folder), format="tar", prefix="clips-", rows_per_shard=12, options=StorageOptions()))
    return str(folder)


def config(runs, corpus, *flags) -> PretrainConfig:
    words = ["av-tiny", "--corpus", str(corpus), "--runs", str(runs), *model_flags(SMALL)]
    parsed = job.parse([*words, "--name", "a", "--steps", str(STEPS), "--batch-size", "16", *flags])
    every = {"logging": LoggingConfig(log_every=4), "checkpoints": CheckpointConfig(checkpoint_every=6)}
    return replace(parsed, **every, resources=ResourceConfig(workers=2, address="local"))


@pytest.fixture(scope="module")
def undisturbed(clips, held_out, ray_here, tmp_path_factory):
    """Train a run with validation."""
    flags = ("--validation.corpus", held_out, "--validation.every", "12")
    result = pretrain.run(config(tmp_path_factory.mktemp("runs"), clips, *flags))
    assert result.step == STEPS
    return result.run.uri


def test_the_loss_falls_and_validation_equals_an_evaluation(undisturbed, held_out, capsys):
    lines = read_metrics(undisturbed)
    assert lines[-1]["loss"] < lines[0]["loss"]
    result = evaluate.run(EvaluateConfig(checkpoint=undisturbed, corpus=held_out))
    assert (result.rows, result.skipped) == (22, 2)
    assert set(result.metrics) == {f"{way}/{m}" for way in WAYS for m in ("recall@1", "recall@5", "recall@10",
                                                                          "median_rank")}  # fmt: skip
    for name, value in result.metrics.items():
        assert lines[-1][f"validation/{name}"] == pytest.approx(value), name
    assert result.chance["audio_to_video/recall@5"] == pytest.approx(5 / 22)
    for name, (low, high) in result.interval.items():
        assert low <= result.metrics[name] <= high, name
    assert "audio -> video R@1" in evaluate_job.table(result).replace("  ", " ")
    assert json.loads(Path(result.result_uri).read_text())["metrics"] == dict(result.metrics)


def test_zero_shot_classes_are_rejected_for_clips(undisturbed, clips):
    with pytest.raises(ConfigError, match=r"--label is for models that read text: .* pairs video and audio"):
        evaluate.run(EvaluateConfig(checkpoint=undisturbed, corpus=clips, label="cls"))


def test_both_modalities_are_embedded_or_one(undisturbed, held_out, tmp_path):
    def config_of(to, **changes) -> EmbedConfig:
        places = {"checkpoint": undisturbed, "corpus": held_out, "to": str(tmp_path / to)}
        return EmbedConfig(**places, workers=1, address="local", **changes)

    result = embed.run(config_of("both"))
    assert (result.rows, result.vectors, result.skipped, result.dim) == (22, 44, 2, 16)
    embeddings = read_embeddings(str(tmp_path / "both")).to_pandas()
    assert embeddings.groupby("modality").size().to_dict() == {"audio": 22, "video": 22}
    assert np.linalg.norm(np.stack(embeddings["vector"]), axis=1) == pytest.approx(1, abs=1e-5)
    sound = embed.run(config_of("sound", modalities=("audio",)))
    assert sound.vectors == 23  # the clip without pictures has its sound
    with pytest.raises(ConfigError, match=r"--modalities image: .* pairs video and audio"):
        embed.run(config_of("image", modalities=("image",)))


def test_a_page_shows_frames_and_spectrograms(undisturbed, held_out, tmp_path):
    page = tmp_path / "report.html"
    report.run(ReportConfig(runs=(undisturbed,), corpus=held_out, to=str(page)))
    text = page.read_text()
    assert "audio → video, recall@10" in text and "Audio → the first five of 22 videos" in text
    assert text.count('class="spectrogram"') >= 30
    assert "mean video embedding and the mean audio embedding" in text
    assert "caption" not in text.partition('id="gallery"')[2].partition('id="health"')[0].replace("figcaption", "")


def test_the_exported_directory_gives_the_same_vectors(undisturbed, clips, tmp_path):
    to = tmp_path / "model"
    result = export.run(ExportConfig(checkpoint=undisturbed, to=str(to)))
    assert set(result.files) == {"README.md", "config.json", "model.safetensors"}
    assert "DualEncoder.from_pretrained" in result.loads
    _, members = next(clip_samples(1, 0, seconds=SECONDS, size=32))
    model, ours = (DualEncoder.from_pretrained(place).eval() for place in (to, Path(weights_at(undisturbed))))
    batch = decode_batch(fields_for_model(model), [{"video": members["mp4"], "audio": members["mp4"]}])
    with torch.no_grad():
        for name in model.modalities:
            torch.testing.assert_close(model.encode(name, batch), ours.encode(name, batch))
    card = (to / "README.md").read_text()
    assert "pixels and 16 mel bands at 16000 Hz" in card and "| audio → video R@10 |" in card
    with pytest.raises(ConfigError, match="--onnx is for models of image and text, not of video and audio"):
        export.run(ExportConfig(checkpoint=undisturbed, to=str(tmp_path / "other"), onnx=True))


def weights_at(run: str) -> str:
    from xmodal import checkpoint

    return checkpoint.resolve(run).uri


def test_another_run_of_the_same_model_starts_from_the_checkpoint(undisturbed, clips, ray_here, tmp_path):
    place = weights_at(undisturbed)
    begun = pretrain.check(config(tmp_path, clips, "--start-from", place))[2]
    theirs = DualEncoder.from_pretrained(Path(place))
    for key, value in begun.state_dict().items():
        torch.testing.assert_close(value, theirs.state_dict()[key])
    other = config(tmp_path, clips, "--start-from", place, "--name", "b")
    other = replace(other, model=replace(other.model, seconds=0.4))
    with pytest.raises(CheckpointError, match=r"seconds is 0\.5, expected 0\.4"):
        pretrain.check(other)


@pytest.mark.parametrize(
    ("flags", "error", "message"),
    [
        (("--model.secnds", "1"), ConfigError, "did you mean '--model.seconds'"),
        (("--tokenizer", "x"), ConfigError, "av-tiny reads no text: leave the tokenizer out"),
        (("--patch-dropout", "0.5"), ConfigError, "patch_dropout is for images, not for video and audio"),
        (("--gradient-checkpointing",), ConfigError, "no tower of this model can recompute"),
        (("--fields", "image=jpg", "audio=mp4"), ConfigError, "unknown field 'image'"),
        (("--fields", "video=mp4", "audio=flac"), CorpusError, "audio=flac matches nothing"),
        (("--fields", "video=mp4"), ConfigError, "does not name audio"),
    ],
)
def test_mistakes_are_reported_before_a_worker_starts(flags, error, message, clips, ray_here, tmp_path):
    def refuse_a_start(event):
        assert not isinstance(event, WorkerGroupStart)

    with pytest.raises(error, match=message):
        pretrain.run(config(tmp_path, clips, *flags), refuse_a_start)


def test_a_corpus_of_images_and_captions_is_rejected_for_clips(scenes, ray_here, tmp_path):
    with pytest.raises(CorpusError, match="cannot guess where the video"):
        pretrain.run(config(tmp_path, scenes))
