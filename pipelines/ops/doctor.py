"""A laptop or a cluster and the places of a run in; what would break or slow it, and how to mend that, out."""

import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipelines.config.doctor import Config
from pipelines.config.resources import Resources
from pipelines.runtime import cluster, machine
from pipelines.runtime.machine import Machine
from pipelines.runtime.output_path import check_output
from xmodal import storage
from xmodal.data.index import extent_index as stored_index
from xmodal.data.index.corpus import index_uri
from xmodal.data.index.listing import Listing, folder_before_pattern, list_shards
from xmodal.errors import ConfigError, StorageError, XmodalError
from xmodal.formatting import count
from xmodal.storage import Entry

State = Literal["ok", "warn", "bad"]
OPEN_FILES = 4096
LEAST_FREE = 2 << 30
FULL = 0.95  # Ray stops writing to a disk beyond this
SLOW_MIB_S = 20.0
HERE = "this machine"
ANSWER_S = 120.0  # a node that does not run an empty task in this time is none


@dataclass(frozen=True)
class Finding:
    """One check: `bad` would break a run, `warn` would slow it or leave it open to others."""

    what: str
    state: State
    found: str
    mend: str = ""


def run(config: Config) -> list[Finding]:
    """Every check, in the order of a run. ConfigError where the cluster does not answer."""
    address = config.resources.address or os.environ.get("RAY_ADDRESS")
    local = address in (None, "local")
    check_output(config.runs, "--runs")
    config = replace(config, runs=storage.absolute(config.runs), corpus=tuple(map(storage.absolute, config.corpus)))
    first_shards, findings = _corpora(config)
    if local:
        machines = [_examine(config, first_shards, None, HERE, None)]
    else:
        with _mark(config) as mark:
            machines = _nodes(config, first_shards, mark)
    room = [] if local else [_room(config.resources)]
    return [*machine_findings(machines), *room, token(local), *storage_findings(machines), *findings]


@contextmanager
def _mark(config: Config) -> Iterator[str | None]:
    """A file that every node must find, so that none takes a disk of its own for the shared place.

    None where it cannot be written: then the nodes' own probes say why.
    """
    mark = storage.join(config.runs, ".xmodal-doctor")
    try:
        storage.write(mark, b"", options=config.storage)
    except StorageError:
        yield None
        return
    try:
        yield mark
    finally:
        storage.delete(mark, options=config.storage)


def _examine(
    config: Config, shards: dict[str, Entry], mark: str | None, name: str, node: Mapping[str, float] | None
) -> Machine:
    """One machine with its probes; runs on that machine. `node`: the resources that Ray gave it."""
    probes: dict[str, Any] = {config.runs: machine.probe_writing(config.runs, mark, config.storage)}
    for uri, shard in shards.items():
        probes[uri] = machine.probe_reading(shard.uri, shard.size, config.storage)
    return replace(machine.look(name, node), probes=probes)


def _nodes(config: Config, shards: dict[str, Entry], mark: str | None) -> list[Machine]:
    """Every node that is alive, looked at from inside by a task of its own."""
    cluster.connect(replace(config.resources, workers=1), check=False)
    task = ray.remote(num_cpus=0, max_retries=0)(_examine)
    waiting = {}
    for node in ray.nodes():
        if node["Alive"]:
            place = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            on_node = task.options(scheduling_strategy=place)
            reference = on_node.remote(config, shards, mark, node["NodeManagerAddress"], node["Resources"])
            waiting[reference] = node["NodeManagerAddress"]
    ready, late = ray.wait(list(waiting), num_returns=len(waiting), timeout=ANSWER_S)
    if late:
        raise ConfigError(f"{', '.join(waiting[r] for r in late)} ran no task in {ANSWER_S:.0f} s: restart Ray there")
    return ray.get(ready)


def machine_findings(machines: Sequence[Machine]) -> Iterator[Finding]:
    """Versions, then what each machine lacks; one `ok` for each kind where none lacks it."""
    yield versions(machines)
    for what, judge in {
        "shared memory": _shared_memory, "disk for spill": _spill, "GPUs": _gpus, "open files": _open_files,
    }.items():  # fmt: skip
        found = [judge(one) for one in machines]
        worse = [finding for finding in found if finding.state != "ok"]
        yield from worse or [Finding(what, "ok", found[0].found)]


def versions(machines: Sequence[Machine]) -> Finding:
    """Whether all machines have the same Python and packages; a driver's pickles are read by the workers."""
    first, *others = machines
    different = {
        f"{package} {one.versions.get(package, 'missing')} on {one.name}, {here} on {first.name}"
        for one in others
        for package in first.versions.keys() | one.versions.keys()
        if one.versions.get(package) != (here := first.versions.get(package, "missing"))
    }
    if different:
        mend = "install the same on every node: pip install -c constraints.txt, or one image for all"
        return Finding("versions", "bad", "; ".join(sorted(different)), mend)
    named = ", ".join(f"{name} {first.versions[name]}" for name in ("python", "ray", "torch") if name in first.versions)
    return Finding("versions", "ok", f"{named} on {count(len(machines), 'machine')}")


def _shared_memory(one: Machine) -> Finding:
    if one.shared_memory is None:
        return Finding("shared memory", "ok", "this system has no /dev/shm")
    found = f"{_gib(one.shared_memory)} free for an object store of {_gib(one.store)} on {one.name}"
    if one.shared_memory >= one.store:
        return Finding("shared memory", "ok", found)
    mend = f"Ray would use a slow disk: docker run --shm-size={one.store / 2**30 + 1:.0f}g, or a smaller object store"
    return Finding("shared memory", "warn", found, mend)


def _spill(one: Machine) -> Finding:
    found = f"{_gib(one.spill_free)} free in {one.spill} on {one.name}"
    mend = f"free some, or set {machine.SPILL} to a larger disk before Ray starts"
    if one.spill_free < LEAST_FREE or one.spill_used_share > FULL:
        return Finding("disk for spill", "bad", f"{found}, {one.spill_used_share:.0%} used", mend)
    return Finding("disk for spill", "ok" if one.spill_free >= one.store else "warn", found, mend)


def _gpus(one: Machine) -> Finding:
    if len(one.gpus) < one.ray_gpus:
        found = f"Ray counts {one.ray_gpus:g} on {one.name}, torch {one.versions.get('torch')} can use {len(one.gpus)}"
        return Finding("GPUs", "bad", found, "install a CUDA build of torch and a driver that fits it there")
    if one.gpu_driver and not one.gpus:
        found = f"a driver is loaded on {one.name}, but torch {one.versions.get('torch')} can use no GPU"
        return Finding("GPUs", "warn", found, "install a CUDA build of torch to use it")
    return Finding("GPUs", "ok", ", ".join(one.gpus) or "none: training runs on CPUs")


def _open_files(one: Machine) -> Finding:
    state: State = "ok" if one.open_files >= OPEN_FILES or one.open_files < 0 else "warn"
    found = f"at most {one.open_files:,} at once on {one.name}"
    return Finding("open files", state, found, f"ulimit -n 65536 before Ray starts (at least {OPEN_FILES})")


def _room(resources: Resources) -> Finding:
    """Whether the workers that were asked for can ever start."""
    have = cluster.capacity()
    share = cluster.share_of(resources, have, local=False)
    try:
        cluster.check_fits(resources.sizes[0], share, have)
    except ConfigError as error:
        return Finding("workers", "bad", str(error))
    each = ", ".join(f"{amount:g} {name}" for name, amount in share.items())
    return Finding("workers", "ok", f"{resources.workers} with {each} each, of {have.get('CPU', 0):g} CPU")


def token(local: bool) -> Finding:
    """Whether whoever reaches the cluster's ports needs its token, and whether others can read that."""
    if local:
        return Finding("token", "ok", "a run here starts a Ray of its own without a job server")
    if os.environ.get("RAY_AUTH_MODE") != "token":
        mend = "start Ray with RAY_AUTH_MODE=token on every node (ray get-auth-token --generate), and set it here"
        return Finding("token", "warn", "off: whoever reaches this cluster's ports runs code on it", mend)
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    if path.exists() and path.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH):
        return Finding("token", "warn", f"others on this machine can read {path}", f"chmod 600 {path}")
    return Finding("token", "ok", "on")


def storage_findings(machines: Sequence[Machine]) -> Iterator[Finding]:
    """Every place as every machine reaches it: the slowest figures, or the problems."""
    for uri in machines[0].probes:
        probes = {one.name: one.probes[uri] for one in machines}
        problems = [f"{name}: {probe}" for name, probe in probes.items() if isinstance(probe, str)]
        if problems:
            mend = "use s3://, or a file system that every node mounts at this path, with permission to use it"
            yield Finding(f"storage {uri}", "bad", "; ".join(problems), mend)
            continue
        slowest = {act: max(probe[act] for probe in probes.values()) for act in probes[machines[0].name]}
        mib_s = {act: machine.PROBE_BYTES / 2**20 / max(seconds, 1e-9) for act, seconds in slowest.items()}
        found = ", ".join(f"{act} {seconds * 1000:,.0f} ms" for act, seconds in slowest.items())
        state: State = "ok" if min(mib_s.values()) >= SLOW_MIB_S else "warn"
        yield Finding(f"storage {uri}", state, f"{found} for up to 4 MiB", "bring storage and cluster into one region")


def _corpora(config: Config) -> tuple[dict[str, Entry], list[Finding]]:
    """The first shard of every corpus, and whether its index is of what lies there."""
    shards, findings = {}, []
    for uri in config.corpus:
        try:
            storage.check(folder_before_pattern(uri), writable=False, options=config.storage)  # does not wait
            listing = list_shards(uri, config.storage)
            shards[uri] = listing.entries[0]
            findings.append(_index(uri, listing, config))
        except XmodalError as error:
            findings.append(Finding(f"corpus {uri}", "bad", str(error)))
    return shards, findings


def _index(uri: str, listing: Listing, config: Config) -> Finding:
    where, what = index_uri(uri, listing, config.index), f"corpus {uri}"
    mend = "the next run brings it up to date first; that reads every new shard once"
    try:
        known = stored_index.load(where, config.storage)
    except stored_index.DamagedIndex as error:
        return Finding(what, "warn", f"its index {where} is damaged ({error})", mend)
    if known is None:
        return Finding(what, "warn", f"{count(len(listing.entries), 'shard')} without an index", mend)
    shards = {shard.path: (shard.size, shard.etag) for shard in known.shards}
    current = {path: (e.size, e.etag) for path, e in zip(listing.paths, listing.entries, strict=True)}
    stale = sum(shards.get(path) != entry for path, entry in current.items()) + len(shards.keys() - current.keys())
    if stale:
        return Finding(what, "warn", f"{count(stale, 'shard')} new, changed or gone since it was indexed", mend)
    rows = int(known.extents.rows.sum())
    found = f"{count(rows, 'row')} in {count(len(current), 'shard')}, index fresh"
    if known.damage:
        found += f", {count(len(known.damage), 'damaged place')}: python -m jobs.inspect {uri} shows them"
    return Finding(what, "ok", found)


def _gib(number: float) -> str:
    return f"{number / 2**30:,.1f} GiB"
