"""Parts of the training loop: preemption notices, the stopwatch, and the environment of ranks."""

import time
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
import ray
import torch
import torch.distributed as dist
from torch.testing._internal.distributed.fake_pg import FakeStore

from pipelines.config.logging import CheckpointConfig, LoggingConfig
from pipelines.loop import train
from pipelines.loop.launch import launch
from pipelines.loop.stage_model import StageModel
from pipelines.loop.stopwatch import Stopwatch
from pipelines.runtime import elastic, ray_compat
from pipelines.runtime.cluster import Cluster
from pipelines.runtime.rank import Rank
from pipelines.stream.ingest import StepBatch
from support.toy_encoder import ToyEncoder, toy_batch
from xmodal.run import Run
from xmodal.training.engine import step
from xmodal.training.engine.memory import MALLOC_SETTINGS
from xmodal.training.engine.state import TrainState
from xmodal.training.objectives.contrastive import ContrastiveObjective

STEPS = 6


@pytest.fixture
def rank_0_of_many(request, ray_here, monkeypatch):
    """This process as rank 0 of a group whose other ranks are not there: collectives return at once."""
    world = request.param
    monkeypatch.setattr(step, "all_reduce_sum", lambda values: values * world)  # as if all ranks had the same
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=world)
    yield Rank(0, world, torch.device("cpu"))
    dist.destroy_process_group()


def toy_state(_, device):
    objective = ContrastiveObjective(ToyEncoder(), mask_duplicates=False)
    state = TrainState.create(objective, schedule=lambda step: 1e-3, seed=0)
    state.ddp = None  # a group of ranks that are not there reduces no gradient
    return state


def toy_job(folder, streams):
    """A run of STEPS steps that logs every one of them, outside Ray Train."""
    record = {"id": "0", "name": "a", "config": {}, "corpora": {}}
    return train.RankJob(
        run=Run(uri=str(folder / "a"), record=record),
        config=SimpleNamespace(
            logging=LoggingConfig(log_every=1),
            checkpoints=CheckpointConfig(checkpoint_every=1000),
            data=SimpleNamespace(max_bad_fraction=1.0),
        ),
        steps=STEPS,
        streams=ray.put(streams),
        model=StageModel(start=ray.put(None), make_state=toy_state, save=lambda *_: None, load=lambda *_: None),
        per_worker={},
        events=SimpleNamespace(put=SimpleNamespace(remote=lambda event: None)),
    )


@pytest.mark.parametrize("rank_0_of_many", [1001, 2000], indirect=True)
def test_no_step_of_a_thousand_ranks_calls_an_actor_and_waits(rank_0_of_many, tmp_path, monkeypatch):
    """Ray Train's collectives need its context, so that each of them would fail here; other waits are counted."""
    waits, get, wait = [], ray.get, ray.wait
    monkeypatch.setattr(ray_compat, "preemption_is_announced", lambda: False)

    def step_batches(*_):
        monkeypatch.setattr(ray, "get", lambda *a, **k: waits.append("get") or get(*a, **k))
        monkeypatch.setattr(ray, "wait", lambda *a, **k: waits.append("wait") or wait(*a, **k))
        for number in range(STEPS):
            yield StepBatch(toy_batch(8, seed=number), [])

    monkeypatch.setattr(train, "_step_batches", step_batches)
    plan = SimpleNamespace(global_batch=8 * rank_0_of_many.world_size, steps_per_epoch=10)
    stream = SimpleNamespace(plan=plan, corpus=SimpleNamespace(rows=10**6))
    train._train(toy_job(tmp_path, [stream]), rank_0_of_many)
    assert len((tmp_path / "a" / "metrics.jsonl").read_text().splitlines()) == STEPS
    assert len(waits) <= 1  # the model's start, when the last checkpoint is written


def test_a_notice_of_one_rank_reaches_all_in_the_step_and_causes_one_checkpoint(ray_here, tmp_path, monkeypatch):
    saved = []
    monkeypatch.setattr(ray_compat, "preemption_is_announced", iter([False, False, True, True, True, True]).__next__)
    monkeypatch.setattr(
        train, "_step_batches", lambda *_: (StepBatch(toy_batch(8, seed=number), []) for number in range(STEPS))
    )
    monkeypatch.setattr(train.Saver, "save", lambda self, state: saved.append(state.step))
    stream = SimpleNamespace(plan=SimpleNamespace(global_batch=8, steps_per_epoch=10), corpus=SimpleNamespace(rows=100))
    train._train(toy_job(tmp_path, [stream]), Rank(0, 1, torch.device("cpu")))
    assert saved == [3, STEPS]


def test_the_stopwatch_separates_waiting_for_data_from_starting_and_from_computing():
    def slow():
        for pause_s in (0.2, 0.05, 0.05):
            time.sleep(pause_s)
            yield pause_s

    stopwatch = Stopwatch(rows_per_step=10)
    for _ in stopwatch.time_waits(slow()):
        time.sleep(0.05)
    metrics = stopwatch.pop_metrics()
    assert metrics["first_batch_s"] == pytest.approx(0.2, abs=0.1)
    assert 0.2 < metrics["data_wait_share"] < 0.65  # 0.1 s of 0.25 s
    assert "first_batch_s" not in stopwatch.pop_metrics()


def test_ranks_start_with_the_memory_settings_of_training_unless_the_driver_has_others(
    ray_here: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {}
    monkeypatch.setenv("MALLOC_ARENA_MAX", "4")
    monkeypatch.setattr(elastic, "make_trainer", lambda *_, **given: asked.update(given) or Mock())
    launch(lambda events: SimpleNamespace(config=SimpleNamespace(checkpoints=CheckpointConfig())), ray_here, print)
    assert asked["run_config"].worker_runtime_env == {"env_vars": MALLOC_SETTINGS | {"MALLOC_ARENA_MAX": "4"}}
