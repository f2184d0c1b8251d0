"""Lists the checkpoints of a directory, newest first, and checks their markers."""

from collections.abc import Iterator
from dataclasses import dataclass

from xmodal import storage
from xmodal.callbacks import Notify
from xmodal.checkpoint import marker as markers
from xmodal.checkpoint.marker import FileRecord, Marker
from xmodal.errors import CheckpointError
from xmodal.storage import Entry, NotFound, StorageOptions

DEFAULT = StorageOptions()


@dataclass(frozen=True, kw_only=True)
class CheckpointRef:
    """A checkpoint in storage with a valid marker; `fetch` verifies the content of its files."""

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
        """Return the sort key: step, then attempt."""
        return self.step, self.attempt

    @property
    def files(self) -> tuple[FileRecord, ...]:
        return self.marker.files


@dataclass(frozen=True, kw_only=True)
class CheckpointDirectory:
    """A checkpoint directory as listed, committed or not; `sizes` maps paths below it to bytes."""

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


def list_directories(checkpoints_uri: str, *, options: StorageOptions = DEFAULT) -> list[CheckpointDirectory]:
    """Return every checkpoint directory with or without a marker: highest step first, then highest attempt."""
    sizes: dict[str, dict[str, int]] = {}
    parent = checkpoints_uri.rstrip("/")
    for entry in _list_files(parent, options):
        name, _, path = entry.uri.removeprefix(f"{parent}/").partition("/")
        if markers.parse_directory_name(name):
            sizes.setdefault(name, {})[path] = entry.size
    directories = []
    for name, files in sizes.items():
        step, attempt = markers.parse_directory_name(name) or (0, 0)
        uri = storage.join(checkpoints_uri, name)
        directories.append(CheckpointDirectory(uri=uri, step=step, attempt=attempt, sizes=files))
    return sorted(directories, key=lambda directory: directory.order, reverse=True)


def scan(
    checkpoints_uri: str,
    *,
    run_id: str | None = None,
    notify: Notify = lambda message: None,
    options: StorageOptions = DEFAULT,
) -> list[CheckpointRef]:
    """Return the checkpoints with a valid marker and files of the right sizes, highest step first, then attempt.

    `notify` receives the reason why a directory is left out. With `run_id`, checkpoints of other runs are left out
    too. Contents are not read; `fetch` verifies them.
    """
    checkpoints = []
    for directory in list_directories(checkpoints_uri, options=options):
        try:
            checkpoints.append(open_directory(directory, run_id=run_id, options=options))
        except CheckpointError as error:
            notify(str(error))
    return checkpoints


def open_directory(
    directory: CheckpointDirectory, *, run_id: str | None, options: StorageOptions = DEFAULT
) -> CheckpointRef:
    """Read a marker and check it against its directory, its run and the listed sizes; CheckpointError if it differs."""
    if not directory.committed:
        raise CheckpointError(f"{directory.uri} was never finished (no {markers.NAME}): ignored")
    try:
        data = storage.read(storage.join(directory.uri, markers.NAME), options=options)
        marker = markers.decode(data)
    except CheckpointError as error:
        raise CheckpointError(f"{directory.uri}: {error}") from error
    except NotFound as error:
        raise CheckpointError(f"{directory.uri}: its {markers.NAME} was removed") from error
    checkpoint = CheckpointRef(uri=directory.uri, marker=marker)
    problems = [*_identity_problems(checkpoint, directory, run_id), *_size_problems(checkpoint, directory)]
    if problems:
        raise CheckpointError(f"{directory.uri}: {'; '.join(problems)}")
    return checkpoint


def resolve(uri: str, *, options: StorageOptions = DEFAULT) -> CheckpointRef:
    """Return the newest valid checkpoint of a run directory, a checkpoints directory, or a checkpoint's directory."""
    parent, _, name = uri.rstrip("/").rpartition("/")
    if markers.parse_directory_name(name):
        for directory in list_directories(parent or ".", options=options):
            if directory.order == markers.parse_directory_name(name):
                return open_directory(directory, run_id=None, options=options)
    reasons: list[str] = []
    for directory_uri in (storage.join(uri, "checkpoints"), uri):
        checkpoints = scan(directory_uri, notify=reasons.append, options=options)
        if checkpoints:
            return checkpoints[0]
    details = f" ({'; '.join(reasons)})" if reasons else ""
    raise CheckpointError(
        f"{uri} holds no finished checkpoint{details}; give a run directory, its checkpoints directory, "
        f"or one step-*.attempt-* directory with a {markers.NAME}"
    )


def _list_files(uri: str, options: StorageOptions) -> list[Entry]:
    try:
        return storage.list_files(uri, options=options)
    except NotFound:
        return []


def _identity_problems(checkpoint: CheckpointRef, directory: CheckpointDirectory, run_id: str | None) -> Iterator[str]:
    marker = checkpoint.marker
    if checkpoint.order != directory.order:
        yield f"its {markers.NAME} is of step {marker.step}, attempt {marker.attempt}"
    if run_id is not None and marker.run_id != run_id:
        yield f"it belongs to run {marker.run_id}, not to {run_id}: refused"


def _size_problems(checkpoint: CheckpointRef, directory: CheckpointDirectory) -> Iterator[str]:
    for record in checkpoint.files:
        size = directory.sizes.get(record.path)
        if size is None:
            yield f"{record.path} is missing"
        elif size != record.size:
            yield f"{record.path} has {size} bytes instead of {record.size}"
