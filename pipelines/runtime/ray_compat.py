"""Everything that relies on a private part of Ray: the one file to check when Ray is upgraded.

Each entry says why it is needed, which public way is missing, and which test fails when Ray changes. No other module
imports a private name of Ray (`tests/pipelines/runtime/test_ray_compat.py` searches for them). Ray is imported inside
the functions, so that reading the settings costs no import.
"""

import os
import time
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ray.data._internal.execution.execution_callback import ExecutionCallback
    from ray.job_submission import JobSubmissionClient
    from ray.train.v2.torch.torch_trainer import TorchTrainer

# --- Environment variables of Ray that we set where the user has not. None has a public option beside the variable.
# Test: test_ray_compat.py::test_ray_still_reads_every_variable.

BEFORE_IMPORT = {  # Ray reads it when it is imported
    # Log lines that are not forwarded. Fractions of a CPU start more processes than Ray expects, on purpose.
    "RAY_DEDUP_LOGS_SKIP_REGEX": "worker processes have been started on node",
}
ON_EVERY_CLUSTER = {
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # tasks of 0 GPUs keep CUDA_VISIBLE_DEVICES, without a warning
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "600",  # how long ranks may take to start: cloud nodes boot in minutes
    "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S": "30",  # a rank that does not answer has hung; Ray waits 600 s
    "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0",  # no warnings about Ray Train V1
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",  # the run prints its own progress
}
ON_A_RAY_OF_OUR_OWN = {  # it has no dashboard and one machine: what nobody reads is not measured
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # no actor that asks whether a node is about to be drained
    "RAY_enable_metrics_collection": "0",  # no metrics of Ray's processes
    "RAY_task_events_report_interval_ms": "0",  # no record of every task for the state API
    "RAY_event_stats": "0",  # no statistics of Ray's event loops
    "REPORTER_UPDATE_INTERVAL_MS": "600000",  # the agent measures processes every 10 minutes instead of every 5 s
}
QUIET_LOGGERS = ("ray", "ray.data", "ray.train", "ray.tune", "ray._private")  # Ray has no one switch for its logs
QUIET_JOB_LOGGERS = ("ray", "ray.dashboard.modules.job.sdk", "ray.dashboard.modules.dashboard_sdk")


def set_defaults(variables: Mapping[str, str]) -> None:
    """Set those environment variables that the user has not set."""
    for name, value in variables.items():
        os.environ.setdefault(name, value)


# --- Texts of Ray's errors. Why: Ray raises RuntimeError or Exception for all of these; no class or code
# distinguishes them. Test: test_ray_compat.py::test_ray_still_says_every_matched_text.

STARTUP_TIMEOUT = "timed out during startup"  # ray.init: this machine did not start Ray within 30 s, a fixed limit
VERSION_MISMATCH = "Version mismatch"  # ray.init: the cluster runs another Ray or Python
AUTHENTICATION_TEXTS = ("InvalidAuthToken", "Unauthenticated")  # ray.init: the cluster refuses the token
NO_JOB_AGENT = "No available agent"  # submit_job: the cluster has only just started, nobody can run a job yet


def is_startup_timeout(error: BaseException) -> bool:
    """Whether `ray.init` gave up because this machine was too slow to start Ray."""
    return STARTUP_TIMEOUT in str(error)


def is_version_mismatch(error: BaseException) -> bool:
    """Whether `ray.init` failed because the cluster runs another Ray or Python."""
    return VERSION_MISMATCH in str(error)


def is_wrong_token(error: BaseException) -> bool:
    """Whether `ray.init` failed because the cluster refuses our token."""
    return any(text in str(error) for text in AUTHENTICATION_TEXTS)


def is_no_job_agent(error: BaseException) -> bool:
    """Whether a job was not taken because the cluster has no agent (yet) that could run it."""
    return NO_JOB_AGENT in str(error)


# --- Ray Train


def elastic_trainer(sizes: Sequence[int], *arguments: Any, **keywords: Any) -> "TorchTrainer":
    """Return a TorchTrainer whose worker groups have one of `sizes` workers.

    Why: a global batch can only be shared evenly by numbers of workers that divide it, but Ray's elastic trainer takes
    any number between two bounds. Public way missing: a scaling policy, or a list of sizes, in `ScalingConfig`.
    Test: test_ray_compat.py::test_an_elastic_group_has_the_largest_allowed_size_that_fits.
    """
    from ray.train.v2.torch.torch_trainer import TorchTrainer

    allowed_sizes = tuple(sizes)

    class ElasticTrainer(TorchTrainer):
        def _initialize_and_run_controller(self, **controller: Any) -> Any:
            policy = allowed_sizes_policy(self.scaling_config, allowed_sizes)
            return super()._initialize_and_run_controller(**controller | {"scaling_policy": policy})

    return ElasticTrainer(*arguments, **keywords)


def allowed_sizes_policy(scaling_config: Any, sizes: Sequence[int]) -> Any:
    """Return Ray's elastic scaling policy with its count of possible workers brought down to one of `sizes`."""
    from ray.train.v2._internal.execution.scaling_policy import ElasticScalingPolicy

    allowed_sizes = tuple(sizes)

    class AllowedSizesPolicy(ElasticScalingPolicy):
        def _count_possible_workers(self, reserved_resources: Any) -> int:
            possible = super()._count_possible_workers(reserved_resources)
            return max((size for size in allowed_sizes if size <= possible), default=0)

    return AllowedSizesPolicy(scaling_config)


def disable_placement_group_cleaner() -> None:
    """Start trainers of this process without the detached actor that removes their placement group.

    Why: it outlives the job of a sweep's trial and asks a dashboard that may be off; when the trial's job ends, Ray
    removes the placement group anyway. Public way missing: a switch for this callback.
    Test: test_ray_compat.py::test_the_placement_group_cleaner_can_be_replaced.
    """
    from ray.train.v2.api import data_parallel_trainer
    from ray.train.v2.api.callback import RayTrainCallback

    data_parallel_trainer.PlacementGroupCleanerCallback = RayTrainCallback  # type: ignore


def has_pending_placement_group() -> bool:
    """Whether this job has a placement group that waits for room in the cluster.

    Why: a trial whose workers wait in the cluster's queue has not hung. Public way missing: the job of a placement
    group; its id ends with that of its job. Test: test_ray_compat.py::test_a_placement_group_that_waits_is_seen.
    """
    import ray

    job = ray.get_runtime_context().get_job_id()
    groups = ray.util.placement_group_table().items()
    return any(name.endswith(job) and group["state"] in ("PENDING", "RESCHEDULING") for name, group in groups)


def preemption_is_announced() -> bool:
    """Whether Ray Train has told this rank that a machine of its worker group will soon be taken away.

    Why: `ray.train.get_preemption_info` is a barrier of all ranks in one actor, too slow for every step, and never
    released beyond 1,000 ranks. Public way missing: what this rank has been told, without the barrier.
    Test: test_preemption.py::test_a_preempted_machine_costs_no_step_before_its_notice.
    """
    from ray.train.v2._internal.execution.context import get_train_context

    return get_train_context().preemption_context.preemption_info is not None


# --- Ray Data

SHORTEST_SLEEP_S, LONGEST_SLEEP_S = 0.01, 0.05


@cache
def backpressure_throttle() -> "type[ExecutionCallback]":
    """Return a callback class that makes Ray Data's scheduling loop sleep while it can only wait for its consumer.

    Why: the loop waits for tasks that have something to give. Where all have and the queue is full, or where all have
    ended and their blocks wait to be taken, it does not wait at all: streams that are ahead of their training took half
    of two cores from it. Each sleep is longer the longer this has lasted: short ones cost a fast consumer (a cache, a
    GPU) little. Public way missing: a public callback class, and the backpressure state of an operator.
    Test: test_stream.py::test_the_scheduling_loop_sleeps_only_while_it_is_ahead_of_its_consumer.
    """
    from ray.data._internal.execution.execution_callback import ExecutionCallback

    class BackpressureThrottle(ExecutionCallback):
        def __init__(self) -> None:
            self.sleep_s = SHORTEST_SLEEP_S

        def on_execution_step(self, executor: Any) -> None:
            operators = executor._topology
            is_full = any(operator._in_task_output_backpressure for operator in operators)
            if is_full or not any(operator.num_active_tasks() for operator in operators):
                time.sleep(self.sleep_s)
                self.sleep_s = min(2 * self.sleep_s, LONGEST_SLEEP_S)
            else:
                self.sleep_s = SHORTEST_SLEEP_S

    return BackpressureThrottle


# --- Nodes


def live_nodes(address: str) -> dict[str, str]:
    """Return the id of every live node of the cluster at `address`, by its IP address.

    Why: a machine that is about to go asks this without joining the cluster: `ray.nodes()` needs `ray.init`, which
    starts a driver. Public way missing: a client of the GCS.
    Test: test_spot.py::test_a_real_node_is_drained_as_preempted.
    """
    nodes = _gcs_client(address).get_all_node_info()
    return {info.node_manager_address: node.hex() for node, info in nodes.items() if info.state == info.ALIVE}


def drain_node(address: str, node_id: str, reason: str, deadline_unix_ms: int) -> tuple[bool, str]:
    """Ask the cluster to drain a node that will be preempted; return whether it accepts, and why it does not.

    Why: Ray Train tells its ranks of a drain, and they save a checkpoint. Public way missing: only the hidden command
    `ray drain-node` does this. Test: test_spot.py::test_a_real_node_is_drained_as_preempted.
    """
    from ray.core.generated.autoscaler_pb2 import DrainNodeReason  # type: ignore[attr-defined]

    preemption = DrainNodeReason.DRAIN_NODE_REASON_PREEMPTION
    return _gcs_client(address).drain_node(node_id, preemption, reason, deadline_unix_ms)


def _gcs_client(address: str) -> Any:
    from ray._raylet import GcsClient  # type: ignore[attr-defined]

    return GcsClient(address=address)


# --- Jobs


def write_working_dir_package(directory: Path, target: Path, excludes: Sequence[str]) -> None:
    """Write the zip file that a submitted job with this working directory would carry.

    Why: a package that is too large is refused with its largest files before anything is sent. Public way missing: the
    client packs and sends in one step.
    Test: test_submission.py::test_a_package_that_is_too_large_names_its_largest_files.
    """
    from ray._private.runtime_env.packaging import create_package

    create_package(str(directory), target, include_gitignore=True, excludes=list(excludes))


def server_ray_version(client: "JobSubmissionClient") -> str | None:
    """Return the version of Ray that a job server runs.

    Why: another version there fails later and less clearly. Public way missing: `client.get_version()` is that of the
    protocol. Test: test_submission.py::test_a_submission_shows_the_log_and_ends_with_the_jobs_own_status.
    """
    return client._server_ray_version


def in_copy_of_working_dir() -> bool:
    """Return whether this process works in the copy of a directory that Ray made for a submitted job.

    Why: what is written there is deleted when the job ends. Public way missing: a property of the runtime context.
    Test: test_ray_compat.py::test_a_job_works_in_ray_s_folder_of_resources.
    """
    return "/runtime_resources/" in os.getcwd()
