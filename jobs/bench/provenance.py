"""Nothing goes in; the commit, hardware and versions that a figure was measured with come out."""

import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

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


def provenance() -> dict[str, Any]:
    """The keys `command`, `commit`, `hardware` and `versions` of every figure of this process."""
    return {
        "command": " ".join(["python -m jobs.bench", *sys.argv[1:]]),
        "commit": commit(),
        "hardware": hardware(),
        "versions": versions(),
    }


def commit() -> str:
    """The checked-out commit, with `+changes` when tracked files differ from it; `unknown` outside a checkout."""
    here = Path(__file__).parent
    try:
        sha = _git("rev-parse", "--short=12", "HEAD", cwd=here)
        changed = _git("status", "--porcelain", "--untracked-files=no", cwd=here)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{sha}+changes" if changed else sha


def hardware() -> dict[str, Any]:
    """CPU model, cores this process may use, memory in GiB, the GPU if there is one, and who else is running."""
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    load = round(os.getloadavg()[0], 1)  # of the last minute: above `cores`, times are those of a busy machine
    return {"cpu": _cpu_model(), "cores": cores, "memory_GiB": round(memory), "gpu": gpu, "load": load}


def versions() -> dict[str, str]:
    """Python and the installed ones of `PACKAGES`."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _git(*arguments: str, cwd: Path) -> str:
    done = subprocess.run(["git", *arguments], cwd=cwd, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(models, platform.processor() or platform.machine())
