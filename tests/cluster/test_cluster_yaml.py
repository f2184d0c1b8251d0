"""cluster.yaml is what it says, checked without a cloud: Ray's own validation, and what that does not look at."""

from pathlib import Path

import pytest
import ray
import yaml

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def written():
    return yaml.safe_load((ROOT / "cluster.yaml").read_text())


def test_ray_accepts_it(written):
    from ray.autoscaler._private.util import prepare_config, validate_config

    validate_config(prepare_config(written))


def test_the_image_is_the_pinned_ray(written):
    pinned = next(line for line in (ROOT / "constraints.txt").read_text().splitlines() if line.startswith("ray=="))
    assert written["docker"]["image"].startswith(f"rayproject/ray:{pinned.removeprefix('ray==')}-")
    assert pinned == f"ray=={ray.__version__}"


def test_the_head_is_on_demand_and_runs_no_tasks_and_workers_are_spot(written):
    types = dict(written["available_node_types"])
    head = types.pop(written["head_node_type"])
    assert head["resources"] == {"CPU": 0} and "InstanceMarketOptions" not in head["node_config"]
    for node in types.values():
        assert node["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
        assert node["node_config"]["InstanceType"] and node["node_config"]["IamInstanceProfile"]


def test_the_dashboard_is_not_public_and_tokens_are_on(written):
    (start,) = (line for line in written["head_start_ray_commands"] if "--head" in line)
    assert "--dashboard-host=127.0.0.1" in start and "RAY_AUTH_MODE=token" in start
    assert all("RAY_AUTH_MODE=token" in line for line in written["worker_start_ray_commands"] if "ray start" in line)
