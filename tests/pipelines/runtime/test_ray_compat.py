"""Every private part of Ray that we rely on is still there, and `ray_compat.py` is the only file that names one."""

import ast
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import ray

from pipelines.runtime import ray_compat

ROOT = Path(__file__).parents[3]
RAY = Path(ray.__file__).parent
COMPAT = ROOT / "pipelines" / "runtime" / "ray_compat.py"
PRIVATE_MODULE = re.compile(r"^ray(\.\w+)*\.(_(?!_)|core\.generated)")
OUR_UNDERSCORE_NAMES = re.compile(r"^(self|cls|super\(\))$")


def product_files():
    return [path for room in ("xmodal", "pipelines", "jobs") for path in sorted((ROOT / room).rglob("*.py"))]


def private_names(path):
    """Yield what a file imports from Ray, its dotted names, and its strings, which may be targets of monkeypatches."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "ray":
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.Attribute):
            yield ast.unparse(node)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and "\n" not in node.value:
            yield node.value


def test_no_other_file_names_a_private_module_of_ray():
    violations = {
        f"{path.relative_to(ROOT)}: {name}"
        for path in product_files()
        if path != COMPAT
        for name in private_names(path)
        if PRIVATE_MODULE.match(name)
    }
    assert not violations
    assert any(PRIVATE_MODULE.match(name) for name in private_names(COMPAT)), "the search finds nothing at all"


def test_files_that_use_ray_touch_private_attributes_of_their_own_objects_alone():
    """`client._server_ray_version`, `executor._topology` and the like stand in `ray_compat.py`."""
    violations = []
    for path in product_files():
        source = path.read_text()
        if path == COMPAT or not re.search(r"^\s*(import|from) ray\b", source, re.M):
            continue
        violations += [
            f"{path.relative_to(ROOT)}:{node.lineno} {ast.unparse(node)}"
            for node in ast.walk(ast.parse(source))
            if isinstance(node, ast.Attribute)
            and node.attr.startswith("_")
            and not node.attr.startswith("__")
            and not OUR_UNDERSCORE_NAMES.match(ast.unparse(node.value))
        ]
    assert not violations


def test_no_other_file_sets_a_variable_of_ray():
    pattern = re.compile(r"environ(\.setdefault\(|\[)\s*[\"']RAY_\w+[\"'](\]\s*=[^=]|,)")
    assert not [path for path in product_files() if path != COMPAT and pattern.search(path.read_text())]


def contents(*patterns):
    for pattern in patterns:
        for path in RAY.glob(pattern):
            yield path.read_bytes()


def test_ray_still_reads_every_variable():
    """The names stand in Ray's Python or, without RAY_, as settings of its C++ part."""
    sources = list(contents("_private/**/*.py", "train/**/*.py", "data/*.py", "dashboard/modules/reporter/*.py"))
    binaries = list(contents("core/src/ray/raylet/raylet"))
    variables = ray_compat.BEFORE_IMPORT | ray_compat.ON_EVERY_CLUSTER | ray_compat.ON_A_RAY_OF_OUR_OWN
    for name in variables:
        setting = name.removeprefix("RAY_").encode()
        is_known = any(name.encode() in source for source in sources) or (
            name.removeprefix("RAY_").islower() and any(setting in binary for binary in binaries)
        )
        assert is_known, f"Ray {ray.__version__} does not know {name}"


def test_ray_still_says_every_matched_text():
    sources = list(contents("_private/*.py", "dashboard/modules/job/*.py", "core/src/ray/raylet/raylet"))
    texts = [ray_compat.STARTUP_TIMEOUT, ray_compat.VERSION_MISMATCH, ray_compat.NO_JOB_AGENT]
    texts += [*ray_compat.AUTHENTICATION_TEXTS[:1], *ray_compat.BEFORE_IMPORT.values()]
    for text in texts:
        assert any(text.encode() in source for source in sources), f"Ray {ray.__version__} does not say {text!r}"


@pytest.mark.parametrize(("cpus", "workers"), [(0, 0), (1, 0), (2, 2), (3, 2), (4, 4), (7, 4), (8, 8), (99, 8)])
def test_an_elastic_group_has_the_largest_allowed_size_that_fits(cpus, workers):
    from ray.train.v2.api.config import ScalingConfig

    scaling = ScalingConfig(num_workers=(2, 8), resources_per_worker={"CPU": 1})
    policy = ray_compat.allowed_sizes_policy(scaling, (2, 4, 8))
    assert policy._count_possible_workers({"node": {"CPU": float(cpus)}}) == workers


def test_an_elastic_trainer_hands_its_policy_to_the_controller(monkeypatch):
    """Ray's own trainer takes the policy from the arguments of the method that ours overrides, and pickles it."""
    import cloudpickle
    from ray.train.v2.api.config import ScalingConfig
    from ray.train.v2.torch.torch_trainer import TorchTrainer

    received = {}
    monkeypatch.setattr(TorchTrainer, "_initialize_and_run_controller", lambda _, **given: received.update(given))
    scaling = ScalingConfig(num_workers=(2, 8), resources_per_worker={"CPU": 1}, elastic_resize_monitor_interval_s=60)
    trainer = ray_compat.elastic_trainer((2, 4, 8), print, scaling_config=scaling)
    trainer._initialize_and_run_controller(scaling_policy=None, callbacks=[])
    policy = cloudpickle.loads(cloudpickle.dumps(received["scaling_policy"]))
    assert policy._count_possible_workers({"node": {"CPU": 5.0}}) == 4 and received["callbacks"] == []


def test_the_placement_group_cleaner_can_be_replaced(monkeypatch):
    from ray.train.v2.api import data_parallel_trainer
    from ray.train.v2.api.callback import RayTrainCallback

    usual = data_parallel_trainer.PlacementGroupCleanerCallback
    assert issubclass(usual, RayTrainCallback)
    monkeypatch.setattr(data_parallel_trainer, "PlacementGroupCleanerCallback", usual)  # put back at the end
    ray_compat.disable_placement_group_cleaner()
    assert data_parallel_trainer.PlacementGroupCleanerCallback() is not None


def test_a_job_works_in_ray_s_folder_of_resources(tmp_path, monkeypatch):
    from ray._private.ray_constants import DEFAULT_RUNTIME_ENV_DIR_NAME

    monkeypatch.chdir(tmp_path)
    assert not ray_compat.in_copy_of_working_dir()
    copy = tmp_path / DEFAULT_RUNTIME_ENV_DIR_NAME / "working_dir_files" / "_ray_pkg_0"
    copy.mkdir(parents=True)
    monkeypatch.chdir(copy)
    assert ray_compat.in_copy_of_working_dir()


def test_reading_the_settings_imports_no_ray():
    """`pipelines/__init__.py` reads them, and `--help` should not wait for Ray."""
    [(name, value)] = ray_compat.BEFORE_IMPORT.items()
    code = f"import sys, os, pipelines.config.pretrain; print('ray' in sys.modules, os.environ[{name!r}])"
    environment = {key: text for key, text in os.environ.items() if key != name}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout == f"False {value}\n"


@pytest.mark.ray
def test_a_placement_group_that_waits_is_seen(ray_here):
    """One of this job; those of other jobs do not count."""
    assert not ray_compat.has_pending_placement_group()
    group = ray.util.placement_group([{"CPU": 10_000}])
    try:
        deadline = time.monotonic() + 20
        while not ray_compat.has_pending_placement_group():
            assert time.monotonic() < deadline
            time.sleep(0.1)
    finally:
        ray.util.remove_placement_group(group)
    ready = ray.util.placement_group([{"CPU": 0.1}])
    ray.get(ready.ready())
    assert not ray_compat.has_pending_placement_group()
    ray.util.remove_placement_group(ready)
