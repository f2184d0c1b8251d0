"""What lies in a checkpoints directory: a URI in, the checkpoints with a valid marker out, newest first."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from xmodal import storage
from xmodal.checkpoint import marker as markers
from xmodal.checkpoint.marker import FileRecord, Marker
from xmodal.errors import CheckpointError
from xmodal.storage import Entry, NotFound, StorageOptions

DEFAULT = StorageOptions()
Notify = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Found:
    """A checkpoint in storage whose marker is valid; the content of its files is verified by `fetch`."""

    uri: str
    marker: Marker

    @property
    def name(self) -> str:
        return markers.directory_name(self.step, self.attempt)

    @property
    def step(self) -> int:
        return self.marker.step

    @property
    def attempt(self) -> int:
        return self.marker.attempt

    @property
    def order(self) -> tuple[int, int]:
        """Sorts by step, then by attempt."""
        return self.step, self.attempt

    @property
    def files(self) -> tuple[FileRecord, ...]:
        return self.marker.files


@dataclass(frozen=True, kw_only=True)
class Directory:
    """A checkpoint directory as listed, committed or not: `sizes` maps a path below it to bytes."""

    uri: str
    step: int
    attempt: int
    sizes: dict[str, int]

    @property
    def order(self) -> tuple[int, int]:
        return self.step, self.attempt

    @property
    def committed(self) -> bool:
        return markers.NAME in self.sizes


def list_directories(checkpoints_uri: str, *, options: StorageOptions = DEFAULT) -> list[Directory]:
    """Every checkpoint directory with or without a marker: highest step first, then highest attempt."""
    sizes: dict[str, dict[str, int]] = {}
    place = checkpoints_uri.rstrip("/")
    for entry in _list_files(place, options):
        name, _, path = entry.uri.removeprefix(f"{place}/").partition("/")
        if markers.parse_directory_name(name):
            sizes.setdefault(name, {})[path] = entry.size
    found = []
    for name, files in sizes.items():
        step, attempt = markers.parse_directory_name(name) or (0, 0)
        uri = storage.join(checkpoints_uri, name)
        found.append(Directory(uri=uri, step=step, attempt=attempt, sizes=files))
    return sorted(found, key=lambda directory: directory.order, reverse=True)


def scan(
    checkpoints_uri: str,
    *,
    run_id: str | None = None,
    notify: Notify = lambda message: None,
    options: StorageOptions = DEFAULT,
) -> list[Found]:
    """The checkpoints with a valid marker and every file at its size: highest step first, then highest attempt.

    `notify` hears why any other directory was left out. With `run_id`, a marker of another run is left out too.
    Contents are not read; `fetch` verifies them.
    """
    found = []
    for directory in list_directories(checkpoints_uri, options=options):
        try:
            found.append(open_directory(directory, run_id=run_id, options=options))
        except CheckpointError as error:
            notify(str(error))
    return found


def open_directory(directory: Directory, *, run_id: str | None, options: StorageOptions = DEFAULT) -> Found:
    """Read and check the marker against its place, its run and the sizes listed; CheckpointError otherwise."""
    if not directory.committed:
        raise CheckpointError(f"{directory.uri} was never finished (no {markers.NAME}): ignored")
    try:
        data = storage.read(storage.join(directory.uri, markers.NAME), options=options)
        marker = markers.decode(data)
    except CheckpointError as error:
        raise CheckpointError(f"{directory.uri}: {error}") from error
    except NotFound as error:
        raise CheckpointError(f"{directory.uri}: its {markers.NAME} was removed") from error
    found = Found(uri=directory.uri, marker=marker)
    problems = [*_misplaced(found, directory, run_id), *_wrong_sizes(found, directory)]
    if problems:
        raise CheckpointError(f"{directory.uri}: {'; '.join(problems)}")
    return found


def resolve(uri: str, *, options: StorageOptions = DEFAULT) -> Found:
    """The newest valid checkpoint of a run directory, a checkpoints directory, or a checkpoint's own directory."""
    parent, _, name = uri.rstrip("/").rpartition("/")
    if markers.parse_directory_name(name):
        for directory in list_directories(parent or ".", options=options):
            if directory.order == markers.parse_directory_name(name):
                return open_directory(directory, run_id=None, options=options)
    reasons: list[str] = []
    for place in (storage.join(uri, "checkpoints"), uri):
        found = scan(place, notify=reasons.append, options=options)
        if found:
            return found[0]
    seen = f" ({'; '.join(reasons)})" if reasons else ""
    raise CheckpointError(
        f"{uri} holds no finished checkpoint{seen}; give a run directory, its checkpoints directory, "
        f"or one step-*.attempt-* directory with a {markers.NAME}"
    )


def _list_files(uri: str, options: StorageOptions) -> list[Entry]:
    try:
        return storage.list_files(uri, options=options)
    except NotFound:
        return []


def _misplaced(found: Found, directory: Directory, run_id: str | None) -> Iterator[str]:
    marker = found.marker
    if found.order != directory.order:
        yield f"its {markers.NAME} is of step {marker.step}, attempt {marker.attempt}"
    if run_id is not None and marker.run_id != run_id:
        yield f"it belongs to run {marker.run_id}, not to {run_id}: refused"


def _wrong_sizes(found: Found, directory: Directory) -> Iterator[str]:
    for record in found.files:
        size = directory.sizes.get(record.path)
        if size is None:
            yield f"{record.path} is missing"
        elif size != record.size:
            yield f"{record.path} has {size} bytes instead of {record.size}"
