"""A dry run describes the job, raises the errors of the job, and writes nothing."""

import json
import os

import pytest

from jobs import arguments, classify, demo, doctor, embed, evaluate, export, inspect, pretrain, report
from support.clip_shards import write_clips
from xmodal.errors import CheckpointError, ConfigError, StorageError


@pytest.fixture(autouse=True)
def nowhere(monkeypatch):
    """Make reaching a cluster an error."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("pipelines.runtime.cluster.connect", lambda *_, **__: pytest.fail("a cluster was reached"))


def dry(job, words, capsys):
    """Return what a job prints with --dry-run."""
    if job in (pretrain, classify):
        job.run([*words, "--dry-run"])
    else:
        arguments.run_or_preview(job.parse([*words, "--dry-run"]), job.run, job.preview)
    return json.loads(capsys.readouterr().out)


def test_the_preview_of_pretraining_has_the_model_the_workers_and_the_corpora(scenes, tmp_path, capsys):
    words = ["vit-tiny", "--corpus", scenes, "--runs", str(tmp_path), "--batch-size", "96"]
    shown = dry(pretrain, [*words, "--workers", "2"], capsys)
    assert shown["config"]["optim"]["batch_size"] == 96 and shown["config"]["run"]["name"] == "vit-tiny"
    assert shown["resources"]["workers"] == [2] and shown["resources"]["rows_per_worker"] == [48]
    assert shown["resources"]["where"] == "a Ray of its own on this machine"
    assert shown["model"]["parameters"] == sum(shown["model"]["towers"].values()) + 1  # and the temperature
    assert shown["corpora"][0]["shards"] == 4 and not list(tmp_path.iterdir())
    elastic = dry(pretrain, [*words, "--workers", "2:8", "--gpus-per-worker", "1", "--address", "h:6379"], capsys)
    assert elastic["resources"]["workers"] == [2, 3, 4, 6, 8]  # 5 and 7 do not divide 96
    assert elastic["resources"]["rows_per_worker"] == [48, 32, 24, 16, 12]
    assert elastic["resources"]["per_worker"]["GPU"] == 1 and "h:6379" in elastic["resources"]["where"]
    with pytest.raises(ConfigError, match="worker counts that fit"):
        dry(pretrain, [*words, "--workers", "5"], capsys)


def test_the_preview_of_embedding_has_the_checkpoint_and_the_encoders(untrained, scenes, tmp_path, capsys):
    words = [untrained, scenes, "--to", str(tmp_path / "vectors")]
    shown = dry(embed, words, capsys)
    assert shown["checkpoint"]["step"] == 7 and shown["checkpoint"]["bytes"] > 1000
    assert shown["resources"]["encoders"] == os.cpu_count()  # no GPU in tests
    assert dry(embed, [*words, "--workers", "3"], capsys)["resources"]["encoders"] == 3
    on_cluster = dry(embed, [*words, "--address", "h:6379", "--gpus-per-worker", "0.5"], capsys)["resources"]
    assert on_cluster["per_encoder"]["GPU"] == 0.5 and on_cluster["encoders"].startswith("one for each GPU")
    assert not list((tmp_path / "vectors").glob("*"))
    with pytest.raises((CheckpointError, StorageError)):
        dry(embed, [str(tmp_path / "no-run"), *words[1:]], capsys)


def test_the_preview_of_evaluation_has_the_metrics_and_where_they_are_computed(untrained, scenes, capsys):
    shown = dry(evaluate, [untrained, scenes], capsys)
    assert shown["figures"] == ["retrieval"] and shown["resources"] == {"where": "this process"}
    words = [untrained, scenes, "--label", "cls", "--probe-train", scenes, "--workers", "2"]
    shown = dry(evaluate, words, capsys)
    assert shown["figures"] == ["retrieval", "zero-shot", "linear probe"] and len(shown["corpora"]) == 2
    assert shown["resources"]["encoders"] == 2


def test_the_preview_of_classification_has_the_model_the_workers_and_the_corpora(tmp_path, capsys):
    write_clips(str(tmp_path / "clips"), 4, 0, seconds=0.2, size=16, rows_per_shard=4)
    words = ["grid-digit", "--corpus", str(tmp_path / "clips"), "--runs", str(tmp_path / "runs"), "--batch-size", "64"]
    shown = dry(classify, [*words, "--workers", "2"], capsys)
    assert shown["resources"]["rows_per_worker"] == [32] and shown["model"]["parameters"] > 10_000
    assert len(shown["config"]["model"]["classes"]) == 10 and shown["corpora"][0]["shards"] == 1
    with pytest.raises(ConfigError, match="batch_size=64 cannot be divided by workers=3"):
        dry(classify, [*words, "--workers", "3"], capsys)
    assert not (tmp_path / "runs").exists()


def test_the_preview_of_a_local_job_has_what_it_will_read(untrained, scenes, tmp_path, capsys):
    here = {"where": "this process"}
    shown = dry(export, [untrained, "--to", str(tmp_path / "model"), "--onnx"], capsys)
    assert shown["checkpoint"]["step"] == 7 and shown["config"]["onnx"] and shown["resources"] == here
    shown = dry(report, [untrained, "--to", str(tmp_path / "page.html")], capsys)
    assert [found["step"] for found in shown["checkpoints"]] == [7] and shown["resources"] == here
    shown = dry(inspect, [scenes], capsys)
    assert (shown["corpora"][0]["format"], shown["corpora"][0]["shards"]) == ("tar", 4) and shown["resources"] == here
    assert "one on each node" in dry(doctor, ["--corpus", scenes], capsys)["resources"]["tasks"]
    shown = dry(demo, ["--runs", str(tmp_path), "--workers", "4"], capsys)
    assert set(shown["found"].values()) == {"new"} and shown["adaptation"]["domain"]["loss"] == "mmd"
    assert shown["resources"]["workers"] == [4]
    assert not list(tmp_path.iterdir())
    with pytest.raises((CheckpointError, StorageError)):
        dry(export, [str(tmp_path / "no-run"), "--to", str(tmp_path / "model")], capsys)
