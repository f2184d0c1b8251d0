"""Diagnosis of a finished classifier: its content, its file, its output, and its errors."""

import json
from pathlib import Path

import pytest

from jobs import diagnose as job
from pipelines.config.diagnose import DiagnoseConfig
from pipelines.inference import diagnose
from support import classifier_runs
from xmodal import checkpoint
from xmodal.errors import ConfigError, CorpusError, StorageError
from xmodal.run import read_metrics

QUICK = {"batch_size": 16, "batches": 3, "flat_batches": 2, "directions": 2, "points": 3, "iterations": 2}
FIGURES = ("cosine", "conflict", "conflict_share", "norm_0", "norm_1", "weight_0", "weight_1", "rescale", "length",
           "accuracy")  # fmt: skip


@pytest.fixture(scope="module")
def corpora(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    return classifier_runs.corpus(folder / "train"), classifier_runs.corpus(folder / "test", rows=32, seed=1)


@pytest.fixture(scope="module")
def trained(corpora, tmp_path_factory):
    flags = ("--audit-every", "8")
    return classifier_runs.run(tmp_path_factory.mktemp("runs"), "balanced", corpora[0], *flags)


def test_every_line_of_metrics_has_all_values_of_every_encoder(trained):
    lines = read_metrics(trained.uri)
    assert len(lines) == classifier_runs.STEPS // classifier_runs.LOG_EVERY
    for line in lines:
        for name in ("audio", "video"):
            assert {f"{name}/{what}" for what in FIGURES} <= line.keys()
            assert 0 <= line[f"{name}/conflict_share"] <= 1 and line[f"{name}/rescale"] >= 1 - 1e-9
    audits = [line for line in lines if "audit/audio/same_sign" in line]
    assert [line["step"] for line in audits] == [8, 16, 24, 32, 40]
    assert all(0 <= line["audit/video/angle_degrees"] <= 180 for line in audits)
    events = b"".join(path.read_bytes() for path in Path(trained.uri).rglob("events.out.tfevents*"))
    assert all(name in events for name in (b"audio/conflict_share", b"video/rescale", b"audit/audio/angle_degrees"))


def test_a_diagnosis_is_complete_and_stored_in_the_run(trained, corpora, capsys):
    train, test = corpora
    before = checkpoint.resolve(trained.uri)
    result = diagnose.run(DiagnoseConfig(checkpoint=trained.uri, corpus=train, held_out=test, **QUICK))
    stored = json.loads(Path(result.result_uri).read_text())
    assert Path(result.result_uri).parent == Path(trained.uri) / "diagnoses"
    assert stored == result.record and stored["step"] == classifier_runs.STEPS
    assert stored["method"] == "mmpareto" and stored["rows"] == 96 and stored["batch_size"] == 16
    assert set(stored["gradients"]) == {"audio", "video"} and len(stored["gradients"]["audio"]["cosines"]) == 3
    assert len(stored["flatness"]["losses"]) == 2 and stored["flatness"]["places"] == [-1.0, 0.0, 1.0]
    assert stored["accuracy"]["rows"] == 32 and stored["accuracy"]["fitted_on"] == 96
    assert checkpoint.resolve(trained.uri) == before
    job.run(DiagnoseConfig(checkpoint=trained.uri, corpus=train, held_out=test, **QUICK))
    output = capsys.readouterr().out
    for words in ("audio, unimodal loss", "top Hessian eigenvalue", "accuracy of video", "stored in"):
        assert words in output, words


def test_a_diagnosis_reads_a_limited_and_repeatable_set_of_rows(trained, corpora):
    config = DiagnoseConfig(checkpoint=trained.uri, corpus=corpora[0], rows=40, save=False, **QUICK)
    one, other = diagnose.run(config), diagnose.run(config)
    assert one.result_uri is None and one.record["rows"] == 32  # two full mini-batches
    assert {**one.record, "seconds": 0} == {**other.record, "seconds": 0}


def test_a_joint_run_has_no_unimodal_gradients_and_no_heads(corpora, tmp_path):
    made = classifier_runs.run(tmp_path, "joint", corpora[0], "--method", "joint")
    record = diagnose.run(DiagnoseConfig(checkpoint=made.uri, corpus=corpora[0], **QUICK)).record
    assert set(record["gradients"]["audio"]) == {"multimodal"}
    assert record["accuracy"]["audio"]["head"] is None and record["accuracy"]["audio"]["probe"] > 0
    assert "never trained" in "\n".join(job.summary_lines(record))


@pytest.mark.parametrize(
    ("flags", "error", "words"),
    [
        (("--batches", "1"), ConfigError, "one gradient has no spread"),
        (("--rows", "100"), ConfigError, "two mini-batches at least"),
        (("--points", "4"), ConfigError, "must be odd"),
        (("--batch-size", "2000"), ConfigError, "at most 1024"),
        ((), ConfigError, "lower --batch-size"),
        (("--batch-size", "16", "--held-out", "nowhere"), StorageError, "nowhere"),
        (("--batch-size", "16", "--fields", "video=mp4", "audio=wav", "label=cls"), CorpusError, "audio=wav"),
    ],
)
def test_a_mistake_is_a_one_line_error(flags, error, words, trained, corpora):
    with pytest.raises(error, match=words):
        diagnose.run(job.parse([trained.uri, corpora[0], *flags]).config)


def test_a_dry_run_writes_nothing(trained, corpora, capsys):
    start = job.parse([trained.uri, *corpora[:1], "--dry-run"])
    shown = job.preview(start.config)
    assert shown["checkpoint"]["step"] == classifier_runs.STEPS and shown["corpora"][0]["rows"] == 96


def test_a_diagnosis_of_a_dual_encoder_is_rejected(untrained, corpora):
    with pytest.raises(ConfigError, match="is no classifier"):
        diagnose.run(DiagnoseConfig(checkpoint=untrained, corpus=corpora[0], batch_size=16))
