"""Examine the machine that this runs on: versions, memory, disks, GPUs, and how fast it reaches storage."""

import os
import platform
import resource
import secrets
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from xmodal import storage
from xmodal.errors import StorageError
from xmodal.run.provenance import hardware, provenance
from xmodal.storage import NotFound, StorageOptions

SHARED_MEMORY = "/dev/shm"
SPILL = "RAY_object_spilling_directory"
STORE_SHARE = 0.3  # of memory: Ray's default object store
PROBE_BYTES = 4 << 20
Seconds = dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What a machine has; sizes are in bytes."""

    name: str
    versions: Mapping[str, str]
    store: float  # size of Ray's object store, or the size that it would have
    shared_memory: float | None  # free in /dev/shm; None where there is none
    spill: str  # directory for objects that do not fit into the store
    spill_free: float
    spill_used_share: float
    open_files: int  # limit of this process
    gpus: tuple[str, ...] = ()  # those that torch can use
    ray_gpus: float = 0.0  # those that Ray counts
    gpu_driver: bool = False  # an NVIDIA driver is loaded
    probes: Mapping[str, Any] = field(default_factory=dict)  # by URI: seconds by operation, or the problem as text


def examine(name: str, node: Mapping[str, float] | None = None, temporary: str = "/tmp") -> Machine:
    """Examine this machine; `node` are the resources that Ray counts on it, where Ray runs already."""
    import torch

    environment = provenance()
    memory = hardware()["memory_gib"] * 2**30
    spill = os.environ.get(SPILL) or temporary
    disk = shutil.disk_usage(spill if os.path.isdir(spill) else "/")
    shared = shutil.disk_usage(SHARED_MEMORY).free if os.path.isdir(SHARED_MEMORY) else None
    store = (node or {}).get("object_store_memory")
    return Machine(
        name=name,
        versions={"python": platform.python_version(), **environment["packages"]},
        store=store or STORE_SHARE * memory,
        shared_memory=None if shared is None else shared + (store or 0),  # a Ray that runs has taken its part
        spill=spill,
        spill_free=disk.free,
        spill_used_share=disk.used / disk.total,
        open_files=resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        gpus=tuple(environment["hardware"]["gpus"]) if torch.cuda.is_available() else (),
        ray_gpus=(node or {}).get("GPU", 0.0),
        gpu_driver=Path("/proc/driver/nvidia/version").exists(),
    )


def probe_writing(uri: str, marker: str | None, options: StorageOptions) -> Seconds | str:
    """Write, read back and delete a few MiB below `uri`, and look for `marker`, a file that another machine wrote.

    Returns seconds by operation, or the problem as text.
    """
    data = secrets.token_bytes(PROBE_BYTES)
    file = storage.join(uri, f".xmodal-probe-{secrets.token_hex(6)}")
    try:
        seconds = {"write": _seconds(lambda: storage.write(file, data, options=options))}
        seconds["read"] = _seconds(lambda: storage.read(file, options=options))
        storage.delete(file, options=options)
        same = marker is None or _exists(marker, options)
    except StorageError as error:
        return str(error)
    return seconds if same else "this path is another directory there than here"


def _exists(uri: str, options: StorageOptions) -> bool:
    try:
        storage.stat(uri, options=options)
    except NotFound:
        return False
    return True


def probe_reading(uri: str, size: int, options: StorageOptions) -> Seconds | str:
    """Read the first MiB of one file. Returns seconds by operation, or the problem as text."""
    try:
        return {"read": _seconds(lambda: storage.read(uri, 0, min(size, PROBE_BYTES), options=options))}
    except StorageError as error:
        return str(error)


def _seconds(operation: Callable[[], object]) -> float:
    started = time.perf_counter()
    operation()
    return time.perf_counter() - started
