"""A dry run says what would be run with what, refuses what the run would refuse, and leaves nothing behind."""

import json
import os

import pytest

from jobs import arguments, embed, evaluate, pretrain
from xmodal.errors import CheckpointError, ConfigError, StorageError


@pytest.fixture(autouse=True)
def nowhere(monkeypatch):
    """No cluster is known, and none is reached."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("pipelines.cluster.connect", lambda *_, **__: pytest.fail("a cluster was reached"))


def dry(job, words, capsys):
    """What a job prints with --dry-run."""
    if job is pretrain:
        job.run([*words, "--dry-run"])
    else:
        arguments.begin(job.parse([*words, "--dry-run"]), job.run, job.preview)
    return json.loads(capsys.readouterr().out)


def test_of_pretraining_it_shows_model_batch_shares_and_corpora(scenes, tmp_path, capsys):
    words = ["vit-tiny", "--corpus", scenes, "--runs", str(tmp_path), "--batch-size", "96"]
    shown = dry(pretrain, [*words, "--workers", "2"], capsys)
    assert shown["config"]["optim"]["batch_size"] == 96 and shown["config"]["name"] == "vit-tiny"
    assert shown["resources"]["workers"] == [2] and shown["resources"]["pairs_per_worker"] == [48]
    assert shown["resources"]["where"] == "a Ray of its own on this machine"
    assert shown["model"]["parameters"] == sum(shown["model"]["towers"].values()) + 1  # and the temperature
    assert shown["corpora"][0]["shards"] == 4 and not list(tmp_path.iterdir())
    elastic = dry(pretrain, [*words, "--workers", "2:8", "--gpus-per-worker", "1", "--address", "h:6379"], capsys)
    assert elastic["resources"]["workers"] == [2, 3, 4, 6, 8]  # 5 and 7 do not divide 96
    assert elastic["resources"]["pairs_per_worker"] == [48, 32, 24, 16, 12]
    assert elastic["resources"]["per_worker"]["GPU"] == 1 and "h:6379" in elastic["resources"]["where"]
    with pytest.raises(ConfigError, match="worker counts that fit"):
        dry(pretrain, [*words, "--workers", "5"], capsys)


def test_of_embedding_it_shows_the_checkpoint_and_the_encoders(untrained, scenes, tmp_path, capsys):
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


def test_of_evaluation_it_shows_the_figures_and_where_they_are_computed(untrained, scenes, capsys):
    shown = dry(evaluate, [untrained, scenes], capsys)
    assert shown["figures"] == ["retrieval"] and shown["resources"] == {"where": "this process"}
    words = [untrained, scenes, "--label", "cls", "--probe-train", scenes, "--workers", "2"]
    shown = dry(evaluate, words, capsys)
    assert shown["figures"] == ["retrieval", "zero-shot", "linear probe"] and len(shown["corpora"]) == 2
    assert shown["resources"]["encoders"] == 2
