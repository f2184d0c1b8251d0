"""The opponent of `jobs.bench sweep`: trials as Ray's documentation writes them, in a process of their own.

A function trainable starts a TorchTrainer, whose reports a TuneReportCallback passes to Tune; ASHA stops trials. Two of
four learning rates are too small to learn anything, so that there is something to stop. The dashboard is off, as in any
`ray.init` that asks for none; at the end the placement groups that stopped trials left behind are counted.

    python -m jobs.bench.plain_tune CHECKPOINT CORPUS ANSWER.json
"""

import json
import logging
import sys
import time
from pathlib import Path
from typing import Any

from jobs.bench.overhead import load_batches

RATES = (1e-3, 1e-9, 1e-9, 1e-3)
STEPS, EVERY, BATCH = 60, 10, 64
SETTLED_S = 20.0  # by which time placement groups that Ray removes are gone


def train_worker(config: dict[str, Any]) -> None:
    """Train one rank: the objective, optimizer and step of our runs on batches in memory."""
    import ray.train
    import torch

    from xmodal.encoders.dual_encoder import DualEncoder
    from xmodal.training.engine.schedule import CosineSchedule
    from xmodal.training.engine.state import TrainState
    from xmodal.training.engine.step import train_step
    from xmodal.training.objectives.contrastive import ContrastiveObjective

    torch.set_num_threads(1)
    objective = ContrastiveObjective(DualEncoder.from_pretrained(config["checkpoint"]), mask_duplicates=True)
    torch.manual_seed(0)
    for parameter in objective.parameters():  # random weights, as a trial begins with
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.02)
    schedule = CosineSchedule(peak=config["rate"], total_steps=STEPS)
    state = TrainState.create(objective, schedule=schedule, seed=0)
    batches = load_batches(config["corpus"], config["checkpoint"], BATCH)
    step_seconds = 0.0
    for step in range(STEPS):
        started = time.perf_counter()
        metrics = train_step(state, batches[step % len(batches)])
        step_seconds += time.perf_counter() - started
        if (step + 1) % EVERY == 0:
            ray.train.report({"loss": float(metrics["loss"]), "step": step + 1, "worked_s": step_seconds})


def run_trial(config: dict[str, Any]) -> None:
    """Start the trainer of one trial; the function that Tune calls."""
    import ray.train
    from ray import tune
    from ray.train.torch import TorchTrainer
    from ray.tune.integration.ray_train import TuneReportCallback

    name = tune.get_context().get_trial_id()
    callbacks: list[Any] = [TuneReportCallback()]
    trainer = TorchTrainer(
        train_worker,
        train_loop_config=config,
        scaling_config=ray.train.ScalingConfig(num_workers=1),
        run_config=ray.train.RunConfig(name=f"train-{name}", storage_path=config["to"], callbacks=callbacks),
    )
    trainer.fit()


def main(checkpoint: str, corpus: str, answer: str) -> None:
    """Write seconds of each trial outside its steps, how many were stopped, and the placement groups that remain."""
    import ray
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler

    ray.init(
        "local", num_cpus=2 + len(RATES), include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR
    )
    scratch = str(Path(answer).parent / "plain")
    space = {"rate": tune.grid_search(list(RATES)), "checkpoint": checkpoint, "corpus": corpus, "to": scratch}
    tuner = tune.Tuner(
        run_trial,
        param_space=space,
        tune_config=tune.TuneConfig(
            metric="loss", mode="min", max_concurrent_trials=1,
            scheduler=ASHAScheduler(time_attr="step", max_t=STEPS, grace_period=EVERY, reduction_factor=3),
        ),
        run_config=tune.RunConfig(name="tune", storage_path=scratch, verbose=0),
    )  # fmt: skip
    grid = tuner.fit()
    results = [grid[k].metrics or {} for k in range(len(grid))]
    time.sleep(SETTLED_S)
    remaining_groups = [g for g in ray.util.placement_group_table().values() if g["state"] != "REMOVED"]
    answer_record = {
        "outside_s": [m["time_total_s"] - m["worked_s"] for m in results if m.get("step") == STEPS],
        "stopped": sum(m.get("step", 0) < STEPS for m in results),
        "groups_left": len(remaining_groups),
    }
    Path(answer).write_text(json.dumps(answer_record))
    ray.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])
