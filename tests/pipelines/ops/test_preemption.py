"""When a spot machine is about to go, the run saves a checkpoint and continues elsewhere without a lost step."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

HERE = Path(__file__).parent

# In a process of its own: Ray allows one cluster in each, and this one loses nodes.
DRIVER = textwrap.dedent(
    """
    import json, os, sys, threading
    from pathlib import Path

    from ray.cluster_utils import Cluster
    from support import fork_server
    from support.spot_metadata import metadata_service, notice_in

    from pipelines.ops import spot
    from pipelines.runtime.cluster import quiet_ray
    from pipelines.runtime.events import StepMetrics, WorkerGroupStart
    from pipelines.stages import pretrain
    from pipelines.config.logging import CheckpointConfig, LoggingConfig
    from pipelines.config.data import DataConfig
    from pipelines.config.architectures import model_config
    from pipelines.config.optimizer import OptimizerConfig
    from pipelines.config.pretrain import PretrainConfig
    from pipelines.config.resources import ResourceConfig
    from pipelines.config.run import RunOptions

    folder, corpus, options = sys.argv[1:]
    quiet_ray()
    store = 200 << 20
    head = {"num_cpus": 0, "include_dashboard": False, "object_store_memory": store}
    with fork_server.patch_ray_workers():
        cluster = Cluster(initialize_head=True, head_node_args=head)
        for _ in range(2):  # each can hold the worker and those who read
            cluster.add_node(num_cpus=2, object_store_memory=store)
        cluster.wait_for_nodes()
    starts, told = [], []  # where ranks started, at which step; what the watcher said

    def watch(node_id):
        with metadata_service() as service:
            service.notice = notice_in(20)
            config = spot.SpotConfig(address=cluster.address, node_id=node_id, metadata=service.url, every_s=0.5)
            spot.run(config, notify=told.append)

    def end(step):
        print(json.dumps({"starts": starts, "step": step, "told": told}), flush=True)
        for node in cluster.list_all_nodes():
            node.kill_all_processes(check_alive=False, allow_graceful=False)
        os._exit(0)

    def on_event(event):
        if isinstance(event, WorkerGroupStart):
            starts.append((event.step, event.node))
        elif isinstance(event, StepMetrics) and len(starts) == 2:
            end(event.step)
        elif isinstance(event, StepMetrics) and not watching.is_alive() and not told:
            watching.start()

    watching = threading.Thread(target=lambda: watch(starts[0][1]), daemon=True)

    config = PretrainConfig(
        run=RunOptions(name="a", runs=f"{folder}/runs"),
        data=DataConfig(corpus=(corpus,)),
        model=model_config("vit-tiny", **json.loads(options), vocab_size=600),
        optim=OptimizerConfig(batch_size=8, steps=6000),
        logging=LoggingConfig(log_every=10),
        checkpoints=CheckpointConfig(checkpoint_every=6000, restarts=0),
        resources=ResourceConfig(address=cluster.address),
    )
    pretrain.run(config, on_event)
    """
)
TINY = {
    "image_size": 16, "patch_size": 8, "width": 16, "depth": 1, "heads": 1,
    "text_width": 16, "text_depth": 1, "text_heads": 1, "context": 8, "dim": 16,
}  # fmt: skip


@pytest.mark.ray
def test_a_preempted_machine_costs_no_step_before_its_notice(pairs, tmp_path, forked_workers):
    """The run continues although there is no checkpoint but that of the notice, and no restart allowed."""
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, str(tmp_path), pairs, json.dumps(TINY)],
        capture_output=True, text=True, check=False, timeout=280, cwd=HERE.parents[2],
        env=os.environ | {
            "PYTHONPATH": str(HERE.parents[1]),
            "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "1",  # off in this process, if it has started a Ray of its own
            "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "0.5",
        },
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    run = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{")))
    (first, lost), (second, other) = run["starts"]
    assert first == 0 and 0 < second < run["step"]
    assert lost != other and "terminate" in run["told"][0] and f"drained node {lost}" in run["told"][1]
