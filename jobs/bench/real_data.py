"""Where the real data of the benchmarks lies: a folder that is no part of the project."""

import os
from pathlib import Path

from xmodal.errors import ConfigError

BESIDE_THE_REPOSITORY = Path(__file__).resolve().parents[2].parent / "shared" / "data"


def material(needed: dict[str, str]) -> Path:
    """XMODAL_BENCH_DATA, else the folder beside the repository.

    `needed` maps each pattern that must match there to what those files hold; ConfigError where one is missing.
    """
    root = Path(os.environ.get("XMODAL_BENCH_DATA") or BESIDE_THE_REPOSITORY)
    missing = [f"{pattern} ({what})" for pattern, what in needed.items() if not list(root.glob(pattern))]
    if missing:
        raise ConfigError(f"{root} lacks {', '.join(missing)}: set XMODAL_BENCH_DATA to a folder that holds them")
    return root
