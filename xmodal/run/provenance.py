"""The code, package versions and hardware that produced the results of a run, as plain JSON.

Only the environment variables listed here are recorded, because others may contain secrets.
"""

import os
import platform
import subprocess
import sys
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = (
    "xmodal", "ray", "torch", "transformers", "tokenizers", "safetensors", "numpy", "pyarrow", "s3fs",
    "simplejpeg", "opencv-python-headless", "pillow",
)  # fmt: skip
COMMIT_VARIABLE = "XMODAL_COMMIT"  # commit of the code where it has no repository, as in a submitted job
ENVIRONMENT = (  # they change results or speed, and contain no names or keys
    "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "PYTHONHASHSEED", "CUBLAS_WORKSPACE_CONFIG",
    "NVIDIA_TF32_OVERRIDE", "XMODAL_PLUGINS",
)  # fmt: skip


def provenance() -> dict[str, Any]:
    """Return commit (None outside a checkout), versions, hardware, and the listed environment variables."""
    return {
        "commit": commit(Path(__file__).parent),
        "python": platform.python_version(),
        "packages": package_versions(PACKAGES),
        "hardware": hardware(),
        "environment": {name: os.environ[name] for name in ENVIRONMENT if name in os.environ},
    }


def package_versions(packages: Iterable[str]) -> dict[str, str]:
    """Return the versions of those packages that are installed, in the order given."""
    return {name: version for name in packages if (version := _version(name))}


def hardware() -> dict[str, Any]:
    """Return the cores that this process may use, memory in GiB, and GPU names if torch is loaded."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "machine": platform.machine(),
        "system": platform.system(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": round(memory, 1),
        "gpus": _gpus(),
    }


def commit(directory: Path) -> str | None:
    """Return the checked-out commit of `directory`, with `+changes` if files differ from it.

    Outside a checkout return the commit in the environment, which a submitted job has, or None.
    """
    head = _git(directory, "rev-parse", "HEAD")
    if not head:
        return os.environ.get(COMMIT_VARIABLE) or None
    return head + ("+changes" if _git(directory, "status", "--porcelain", "--untracked-files=no") else "")


def _git(directory: Path, *arguments: str) -> str | None:
    try:
        run = subprocess.run(
            ["git", "-C", str(directory), *arguments], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):  # no git, no repository, or no permission to read it
        return None
    return run.stdout.strip()


def _gpus() -> list[str]:
    torch = sys.modules.get("torch")  # do not import torch just for this
    if torch is None or not torch.cuda.is_available():
        return []
    return [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
