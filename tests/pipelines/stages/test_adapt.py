"""Adaptation of a dual encoder on two workers: killed runs, metrics, and the files of its checkpoints."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

from jobs import adapt as job
from pipelines.config.evaluate import EvaluateConfig
from pipelines.config.export import ExportConfig
from pipelines.inference import evaluate
from pipelines.models.domain_heads import CRITICS
from pipelines.results import export
from pipelines.stages import adapt
from support.worker_kills import RankKiller, read_weights, same_tensors
from xmodal import checkpoint
from xmodal.data import synthetic
from xmodal.run import read_metrics

pytestmark = [pytest.mark.ray]
STEPS = 12


@pytest.fixture(scope="module")
def sketches(tmp_path_factory):
    """Write 96 sketches of other scenes, in shards of 48: an epoch of six steps, where the source has fifteen."""
    folder = tmp_path_factory.mktemp("sketches")
    synthetic.write_corpus(str(folder), "sketch", 96, 0, start=5000, rows_per_shard=48, size=32)
    return str(folder)


def config(runs, start, source, target, *flags):
    words = ["--name", "a", "--runs", str(runs), "--start-from", start, "--corpus", source, "--target", target]
    words += ["--target.protocol", "unpaired", "--domain.strength", "0.5", "--domain.hidden", "16", "--workers", "2"]
    words += ["--batch-size", "16", "--steps", str(STEPS), "--log-every", "2", "--checkpoint-every", "4"]
    return job.parse([*words, "--rows-per-task", "48", "--address", "local", *flags])


@pytest.fixture(scope="module")
def undisturbed(untrained, scenes, sketches, ray_here, tmp_path_factory):
    events = []
    result = adapt.run(config(tmp_path_factory.mktemp("runs"), untrained, scenes, sketches), events.append)
    assert result.step == STEPS
    assert any("read in two orders" in getattr(event, "text", "") for event in events)
    return result.run.uri


def critics(uri):
    return load_file(Path(checkpoint.resolve(uri).uri, CRITICS))


def test_a_run_with_a_killed_worker_yields_identical_weights_and_strengths(
    undisturbed, untrained, scenes, sketches, ray_here, tmp_path
):
    """Nor does target validation change them: the run that is killed has some, the uninterrupted one has none."""
    killer = RankKiller(step=6, rank=1)
    looking = ("--target-validation", sketches, "--target-validation.every", "5", "--domain.bank-size", "8")
    result = adapt.run(config(tmp_path, untrained, scenes, sketches, *looking), killer)
    assert len(killer.starts) == 2 and killer.starts[1] >= 4
    assert same_tensors(read_weights(result.run.uri), read_weights(undisturbed)) and same_tensors(
        critics(result.run.uri), critics(undisturbed)
    )
    ours, theirs = (
        {line["step"]: line["domain/strength"] for line in read_metrics(uri)} for uri in (result.run.uri, undisturbed)
    )
    assert theirs.items() <= ours.items() and list(theirs.values()) == sorted(theirs.values())
    looks = [line for line in read_metrics(result.run.uri) if "validation/target/bnm" in line]
    assert [line["step"] for line in looks] == [5, 10, STEPS]
    for line in looks:
        assert 0 < line["validation/target/bnm"] <= 1 and line["validation/target/effective_rank"] > 1
        assert 0 <= line["validation/target/mutual_nearest"] <= 1 and line["validation/seconds"] > 0
    again = adapt.run(config(tmp_path, untrained, scenes, sketches, *looking, "--resume"))
    assert again.already_finished and again.checkpoint == result.checkpoint


def test_the_metrics_cover_both_domains(undisturbed):
    lines = read_metrics(undisturbed)
    assert [line["step"] for line in lines] == list(range(2, STEPS + 1, 2))
    for line in lines:
        assert line["n_valid"] == 48 and line["rows/planned"] == 48 * line["step"]  # pairs, pictures, texts
        for name in ("image", "text"):
            assert 0 <= line[f"domain/{name}/accuracy"] <= 1 and line[f"domain/{name}/loss_per_ln2"] > 0
            assert line[f"{name}/gradient_ratio"] >= 0 and 0 <= line[f"{name}/target_spread"] <= 1
    record = json.loads(Path(undisturbed, "run.json").read_text())
    assert record["config"]["target"]["protocol"] == "unpaired" and len(record["corpora"]) == 2


def test_the_critics_are_in_the_checkpoint_and_not_in_an_exported_model(undisturbed, scenes, tmp_path):
    assert {name.partition(".")[0] for name in critics(undisturbed)} == {"image", "text"}
    export.run(ExportConfig(checkpoint=undisturbed, to=str(tmp_path / "model")))
    assert "model.safetensors" in {path.name for path in (tmp_path / "model").iterdir()}
    assert not list((tmp_path / "model").rglob(CRITICS))


def test_an_adapted_run_can_be_compared_on_both_domains(undisturbed, scenes, sketches):
    for corpus, rows in ((scenes, 240), (sketches, 96)):
        result = evaluate.run(EvaluateConfig(checkpoint=undisturbed, corpus=corpus, save=False))
        assert result.rows == rows and result.step == STEPS and np.isfinite(result.metrics["text_to_image/recall@10"])
