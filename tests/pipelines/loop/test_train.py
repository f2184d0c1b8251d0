"""Parts of the training loop: preemption notices, the stopwatch, and the environment of ranks."""

import time
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
import ray.train

from pipelines.config.logging import CheckpointConfig
from pipelines.loop.launch import launch
from pipelines.loop.stopwatch import Stopwatch
from pipelines.loop.train import Preemption
from pipelines.runtime import elastic
from pipelines.runtime.cluster import Cluster
from xmodal.training.engine.memory import MALLOC_SETTINGS


def test_a_preemption_notice_causes_one_checkpoint_and_is_checked_at_the_same_steps_on_every_rank(monkeypatch):
    asked = []

    def info():
        asked.append(len(asked))
        return object() if len(asked) > 2 else None

    monkeypatch.setattr(ray.train, "get_preemption_info", info)
    preemption = Preemption()
    announced = [step for step in range(1, 101) if preemption.is_announced(step)]
    assert announced == [30]
    assert len(asked) == 3  # it is a barrier: not at every step, and not after the answer


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
