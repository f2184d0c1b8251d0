"""A sweep on a cluster of three nodes uses several of them, survives the loss of one, and leaves nothing behind."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]

# In a process of its own: Ray allows one cluster in each, and this one loses a node.
DRIVER = textwrap.dedent(
    """
    import collections, json, os, sys, threading, time
    from pathlib import Path

    import ray
    from ray._private.state import actors
    from ray.cluster_utils import Cluster
    from support import fork_server
    from support.model_flags import model_flags

    from jobs import sweep as job
    from pipelines import sweep
    from pipelines.runtime.cluster import quiet_ray

    folder, corpus = sys.argv[1:]
    quiet_ray()
    store = 200 << 20
    with fork_server.patch_ray_workers():
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False,
                                                                "object_store_memory": store})
        nodes = {node.node_id: node for node in (cluster.add_node(num_cpus=2, object_store_memory=store)
                                                 for _ in range(3))}
        cluster.wait_for_nodes()
    words = f'''--search optim.learning_rate=choice(0.001,0.002) --algorithm grid --metric loss --mode min
        --concurrent 2 --runs {folder} --scheduler fifo --finalists 0 --retries 3 --
        jobs.pretrain vit-tiny --corpus {corpus} {" ".join(model_flags())} --vocab-size 600 --batch-size 24
        --steps 60 --learning-rate 0.001 --log-every 5 --checkpoint-every 15 --address {cluster.address}'''
    config = job.parse(words.split()).config
    used, lost, events = collections.Counter(), [], []

    def groups(state):
        table = ray.util.placement_group_table().values()
        return [group for group in table if group["state"] == state]

    def committed():
        return list(Path(folder).glob("sweep/trials/*/checkpoints/step-*/COMMITTED.json"))

    def watch_nodes():
        while True:
            time.sleep(0.2)
            if not ray.is_initialized():
                continue
            at_work = {node for group in groups("CREATED") for bundle, node in group["bundles_to_node_id"].items()
                       if group["bundles"][bundle].get("CPU", 0) >= 0.5}
            for node in at_work:
                used[node] += 1
            if not lost and len(at_work) >= 2 and len(committed()) >= 2:
                lost.append(sorted(at_work)[0])
                cluster.remove_node(nodes[lost[0]], allow_graceful=False)

    threading.Thread(target=watch_nodes, daemon=True).start()
    result = sweep.run(config, lambda event: isinstance(event, dict) and events.append(event["kind"]))
    deadline = time.monotonic() + 60
    left = ["?"]
    while left and time.monotonic() < deadline:
        time.sleep(0.5)
        left = [str(group) for state in ("CREATED", "PENDING", "RESCHEDULING") for group in groups(state)]
        left += [str(actor) for actor in actors().values()
                 if actor["State"] != "DEAD" and not actor["IsDetached"]]  # Ray Data keeps some for every cluster
    end = {"trials": [trial.to_plain() for trial in result.trials], "nodes": len(used), "lost": len(lost), "left": left}
    Path(folder, "end.json").write_text(json.dumps(end))
    for node in cluster.list_all_nodes():
        node.kill_all_processes(check_alive=False, allow_graceful=False)
    os._exit(0)
    """
)


@pytest.mark.ray
def test_trials_use_several_nodes_survive_the_loss_of_one_and_leave_nothing_behind(scenes, forked_workers, tmp_path):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    environment.pop("RAY_ADDRESS", None)
    command = [sys.executable, "-c", DRIVER, str(tmp_path), scenes]
    done = subprocess.run(
        command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False, timeout=500
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    end = json.loads((tmp_path / "end.json").read_text())
    assert end["nodes"] >= 2 and end["lost"] == 1, "no node was lost while workers trained on it"
    assert [trial["status"] for trial in end["trials"]] == ["finished"] * 3, end["trials"]
    for trial in end["trials"]:
        assert [report["step"] for report in trial["reports"]] == list(range(5, 61, 5))
    assert end["left"] == [], "placement groups or actors outlive the sweep"
    listing = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert not [line for line in listing.splitlines() if str(tmp_path) in line]
