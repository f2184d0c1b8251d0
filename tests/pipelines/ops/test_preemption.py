"""A spot machine that is about to go: notice, drain, checkpoint, and the run goes on elsewhere without a lost step."""

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
    from support.spot_metadata import metadata, notice_in

    from pipelines.ops import spot
    from pipelines.runtime.cluster import quiet
    from pipelines.stages import pretrain
    from pipelines.config.logging import Cadence
    from pipelines.config.data import Data
    from pipelines.config.model import Model
    from pipelines.config.optimizer import Optim
    from pipelines.config.pretrain import Config
    from pipelines.config.resources import Resources

    folder, corpus, *arguments = sys.argv[1:]
    quiet()
    store = 200 << 20
    head = {"num_cpus": 0, "include_dashboard": False, "object_store_memory": store}
    with fork_server.forking():
        cluster = Cluster(initialize_head=True, head_node_args=head)
        for _ in range(2):  # each can hold the worker and those who read
            cluster.add_node(num_cpus=2, object_store_memory=store)
        cluster.wait_for_nodes()
    starts, told = [], []  # where ranks started, at which step; what the watcher said

    def watch(node_id):
        with metadata() as service:
            service.notice = notice_in(20)
            config = spot.Config(address=cluster.address, node_id=node_id, metadata=service.url, every_s=0.5)
            spot.run(config, say=told.append)

    def end(step):
        print(json.dumps({"starts": starts, "step": step, "told": told}), flush=True)
        for node in cluster.list_all_nodes():
            node.kill_all_processes(check_alive=False, allow_graceful=False)
        os._exit(0)

    def on_news(message):
        if message["kind"] == "start":
            starts.append((message["step"], message["node"]))
        elif message["kind"] == "progress" and len(starts) == 2:
            end(message["step"])
        elif message["kind"] == "progress" and not watching.is_alive() and not told:
            watching.start()

    watching = threading.Thread(target=lambda: watch(starts[0][1]), daemon=True)

    config = Config(
        name="a",
        runs=f"{folder}/runs",
        data=Data(corpus=(corpus,)),
        model=Model(arguments=tuple(arguments), vocab_size=600),
        optim=Optim(batch_size=8, steps=6000),
        cadence=Cadence(log_every=10, checkpoint_every=6000, restarts=0),
        resources=Resources(address=cluster.address),
    )
    pretrain.run(config, on_news)
    """
)
TINY = (
    "image_size=16", "patch_size=8", "width=16", "depth=1", "heads=1",
    "text_width=16", "text_depth=1", "text_heads=1", "context=8", "dim=16",
)  # fmt: skip


@pytest.mark.ray
def test_a_preempted_machine_costs_no_step_before_its_notice(pairs, tmp_path, forked_workers):
    """No checkpoint but that of the notice, no restart allowed but for a preemption: the run goes on all the same."""
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, str(tmp_path), pairs, *TINY],
        capture_output=True, text=True, check=False, timeout=280, cwd=HERE.parents[2],
        env=os.environ | {"PYTHONPATH": str(HERE.parents[1]), "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "0.5"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    run = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{")))
    (first, lost), (second, other) = run["starts"]
    assert first == 0 and 0 < second < run["step"]
    assert lost != other and "terminate" in run["told"][0] and f"drained node {lost}" in run["told"][1]
