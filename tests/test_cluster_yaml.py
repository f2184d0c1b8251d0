"""cluster.yaml and the RayJob are what they say, checked without a cloud: by Ray's validation, and by ours."""

import re
import shlex
from pathlib import Path

import pytest
import ray
import yaml

from jobs import pretrain
from pipelines.runtime.cluster import AUTOSCALER_LIMITS

ROOT = Path(__file__).parents[1]
PINNED = re.search(r"^ray==(.*)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)[1]


def together(types):
    """The resources of all workers of these node types, as the cluster's environment states them."""
    sums = {name: sum(n["max_workers"] * n["resources"].get(name, 0) for n in types) for name in ("CPU", "GPU")}
    return ",".join(f"{name}={amount}" for name, amount in sums.items())


@pytest.fixture(scope="module")
def written():
    return yaml.safe_load((ROOT / "cluster.yaml").read_text())


def test_ray_accepts_it(written):
    from ray.autoscaler._private.util import prepare_config, validate_config

    validate_config(prepare_config(written))


def test_the_image_is_the_pinned_ray_and_python(written):
    assert ray.__version__ == PINNED
    assert re.fullmatch(rf"rayproject/ray:{re.escape(PINNED)}-py3(11|12|13)-gpu", written["docker"]["image"])


def test_the_head_is_on_demand_and_runs_no_tasks_and_workers_are_spot(written):
    types = dict(written["available_node_types"])
    head = types.pop(written["head_node_type"])
    assert head["resources"]["CPU"] == 0 and head["resources"]["steady"] > 0
    assert "InstanceMarketOptions" not in head["node_config"]
    for node in types.values():
        assert node["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
        assert node["resources"]["CPU"] > 0 and node["min_workers"] == 0
    assert [name for name, node in types.items() if node["resources"].get("GPU")] == ["gpu"]
    assert "GPU" not in types["ingest"]["resources"]
    assert not written["provider"]["cache_stopped_nodes"] and 0 < written["idle_timeout_minutes"] <= 30


def test_every_machine_has_a_role_and_no_keys(written):
    for node in written["available_node_types"].values():
        config = node["node_config"]
        assert re.fullmatch(r"[a-z0-9]+\.[a-z0-9]+", config["InstanceType"])
        assert config["IamInstanceProfile"] == {"Name": "xmodal"}
        assert config["MetadataOptions"]["HttpTokens"] == "required"
        assert set(config) <= {
            "InstanceType", "IamInstanceProfile", "MetadataOptions", "BlockDeviceMappings", "InstanceMarketOptions",
        }  # fmt: skip  # Ray does not check these names, EC2 does when it is too late
    assert not re.search(r"AKIA|aws_secret|AWS_ACCESS", (ROOT / "cluster.yaml").read_text(), re.IGNORECASE)


def test_the_dashboard_is_not_public_and_tokens_are_on(written):
    (start,) = (line for line in written["head_start_ray_commands"] if "--head" in line)
    assert "--dashboard-host=127.0.0.1" in start and "RAY_AUTH_MODE=token" in start
    for commands in (written["head_start_ray_commands"], written["worker_start_ray_commands"]):
        assert all("RAY_AUTH_MODE=token" in line for line in commands if "ray start" in line or "python -m" in line)
    assert "-e RAY_AUTH_MODE=token" in written["docker"]["run_options"]
    assert written["file_mounts"]["/home/ray/.ray/auth_token"] == "~/.ray/auth_token"
    assert any(line.startswith("chmod 600") and "auth_token" in line for line in written["setup_commands"])


def test_objects_spill_to_the_mounted_disk(written):
    options = written["docker"]["run_options"]
    (spill,) = (option.partition("=")[2] for option in options if "RAY_object_spilling_directory" in option)
    assert f"-v {spill}:{spill}" in options
    assert any(f'mount "$disk" {spill}' in command for command in written["initialization_commands"])


def test_every_worker_watches_for_its_notice_beside_ray(written):
    *_, ray_starts, watcher = written["worker_start_ray_commands"]
    assert "ray start" in ray_starts and "python -m jobs.spot --address $RAY_HEAD_IP:6379" in watcher
    assert watcher.endswith("&") and "setsid" in watcher  # it must outlive the shell that starts it
    assert (ROOT / "jobs" / "spot.py").is_file()


def test_the_cluster_says_what_it_may_grow_to(written):
    workers = [n for name, n in written["available_node_types"].items() if name != written["head_node_type"]]
    assert f"-e {AUTOSCALER_LIMITS}={together(workers)}" in written["docker"]["run_options"]


@pytest.fixture(scope="module")
def job():
    return yaml.safe_load((ROOT / "jobs" / "rayjob.yaml").read_text())


@pytest.fixture(scope="module")
def derived(job):
    """The node types that Ray's own autoscaler makes of the RayJob's cluster, after its validation."""
    from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr
    from ray.autoscaler._private.util import validate_config

    cluster = {"metadata": {"name": "xmodal", "namespace": "default"}, "spec": job["spec"]["rayClusterSpec"]}
    config = _derive_autoscaling_config_from_ray_cr(cluster)
    validate_config(config)
    return config["available_node_types"]


def test_rays_autoscaler_accepts_the_rayjob(derived):
    assert derived["headgroup"]["resources"]["CPU"] == 0 and derived["headgroup"]["max_workers"] == 0
    assert derived["gpu"]["resources"]["GPU"] == 1 and derived["ingest"]["resources"]["CPU"] == 8


def test_the_rayjob_is_of_the_pinned_ray_with_a_token(job):
    spec = job["spec"]["rayClusterSpec"]
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    assert spec["rayVersion"] == PINNED and spec["authOptions"] == {"mode": "token"} and spec["enableInTreeAutoscaling"]
    assert job["spec"]["shutdownAfterJobFinishes"] and job["spec"]["backoffLimit"] == 0
    for pod in [spec["headGroupSpec"], *spec["workerGroupSpecs"]]:
        (container,) = pod["template"]["spec"]["containers"]
        assert f":{PINNED}-py311" in container["image"] and pod["template"]["spec"]["serviceAccountName"] == "xmodal"


def test_what_the_rayjob_runs_is_a_job_that_its_cluster_can_hold(job, derived):
    python, flag, module, *arguments = shlex.split(job["spec"]["entrypoint"])
    assert (python, flag, module) == ("python", "-m", "jobs.pretrain")
    resources = pretrain.parse(arguments).resources
    assert resources.sizes[0] <= derived["gpu"]["min_workers"] and resources.sizes[-1] == derived["gpu"]["max_workers"]
    assert resources.gpus_per_worker == derived["gpu"]["resources"]["GPU"]


def test_pods_that_go_drain_in_time_and_say_what_the_cluster_may_grow_to(job, derived):
    spec = job["spec"]["rayClusterSpec"]
    most = together([derived["gpu"], derived["ingest"]])
    for group in spec["workerGroupSpecs"]:
        pod = group["template"]["spec"]
        (container,) = pod["containers"]
        *_, command = container["lifecycle"]["preStop"]["exec"]["command"]
        seconds = int(re.search(r"jobs\.spot --address \$RAY_ADDRESS --now-s (\d+)", command)[1])
        assert seconds <= pod["terminationGracePeriodSeconds"]
        assert {"name": AUTOSCALER_LIMITS, "value": most} in container["env"]
        mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
        assert {"/dev/shm", "/mnt/nvme"} == mounts
        assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
