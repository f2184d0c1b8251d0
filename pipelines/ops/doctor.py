"""Check a laptop or a cluster, storage and corpora for what would break or slow a run, and name the fix."""

import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipelines.config.doctor import DoctorConfig
from pipelines.config.resources import ResourceConfig
from pipelines.runtime import cluster, machine
from pipelines.runtime.machine import Machine
from pipelines.runtime.output_path import check_output
from xmodal import storage
from xmodal.data.index import extent_index as stored_index
from xmodal.data.index.corpus import index_uri
from xmodal.data.index.listing import Listing, folder_before_pattern, list_shards
from xmodal.errors import ConfigError, StorageError, XmodalError
from xmodal.formatting import pluralize
from xmodal.storage import Entry

State = Literal["ok", "warn", "bad"]
MIN_OPEN_FILES = 4096
MIN_FREE_BYTES = 2 << 30
MAX_DISK_USE = 0.95  # Ray stops writing to a disk beyond this share
SLOW_MIB_S = 20.0
HERE = "this machine"
TASK_TIMEOUT_S = 120.0  # a node that does not run an empty task in this time is broken


@dataclass(frozen=True)
class Check:
    """One check: `bad` would break a run, `warn` would slow it or leave it open to others."""

    subject: str
    state: State
    finding: str
    fix: str = ""


def run(config: DoctorConfig) -> list[Check]:
    """Run every check, in the order of a run. ConfigError where the cluster does not answer."""
    address = config.resources.address or os.environ.get("RAY_ADDRESS")
    local = address in (None, "local")
    check_output(config.runs, "--runs")
    config = replace(config, runs=storage.absolute(config.runs), corpus=tuple(map(storage.absolute, config.corpus)))
    first_shards, corpus_checks = _check_corpora(config)
    if local:
        machines = [_examine(config, first_shards, None, HERE, None)]
    else:
        with _marker_file(config) as marker:
            machines = _examine_nodes(config, first_shards, marker)
    workers = [] if local else [_check_workers(config.resources)]
    return [*check_machines(machines), *workers, check_token(local), *check_storage(machines), *corpus_checks]


@contextmanager
def _marker_file(config: DoctorConfig) -> Iterator[str | None]:
    """Write a file for the block, which every node must find: a node may have a disk of its own at this path.

    Yields its URI; None where it cannot be written: then the probes of the nodes say why.
    """
    marker = storage.join(config.runs, ".xmodal-doctor")
    try:
        storage.write(marker, b"", options=config.storage)
    except StorageError:
        yield None
        return
    try:
        yield marker
    finally:
        storage.delete(marker, options=config.storage)


def _examine(
    config: DoctorConfig, shards: dict[str, Entry], marker: str | None, name: str, node: Mapping[str, float] | None
) -> Machine:
    """Examine this machine and probe storage from it. `node` are the resources that Ray counts on it."""
    probes: dict[str, Any] = {config.runs: machine.probe_writing(config.runs, marker, config.storage)}
    for uri, shard in shards.items():
        probes[uri] = machine.probe_reading(shard.uri, shard.size, config.storage)
    return replace(machine.examine(name, node), probes=probes)


def _examine_nodes(config: DoctorConfig, shards: dict[str, Entry], marker: str | None) -> list[Machine]:
    """Examine every live node by a task that runs there."""
    cluster.connect(replace(config.resources, workers=1), check=False)
    task = ray.remote(num_cpus=0, max_retries=0)(_examine)
    waiting = {}
    for node in ray.nodes():
        if node["Alive"]:
            affinity = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            on_node = task.options(scheduling_strategy=affinity)
            reference = on_node.remote(config, shards, marker, node["NodeManagerAddress"], node["Resources"])
            waiting[reference] = node["NodeManagerAddress"]
    ready, late = ray.wait(list(waiting), num_returns=len(waiting), timeout=TASK_TIMEOUT_S)
    if late:
        raise ConfigError(
            f"{', '.join(waiting[r] for r in late)} ran no task in {TASK_TIMEOUT_S:.0f} s: restart Ray there"
        )
    return ray.get(ready)


def check_machines(machines: Sequence[Machine]) -> Iterator[Check]:
    """Check versions, then each machine; where no machine lacks something, one `ok` stands for all."""
    yield check_versions(machines)
    for subject, check in {
        "shared memory": _shared_memory, "disk for spill": _spill, "GPUs": _gpus, "open files": _open_files,
    }.items():  # fmt: skip
        checks = [check(node) for node in machines]
        problems = [result for result in checks if result.state != "ok"]
        yield from problems or [Check(subject, "ok", checks[0].finding)]


def check_versions(machines: Sequence[Machine]) -> Check:
    """Check that all machines have the same Python and packages: workers read the driver's pickles."""
    first, *others = machines
    different = {
        f"{package} {node.versions.get(package, 'missing')} on {node.name}, {here} on {first.name}"
        for node in others
        for package in first.versions.keys() | node.versions.keys()
        if node.versions.get(package) != (here := first.versions.get(package, "missing"))
    }
    if different:
        fix = "install the same on every node: pip install -c constraints.txt, or one image for all"
        return Check("versions", "bad", "; ".join(sorted(different)), fix)
    versions = ", ".join(
        f"{name} {first.versions[name]}" for name in ("python", "ray", "torch") if name in first.versions
    )
    return Check("versions", "ok", f"{versions} on {pluralize(len(machines), 'machine')}")


def _shared_memory(node: Machine) -> Check:
    if node.shared_memory is None:
        return Check("shared memory", "ok", "this system has no /dev/shm")
    finding = f"{_gib(node.shared_memory)} free for an object store of {_gib(node.store)} on {node.name}"
    if node.shared_memory >= node.store:
        return Check("shared memory", "ok", finding)
    fix = f"Ray would use a slow disk: docker run --shm-size={node.store / 2**30 + 1:.0f}g, or a smaller object store"
    return Check("shared memory", "warn", finding, fix)


def _spill(node: Machine) -> Check:
    finding = f"{_gib(node.spill_free)} free in {node.spill} on {node.name}"
    fix = f"free some, or set {machine.SPILL} to a larger disk before Ray starts"
    if node.spill_free < MIN_FREE_BYTES or node.spill_used_share > MAX_DISK_USE:
        return Check("disk for spill", "bad", f"{finding}, {node.spill_used_share:.0%} used", fix)
    return Check("disk for spill", "ok" if node.spill_free >= node.store else "warn", finding, fix)


def _gpus(node: Machine) -> Check:
    if len(node.gpus) < node.ray_gpus:
        finding = (
            f"Ray counts {node.ray_gpus:g} on {node.name}, torch {node.versions.get('torch')} can use {len(node.gpus)}"
        )
        return Check("GPUs", "bad", finding, "install a CUDA build of torch and a driver that fits it there")
    if node.gpu_driver and not node.gpus:
        finding = f"a driver is loaded on {node.name}, but torch {node.versions.get('torch')} can use no GPU"
        return Check("GPUs", "warn", finding, "install a CUDA build of torch to use it")
    return Check("GPUs", "ok", ", ".join(node.gpus) or "none: training runs on CPUs")


def _open_files(node: Machine) -> Check:
    state: State = "ok" if node.open_files >= MIN_OPEN_FILES or node.open_files < 0 else "warn"
    finding = f"at most {node.open_files:,} at once on {node.name}"
    return Check("open files", state, finding, f"ulimit -n 65536 before Ray starts (at least {MIN_OPEN_FILES})")


def _check_workers(resources: ResourceConfig) -> Check:
    """Check that the configured workers can start on this cluster."""
    available = cluster.capacity()
    share = cluster.resources_per_worker(resources, available, local=False)
    try:
        cluster.check_fits(resources.sizes[0], share, available)
    except ConfigError as error:
        return Check("workers", "bad", str(error))
    each = ", ".join(f"{amount:g} {name}" for name, amount in share.items())
    return Check("workers", "ok", f"{resources.workers} with {each} each, of {available.get('CPU', 0):g} CPU")


def check_token(local: bool) -> Check:
    """Check that the cluster's ports ask for a token, and that no other user of this machine can read it."""
    if local:
        return Check("token", "ok", "a run here starts a Ray of its own without a job server")
    if os.environ.get("RAY_AUTH_MODE") != "token":
        fix = "start Ray with RAY_AUTH_MODE=token on every node (ray get-auth-token --generate), and set it here"
        return Check("token", "warn", "off: whoever reaches this cluster's ports runs code on it", fix)
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    if path.exists() and path.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH):
        return Check("token", "warn", f"others on this machine can read {path}", f"chmod 600 {path}")
    return Check("token", "ok", "on")


def check_storage(machines: Sequence[Machine]) -> Iterator[Check]:
    """Check how every machine reaches each location: the slowest times, or the problems."""
    for uri in machines[0].probes:
        probes = {node.name: node.probes[uri] for node in machines}
        problems = [f"{name}: {probe}" for name, probe in probes.items() if isinstance(probe, str)]
        if problems:
            fix = "use s3://, or a file system that every node mounts at this path, with permission to use it"
            yield Check(f"storage {uri}", "bad", "; ".join(problems), fix)
            continue
        slowest = {act: max(probe[act] for probe in probes.values()) for act in probes[machines[0].name]}
        mib_s = {act: machine.PROBE_BYTES / 2**20 / max(seconds, 1e-9) for act, seconds in slowest.items()}
        finding = ", ".join(f"{act} {seconds * 1000:,.0f} ms" for act, seconds in slowest.items())
        state: State = "ok" if min(mib_s.values()) >= SLOW_MIB_S else "warn"
        yield Check(f"storage {uri}", state, f"{finding} for up to 4 MiB", "bring storage and cluster into one region")


def _check_corpora(config: DoctorConfig) -> tuple[dict[str, Entry], list[Check]]:
    """Return the first shard of every corpus, and check that its index is up to date."""
    shards, checks = {}, []
    for uri in config.corpus:
        try:
            storage.check(folder_before_pattern(uri), writable=False, options=config.storage)  # does not wait
            listing = list_shards(uri, config.storage)
            shards[uri] = listing.entries[0]
            checks.append(_check_index(uri, listing, config))
        except XmodalError as error:
            checks.append(Check(f"corpus {uri}", "bad", str(error)))
    return shards, checks


def _check_index(uri: str, listing: Listing, config: DoctorConfig) -> Check:
    stored_at, subject = index_uri(uri, listing, config.index), f"corpus {uri}"
    fix = "the next run brings it up to date first; that reads every new shard once"
    try:
        index = stored_index.load_index(stored_at, config.storage)
    except stored_index.DamagedIndexError as error:
        return Check(subject, "warn", f"its index {stored_at} is damaged ({error})", fix)
    if index is None:
        return Check(subject, "warn", f"{pluralize(len(listing.entries), 'shard')} without an index", fix)
    shards = {shard.path: (shard.size, shard.etag) for shard in index.shards}
    current = {path: (e.size, e.etag) for path, e in zip(listing.paths, listing.entries, strict=True)}
    stale = sum(shards.get(path) != entry for path, entry in current.items()) + len(shards.keys() - current.keys())
    if stale:
        return Check(subject, "warn", f"{pluralize(stale, 'shard')} new, changed or gone since it was indexed", fix)
    rows = int(index.extents.rows.sum())
    finding = f"{pluralize(rows, 'row')} in {pluralize(len(current), 'shard')}, index fresh"
    if index.damage:
        finding += f", {pluralize(len(index.damage), 'damaged place')}: python -m jobs.inspect {uri} shows them"
    return Check(subject, "ok", finding)


def _gib(number: float) -> str:
    return f"{number / 2**30:,.1f} GiB"
