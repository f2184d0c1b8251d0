"""Find the folder of public data sets, and compare its files with the expected checksums before anything is trained."""

import functools
import hashlib
import os
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from jobs.bench.datasets import datasets_of, expected_files
from xmodal.errors import ConfigError

VARIABLE = "XMODAL_BENCH_DATA"
BESIDE_THE_CHECKOUT = Path(__file__).resolve().parents[2].parent / "shared" / "data"
FileState = Literal["as expected", "missing", "differs"]


def data_folder(folder: str | None = None) -> Path:
    """Return `folder`, else that of XMODAL_BENCH_DATA, else `shared/data` beside the checkout."""
    return Path(folder or os.environ.get(VARIABLE) or BESIDE_THE_CHECKOUT)


def file_states(folder: Path, needs: Sequence[str]) -> dict[str, FileState]:
    """Return what the folder holds of each file that the patterns name, by its path below the folder."""
    return {path: _state(folder / path, sha256) for path, sha256 in expected_files(needs).items()}


def require_data(user: str, needs: Sequence[str], folder: str | None = None, *, allow_other: bool = False) -> Path:
    """Return the folder of data once all files that `user` (an experiment or a benchmark) needs are found in it.

    With `allow_other` it is enough that every pattern matches a file, whatever the file holds. Raises ConfigError with
    all files that are missing or have another SHA-256, and where the data sets come from.
    """
    root = data_folder(folder)
    if allow_other:
        states: Mapping[str, FileState] = {pattern: "missing" for pattern in needs if not any(root.glob(pattern))}
    else:
        states = {path: state for path, state in file_states(root, needs).items() if state != "as expected"}
    if states:
        raise ConfigError(_listing_of_faults(user, needs, root, states))
    return root


def describe_data(user: str, needs: Sequence[str], folder: str | None = None) -> str:
    """Return what `user` needs as text: data sets with source and licence, files with SHA-256 and state."""
    root = data_folder(folder)
    states = file_states(root, needs)
    files = [f"  {sha256}  {path}  ({states[path]})" for path, sha256 in expected_files(needs).items()]
    return "\n".join([f"{user} reads from {root}:", *files, *_sources(needs)])


def _listing_of_faults(user: str, needs: Sequence[str], root: Path, states: Mapping[str, FileState]) -> str:
    width = max(map(len, states))
    advice = (
        f"Give the folder that holds them with --data FOLDER or {VARIABLE}. To run on other files of the same layout, "
        "whose results cannot be compared: --allow-other-data."
    )
    return "\n".join(
        [
            f"{user} cannot start: {len(states)} of its data files are not in {root} as expected:",
            *(f"  {path:{width}}  {state}" for path, state in states.items()),
            *_sources(needs),
            advice,
        ]
    )


def _sources(needs: Sequence[str]) -> list[str]:
    lines = []
    for dataset in datasets_of(needs):
        facts = [dataset.source, f"Licence: {dataset.licence}", f"Conversion: {dataset.conversion}"]
        text = f"{dataset.name}: {'. '.join([*facts, f'Files: {dataset.contents}'])}."
        lines.append(textwrap.fill(text, 118, subsequent_indent="  ", break_on_hyphens=False, break_long_words=False))
    return lines


def _state(path: Path, sha256: str) -> FileState:
    if not path.is_file():
        return "missing"
    status = path.stat()
    return "as expected" if _sha256(path, status.st_size, status.st_mtime_ns) == sha256 else "differs"


@functools.lru_cache
def _sha256(path: Path, size: int, modified_ns: int) -> str:
    """Return the SHA-256 of a file; size and time of change tell a changed file from one that was read before."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
