"""Pretraining as a user starts it: on two workers, killed and resumed runs end with bit-identical weights."""

import json
import os
import shutil
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest
from transformers import AutoTokenizer, CLIPModel

from jobs import pretrain as job
from jobs.progress_reporter import ProgressReporter
from pipelines.config.architectures import model_config
from pipelines.config.evaluate import EvaluateConfig
from pipelines.config.logging import CheckpointConfig, LoggingConfig
from pipelines.config.optimizer import OptimizerConfig
from pipelines.config.run import RunOptions
from pipelines.config.validation import ValidationConfig
from pipelines.inference import evaluate
from pipelines.runtime.cluster import ResourceConfig
from pipelines.runtime.events import Notification, WorkerGroupStart
from pipelines.stages import pretrain
from pipelines.stages.pretrain import PretrainConfig
from pipelines.stream.corpora import DataConfig
from support import fork_server
from support.in_process_job import run_job
from support.model_flags import TINY, model_flags
from support.worker_kills import RankKiller, read_weights, same_tensors
from xmodal import checkpoint
from xmodal.data import synthetic
from xmodal.errors import ConfigError
from xmodal.run import read_metrics

pytestmark = [pytest.mark.ray]

DEEPER = {**TINY, "depth": 2}
STEPS = 24


def config(runs, corpus, *, workers=2, resume=False):
    return PretrainConfig(
        run=RunOptions(name="a", runs=str(runs), resume=resume),
        data=DataConfig(corpus=(corpus,), rows_per_task=48),
        model=model_config("vit-tiny", **DEEPER, vocab_size=600, patch_dropout=0.25),
        optim=OptimizerConfig(batch_size=24, steps=STEPS, learning_rate=1e-3),
        logging=LoggingConfig(log_every=4),
        checkpoints=CheckpointConfig(checkpoint_every=6),
        resources=ResourceConfig(workers=workers, address="local"),
    )


@pytest.fixture(scope="module")
def undisturbed(scenes, ray_here, tmp_path_factory):
    runs = tmp_path_factory.mktemp("runs")
    events = []
    result = pretrain.run(config(runs, scenes), events.append)
    assert result.step == STEPS and not result.already_finished
    return result.run.uri


def test_a_run_with_a_killed_worker_yields_identical_weights(undisturbed, scenes, ray_here, tmp_path):
    killer = RankKiller(step=12, rank=1)
    result = pretrain.run(config(tmp_path, scenes), killer)
    assert len(killer.starts) == 2 and killer.starts[0] == 0 and killer.starts[1] >= 6, killer.starts
    assert same_tensors(read_weights(result.run.uri), read_weights(undisturbed))
    steps = [line["step"] for line in read_metrics(result.run.uri)]
    assert steps == list(range(4, STEPS + 1, 4))  # no step is logged twice
    ours, theirs = (read_metrics(uri)[-1] for uri in (result.run.uri, undisturbed))
    assert ours["loss"] == theirs["loss"] and ours["rows/planned"] == theirs["rows/planned"]


def test_a_run_with_a_killed_driver_resumes_from_a_committed_checkpoint(undisturbed, scenes, ray_here, tmp_path):
    """SIGKILL ends the whole process group; `--resume` ends with the same weights."""
    words = _words(tmp_path, scenes)
    command = fork_server.command("jobs.pretrain", *words)
    driver = subprocess.Popen(command, start_new_session=True, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 200
    while not list(tmp_path.glob("a/checkpoints/step-*/COMMITTED.json")):
        assert driver.poll() is None, driver.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(driver.pid, signal.SIGKILL)
    driver.wait()
    refused = run_job(job, *words)
    assert refused.code == 2 and "--resume continues it" in refused.error
    pretrain.run(job.parse([*words, "--resume"]))
    assert same_tensors(read_weights(str(tmp_path / "a")), read_weights(undisturbed))


def _words(runs, corpus):
    return [
        "vit-tiny", "--name", "a", "--runs", str(runs), "--corpus", corpus,
        "--rows-per-task", "48", *model_flags(DEEPER), "--vocab-size", "600", "--patch-dropout", "0.25",
        "--batch-size", "24", "--steps", str(STEPS), "--learning-rate", "1e-3", "--weight-decay", "0.2",
        "--log-every", "4", "--checkpoint-every", "6", "--workers", "2", "--address", "local",
    ]  # fmt: skip


def rewound(undisturbed, folder):
    """Copy the finished run as if it had been killed after step 18."""
    run = folder / "a"
    shutil.copytree(undisturbed, run)
    shutil.rmtree(checkpoint.resolve(str(run)).uri)
    return run


def test_a_resume_skips_a_damaged_checkpoint(undisturbed, scenes, ray_here, tmp_path):
    """One bit of the newest of two checkpoints is flipped: the run says so and continues from the older one."""
    run = rewound(undisturbed, tmp_path)
    file = Path(checkpoint.resolve(str(run)).uri) / "optimizer.safetensors"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    watcher = RankKiller(step=STEPS, rank=None)
    result = pretrain.run(config(tmp_path, scenes, resume=True), watcher)
    notes = [event.text for event in watcher.events if isinstance(event, Notification)]
    assert any("optimizer.safetensors" in note and "SHA-256" in note for note in notes), notes
    assert watcher.starts == [12]
    assert result.step == STEPS and same_tensors(read_weights(str(run)), read_weights(undisturbed))


def test_a_run_resumes_with_another_number_of_workers(undisturbed, scenes, ray_here, tmp_path):
    run = rewound(undisturbed, tmp_path)
    watcher = RankKiller(step=STEPS, rank=None)
    pretrain.run(config(tmp_path, scenes, resume=True, workers=1), watcher)
    assert watcher.starts == [18]
    ours, theirs = (read_metrics(str(uri))[-1] for uri in (run, undisturbed))
    assert ours["step"] == theirs["step"] and ours["rows/planned"] == theirs["rows/planned"]
    assert ours["loss"] == pytest.approx(theirs["loss"], abs=0.2)  # patch dropout is drawn by rank
    assert json.loads((run / "run.json").read_text())["resumes"][0]["changed"]["resources.workers"] == [2, 1]


def test_resuming_a_finished_run_starts_no_worker(undisturbed, scenes, ray_here, tmp_path):
    run = tmp_path / "a"
    shutil.copytree(undisturbed, run)
    before = sorted(path.name for path in run.rglob("*"))
    events = []
    assert pretrain.run(config(tmp_path, scenes, resume=True), events.append).already_finished
    assert not [event for event in events if isinstance(event, WorkerGroupStart)]
    assert sorted(path.name for path in run.rglob("*")) == before


def test_a_resume_with_another_batch_size_is_rejected(undisturbed, scenes, ray_here, tmp_path):
    rewound(undisturbed, tmp_path)
    changed = replace(config(tmp_path, scenes, resume=True), optim=OptimizerConfig(batch_size=48, steps=STEPS))
    with pytest.raises(ConfigError, match=r"optim\.batch_size is 24 there and 48 here"):
        pretrain.run(changed)


def test_the_checkpoint_is_a_hugging_face_directory(undisturbed):
    newest = checkpoint.resolve(undisturbed)
    theirs = CLIPModel.from_pretrained(newest.uri)
    assert theirs.logit_scale.item() == read_weights(undisturbed)["logit_scale"].item()
    assert AutoTokenizer.from_pretrained(newest.uri)("a red circle").input_ids[0] is not None
    record = json.loads((Path(newest.uri) / "run.json").read_text())
    assert record["config"]["optim"]["batch_size"] == 24 and record["provenance"]["packages"]["ray"]
    assert not [path for path in Path(newest.uri).iterdir() if path.suffix in (".pt", ".pkl", ".bin", ".pth")]


def test_the_checkpoint_is_evaluated(undisturbed, scenes):
    result = evaluate.run(evaluate.EvaluateConfig(checkpoint=undisturbed, corpus=scenes))
    assert result.rows == 240 and result.skipped == 0 and result.step == STEPS
    search = result.searches["text_to_image"]
    assert search.recall[1] <= search.recall[10]


def test_validation_equals_an_evaluation_and_does_not_change_the_weights(
    undisturbed, scenes, ray_here, tmp_path, capsys
):
    """Every seven steps, on two workers, 25 rows with five captions each; the run is resumed after step 18."""
    synthetic.write_corpus(str(tmp_path / "held-out"), "photo", 25, 0, start=5000, rows_per_shard=10, size=32)
    asked = ValidationConfig(corpus=str(tmp_path / "held-out"), every=7, fields=("image=jpg", "text=json:captions"))
    watched = replace(config(tmp_path, scenes), validation=asked)
    uri = pretrain.run(watched, ProgressReporter("t")).run.uri
    assert "step 7/24  recall@10 on 25 held-out rows: image -> text" in capsys.readouterr().err
    for attempt in range(2):
        assert same_tensors(read_weights(uri), read_weights(undisturbed))
        lines = read_metrics(uri)
        assert [line["step"] for line in lines] == [4, 7, 8, 12, 14, 16, 20, 21, 24]
        assert [line["step"] for line in lines if "validation/seconds" in line] == [7, 14, 21, 24]
        assert all(line["samples_per_s"] * line["seconds_per_step"] == pytest.approx(24) for line in lines)
        assert all(0.1 < line["peak_memory_GiB"] < 8 for line in lines)
        if attempt == 0:
            shutil.rmtree(checkpoint.resolve(uri).uri)
            pretrain.run(replace(watched, run=replace(watched.run, resume=True), validation=replace(asked, rows=500)))
    result = evaluate.run(EvaluateConfig(checkpoint=uri, corpus=asked.corpus, fields=asked.fields, save=False))
    assert len(result.metrics) == 8 and result.rows == 25 == lines[-1]["validation/rows"]
    for name, value in result.metrics.items():
        assert lines[-1][f"validation/{name}"] == pytest.approx(value, abs=1e-9), name
