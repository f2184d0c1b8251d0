"""Where the numbers of a run come from: nothing in, the code, versions and hardware of this process out as plain JSON.

Of the environment only the variables listed here are recorded; anything else may be a secret.
"""

import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = (
    "xmodal", "ray", "torch", "transformers", "tokenizers", "safetensors", "numpy", "pyarrow", "s3fs",
    "simplejpeg", "opencv-python-headless", "pillow",
)  # fmt: skip
COMMIT = "XMODAL_COMMIT"  # of a copy of the code without its repository, as a submitted job has it
ENVIRONMENT = (  # they change results or speed, and hold no names or keys
    "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "PYTHONHASHSEED", "CUBLAS_WORKSPACE_CONFIG",
    "NVIDIA_TF32_OVERRIDE",
)  # fmt: skip


def provenance() -> dict[str, Any]:
    """Commit (None outside a checkout), versions, hardware, and the listed environment variables."""
    return {
        "commit": commit(Path(__file__).parent),
        "python": platform.python_version(),
        "packages": {name: version for name in PACKAGES if (version := _version(name))},
        "hardware": hardware(),
        "environment": {name: os.environ[name] for name in ENVIRONMENT if name in os.environ},
    }


def hardware() -> dict[str, Any]:
    """Cores this process may use, memory in GiB, and GPUs by name where torch is loaded."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "machine": platform.machine(),
        "system": platform.system(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": round(memory, 1),
        "gpus": _gpus(),
    }


def commit(directory: Path) -> str | None:
    """The checked-out commit of the code in `directory`, with `+changes` when files differ from it.

    Outside a checkout it is that of the environment, where a submission has put it; else None.
    """
    head = _git(directory, "rev-parse", "HEAD")
    if not head:
        return os.environ.get(COMMIT) or None
    return head + ("+changes" if _git(directory, "status", "--porcelain", "--untracked-files=no") else "")


def _git(directory: Path, *arguments: str) -> str | None:
    try:
        run = subprocess.run(
            ["git", "-C", str(directory), *arguments], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):  # no git, no repository, or not ours to read
        return None
    return run.stdout.strip()


def _gpus() -> list[str]:
    torch = sys.modules.get("torch")  # asking must not cost the import
    if torch is None or not torch.cuda.is_available():
        return []
    return [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
