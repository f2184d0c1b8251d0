"""The command, commit, hardware and versions that stand beside every measured number."""

import os
import platform
import sys
from pathlib import Path
from typing import Any

from xmodal.run import provenance

PACKAGES = (
    "torch",
    "ray",
    "numpy",
    "pyarrow",
    "transformers",
    "webdataset",
    "simplejpeg",
    "opencv-python-headless",
    "av",
    "decord",
)


def benchmark_provenance() -> dict[str, Any]:
    """Return the keys `command`, `commit`, `hardware` and `versions` of every measurement of this process."""
    return {
        "command": " ".join(["python -m jobs.bench", *sys.argv[1:]]),
        "commit": code_commit(),
        "hardware": hardware(),
        "versions": versions(),
    }


def code_commit() -> str:
    """Return the first 12 digits of the commit, with `+changes` when tracked files differ; `unknown` without one."""
    sha, plus, changes = (provenance.commit(Path(__file__).parent) or "unknown").partition("+")
    return sha[:12] + plus + changes


def hardware() -> dict[str, Any]:
    """Return CPU model, cores this process may use, memory in GiB, the GPU if there is one, and the load average."""
    import torch

    machine = provenance.hardware()
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    load = round(os.getloadavg()[0], 1)  # of the last minute: above `cores`, times are those of a busy machine
    return {
        "cpu": _cpu_model(),
        "cores": machine["cores"],
        "memory_GiB": round(machine["memory_gib"]),
        "gpu": gpu,
        "load": load,
    }


def versions() -> dict[str, str]:
    """Return the versions of Python and of those of `PACKAGES` that are installed."""
    return {"python": platform.python_version(), **provenance.package_versions(PACKAGES)}


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(models, platform.processor() or platform.machine())
