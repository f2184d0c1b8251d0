"""One machine looked at from inside: versions, memory, disks, GPUs and its way to storage, as plain values."""

import os
import platform
import resource
import secrets
import shutil
import time
from collections.abc import Mapping
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
    """What a node has, in bytes; `gpus` are those that torch can use, `ray_gpus` those that Ray counts."""

    name: str
    versions: Mapping[str, str]
    store: float  # of Ray's object store, present or to come
    shared_memory: float | None  # free in /dev/shm; None where there is none
    spill: str  # the directory of what does not fit
    spill_free: float
    spill_used_share: float
    open_files: int
    gpus: tuple[str, ...] = ()
    ray_gpus: float = 0.0
    gpu_driver: bool = False
    probes: Mapping[str, Any] = field(default_factory=dict)  # URI: seconds by what was done, or the problem as text


def look(name: str, node: Mapping[str, float] | None = None, temporary: str = "/tmp") -> Machine:
    """This machine; `node` are the resources that Ray gave it, where it runs already."""
    import torch  # so that its GPUs can be named

    found = provenance()
    memory = hardware()["memory_gib"] * 2**30
    spill = os.environ.get(SPILL) or temporary
    disk = shutil.disk_usage(spill if os.path.isdir(spill) else "/")
    shared = shutil.disk_usage(SHARED_MEMORY).free if os.path.isdir(SHARED_MEMORY) else None
    store = (node or {}).get("object_store_memory")
    return Machine(
        name=name,
        versions={"python": platform.python_version(), **found["packages"]},
        store=store or STORE_SHARE * memory,
        shared_memory=None if shared is None else shared + (store or 0),  # a Ray that runs has taken its part
        spill=spill,
        spill_free=disk.free,
        spill_used_share=disk.used / disk.total,
        open_files=resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        gpus=tuple(found["hardware"]["gpus"]) if torch.cuda.is_available() else (),
        ray_gpus=(node or {}).get("GPU", 0.0),
        gpu_driver=Path("/proc/driver/nvidia/version").exists(),
    )


def probe_writing(uri: str, mark: str | None, options: StorageOptions) -> Seconds | str:
    """Write, read back and delete a few MiB below `uri`, and find `mark`, which another machine wrote there."""
    data = secrets.token_bytes(PROBE_BYTES)
    place = storage.join(uri, f".xmodal-probe-{secrets.token_hex(6)}")
    try:
        seconds = {"write": _timed(lambda: storage.write(place, data, options=options))}
        seconds["read"] = _timed(lambda: storage.read(place, options=options))
        storage.delete(place, options=options)
        same = mark is None or _is_there(mark, options)
    except StorageError as error:
        return str(error)
    return seconds if same else "it is another place there than here"


def _is_there(uri: str, options: StorageOptions) -> bool:
    try:
        storage.stat(uri, options=options)
    except NotFound:
        return False
    return True


def probe_reading(uri: str, size: int, options: StorageOptions) -> Seconds | str:
    """Read the first MiB of one file."""
    try:
        return {"read": _timed(lambda: storage.read(uri, 0, min(size, PROBE_BYTES), options=options))}
    except StorageError as error:
        return str(error)


def _timed(act: Any) -> float:
    began = time.perf_counter()
    act()
    return time.perf_counter() - began
