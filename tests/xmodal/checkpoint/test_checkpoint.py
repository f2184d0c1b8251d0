"""Committing, restoring and pruning: a checkpoint is complete and verified, or it is skipped with the reason."""

import json
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xmodal import checkpoint, storage
from xmodal.checkpoint import marker as markers
from xmodal.errors import CheckpointError, ConfigError, StorageError

FILES = {"model.safetensors": 5000, "optimizer.safetensors": 9000, "state.json": 40, "tokenizer/vocab.json": 300}


def fill(directory: Path, step: int = 0) -> None:
    """Write files whose bytes depend on the step."""
    for number, (path, size) in enumerate(FILES.items()):
        target = directory / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(random.Random(step * 100 + number).randbytes(size))


def commit(base: Path, step: int, attempt: int = 1, run_id: str = "run") -> checkpoint.CheckpointRef:
    local = base / "local" / f"{step}-{attempt}"
    local.mkdir(parents=True)
    fill(local, step)
    return checkpoint.commit(
        local, str(base / "checkpoints"), run_id=run_id, attempt=attempt, step=step, corpora={"train": "ab12"}
    )


def fetch_latest(
    base: Path, messages: list[str] | None = None, **options: object
) -> checkpoint.RestoredCheckpoint | None:
    notify = (messages if messages is not None else []).append
    return checkpoint.fetch_latest(str(base / "checkpoints"), base / "into", run_id="run", notify=notify, **options)


def content(directory: Path) -> dict[str, bytes]:
    files = (path for path in directory.rglob("*") if path.is_file())
    return {path.relative_to(directory).as_posix(): path.read_bytes() for path in files}


def names(base: Path) -> list[str]:
    return [ref.name for ref in checkpoint.scan(str(base / "checkpoints"))]


def test_restored_files_equal_committed_files(tmp_path: Path) -> None:
    commit(tmp_path, 100)
    restored = fetch_latest(tmp_path)
    assert restored is not None
    assert restored.checkpoint.marker.corpora == {"train": "ab12"}
    assert restored.skipped == ()
    assert content(restored.path) == content(tmp_path / "local" / "100-1")


def test_scan_sorts_by_step_then_attempt(tmp_path: Path) -> None:
    for step, attempt in [(100, 1), (200, 1), (200, 2), (100, 3), (1000, 1)]:
        commit(tmp_path, step, attempt)
    assert names(tmp_path) == [
        "step-000001000.attempt-1",
        "step-000000200.attempt-2",
        "step-000000200.attempt-1",
        "step-000000100.attempt-3",
        "step-000000100.attempt-1",
    ]


def test_fetch_latest_is_none_before_the_first_commit(tmp_path: Path) -> None:
    assert fetch_latest(tmp_path) is None
    local = tmp_path / "checkpoints" / "step-000000100.attempt-1"
    local.mkdir(parents=True)
    fill(local)
    messages: list[str] = []
    assert fetch_latest(tmp_path, messages) is None
    assert "never finished" in messages[0]


def test_any_flipped_bit_falls_back_to_the_previous_checkpoint(tmp_path: Path) -> None:
    commit(tmp_path, 100)
    directory = Path(commit(tmp_path, 200).uri)
    draw = random.Random(0)
    paths = sorted(path for path in directory.rglob("*") if path.is_file())
    fallbacks = 0
    for turn in range(100):
        path = paths[turn % len(paths)]
        original = path.read_bytes()
        damaged = bytearray(original)
        damaged[draw.randrange(len(original))] ^= 1 << draw.randrange(8)
        path.write_bytes(damaged)
        messages: list[str] = []
        restored = fetch_latest(tmp_path, messages)
        fallbacks += restored is not None and restored.checkpoint.step == 100 and path.name in " ".join(messages)
        path.write_bytes(original)
    assert fallbacks == 100
    assert fetch_latest(tmp_path).checkpoint.step == 200


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def lengthen(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\n")


@pytest.mark.parametrize("damage", [truncate, empty, lengthen, Path.unlink])
@pytest.mark.parametrize("name", [*FILES, markers.NAME])
def test_truncated_or_missing_file_is_named_and_the_previous_checkpoint_restored(
    damage, name: str, tmp_path: Path
) -> None:
    commit(tmp_path, 100)
    damage(Path(commit(tmp_path, 200).uri) / name)
    messages: list[str] = []
    restored = fetch_latest(tmp_path, messages)
    assert restored is not None
    assert restored.checkpoint.step == 100
    assert name in messages[0]
    assert restored.skipped == tuple(messages)


def test_fetch_latest_raises_if_no_checkpoint_verifies(tmp_path: Path) -> None:
    for step in (100, 200):
        truncate(Path(commit(tmp_path, step).uri) / "state.json")
    with pytest.raises(CheckpointError, match=r"state.json has 39 bytes instead of 40"):
        fetch_latest(tmp_path)


def test_checkpoints_of_another_run_are_skipped(tmp_path: Path) -> None:
    commit(tmp_path, 100)
    commit(tmp_path, 200, run_id="other")
    messages: list[str] = []
    assert fetch_latest(tmp_path, messages).checkpoint.step == 100
    assert "belongs to run other" in messages[0]
    assert names(tmp_path)[0] == "step-000000200.attempt-1"
    of_run = checkpoint.scan(str(tmp_path / "checkpoints"), run_id="run")
    assert [ref.step for ref in of_run] == [100]


def test_checkpoint_in_the_directory_of_another_step_is_skipped(tmp_path: Path) -> None:
    directory = Path(commit(tmp_path, 100).uri)
    directory.rename(directory.with_name("step-000000300.attempt-1"))
    with pytest.raises(CheckpointError, match="is of step 100"):
        fetch_latest(tmp_path)


def test_highest_attempt_at_the_newest_step_is_restored(tmp_path: Path) -> None:
    unfinished = Path(commit(tmp_path, 100, attempt=1).uri)
    (unfinished / markers.NAME).unlink()
    commit(tmp_path, 100, attempt=2)
    commit(tmp_path, 100, attempt=3)
    assert fetch_latest(tmp_path).checkpoint.attempt == 3


def test_committed_checkpoint_is_never_overwritten(tmp_path: Path) -> None:
    committed = commit(tmp_path, 100)
    before = content(Path(committed.uri))
    with pytest.raises(CheckpointError, match="higher attempt"):
        checkpoint.commit(
            tmp_path / "local" / "100-1", str(tmp_path / "checkpoints"), run_id="run", attempt=1, step=100
        )
    assert content(Path(committed.uri)) == before


def test_commit_deletes_files_of_an_unfinished_upload(tmp_path: Path) -> None:
    leftover = tmp_path / "checkpoints" / "step-000000100.attempt-1" / "leftover.bin"
    leftover.parent.mkdir(parents=True)
    leftover.write_bytes(b"half")
    committed = commit(tmp_path, 100)
    assert set(content(Path(committed.uri))) == {*FILES, markers.NAME}


def test_commit_of_an_empty_directory_raises(tmp_path: Path) -> None:
    (tmp_path / "local").mkdir()
    with pytest.raises(CheckpointError, match="nothing was written"):
        checkpoint.commit(tmp_path / "local", str(tmp_path / "c"), run_id="run", attempt=1, step=1)


def test_commit_raises_if_the_directory_has_a_marker_already(tmp_path: Path) -> None:
    (tmp_path / markers.NAME).write_text("{}")
    with pytest.raises(CheckpointError, match="another name"):
        checkpoint.commit(tmp_path, str(tmp_path / "c"), run_id="run", attempt=1, step=1)


def test_skip_leaves_files_out(tmp_path: Path) -> None:
    commit(tmp_path, 100)
    restored = fetch_latest(tmp_path, skip=("optimizer.safetensors",))
    assert set(content(restored.path)) == set(FILES) - {"optimizer.safetensors"}


@pytest.mark.parametrize("below", ["", "checkpoints", "checkpoints/step-000000100.attempt-1"])
@pytest.mark.parametrize("slash", ["", "/"])
def test_resolve_accepts_run_checkpoints_and_checkpoint_directories(below: str, slash: str, tmp_path: Path) -> None:
    commit(tmp_path, 100)
    assert checkpoint.resolve(f"{tmp_path / below}{slash}").step == 100


def test_resolve_without_checkpoints_says_what_to_give(tmp_path: Path) -> None:
    truncate(Path(commit(tmp_path, 100).uri) / "state.json")
    with pytest.raises(CheckpointError, match=r"state.json has 39 bytes.*give a run directory"):
        checkpoint.resolve(str(tmp_path))
    with pytest.raises(CheckpointError, match="holds no finished checkpoint"):
        checkpoint.resolve(str(tmp_path / "nowhere"))


def test_marker_of_a_newer_format_names_the_fix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(markers, "FORMAT", 99)
        commit(tmp_path, 100)
    with pytest.raises(CheckpointError, match=r"format 99.*use the xmodal that wrote it"):
        fetch_latest(tmp_path)


@pytest.mark.parametrize("path", ["../outside", "/etc/passwd", "a/../../b", "", "a\0b"])
def test_marker_with_a_path_outside_the_directory_raises(path: str) -> None:
    record = markers.FileRecord(path=path, size=1, sha256="0" * 64)
    marker = markers.Marker(run_id="run", step=1, attempt=1, files=(record,))
    with pytest.raises(CheckpointError, match="outside"):
        markers.decode(markers.encode(marker))


plain_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
records = st.fixed_dictionaries(
    {
        "path": st.from_regex(r"[a-zé ]{1,8}(/[a-z.]{1,8}x){0,2}", fullmatch=True),
        "size": st.integers(0, 2**50),
        "sha256": st.from_regex(r"[0-9a-f]{64}", fullmatch=True),
    }
)
marker_fields = st.fixed_dictionaries(
    {
        "run_id": st.text(),
        "step": st.integers(0, 10**12),
        "attempt": st.integers(0, 1000),
        "files": st.lists(records, max_size=3),
        "corpora": st.dictionaries(st.text(), st.text(), max_size=2),
        "metadata": st.dictionaries(st.text(), plain_json, max_size=3),
    }
)


def build_marker(fields: dict[str, object]) -> markers.Marker:
    files = tuple(markers.FileRecord(**record) for record in fields["files"])
    return markers.Marker(**{**fields, "files": files})


@settings(deadline=None)
@given(marker_fields)
def test_marker_round_trips(fields: dict[str, object]) -> None:
    marker = build_marker(fields)
    assert markers.decode(markers.encode(marker)) == marker


@settings(deadline=None)
@given(marker_fields, st.data())
def test_marker_with_a_flipped_bit_raises(fields: dict[str, object], data: st.DataObject) -> None:
    text = bytearray(markers.encode(build_marker(fields)))
    text[data.draw(st.integers(0, len(text) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(CheckpointError):
        markers.decode(bytes(text))


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_decode_of_other_bytes_raises(data: bytes) -> None:
    with pytest.raises(CheckpointError, match=markers.NAME):
        markers.decode(data)


@settings(deadline=None)
@given(plain_json)
def test_decode_of_other_json_raises(value: object) -> None:
    with pytest.raises(CheckpointError, match=markers.NAME):
        markers.decode(json.dumps(value).encode())


@settings(deadline=None)
@given(st.integers(0, 10**12), st.integers(0, 10**4))
def test_directory_names_round_trip(step: int, attempt: int) -> None:
    assert markers.parse_directory_name(markers.directory_name(step, attempt)) == (step, attempt)


def test_impossible_retention_raises_with_the_reason() -> None:
    with pytest.raises(ConfigError, match="leaves none to fall back to"):
        checkpoint.Retention(keep=1)
    with pytest.raises(ConfigError, match="keep_every"):
        checkpoint.Retention(keep_every=0)


def prune(base: Path, newest: checkpoint.CheckpointRef, **policy: int) -> list[str]:
    messages: list[str] = []
    retention = checkpoint.Retention(**policy)
    checkpoint.prune(str(base / "checkpoints"), newest, retention, notify=messages.append)
    return messages


def test_retention_keeps_the_newest_and_every_nth(tmp_path: Path) -> None:
    newest = [commit(tmp_path, step) for step in range(100, 1000, 100)][-1]
    prune(tmp_path, newest, keep=3, keep_every=400)
    assert [ref.step for ref in checkpoint.scan(str(tmp_path / "checkpoints"))] == [900, 800, 700, 400]


def test_damaged_checkpoint_does_not_count_towards_keep(tmp_path: Path) -> None:
    for step in (100, 200, 300):
        commit(tmp_path, step)
    path = Path(commit(tmp_path, 400).uri) / "state.json"
    path.write_bytes(bytes(40))
    newest = commit(tmp_path, 500)
    messages = prune(tmp_path, newest, keep=2)
    assert [ref.step for ref in checkpoint.scan(str(tmp_path / "checkpoints"))] == [500, 400, 300]
    assert "state.json does not match" in messages[0]


def test_prune_deletes_unfinished_directories_up_to_the_newest(tmp_path: Path) -> None:
    for step, attempt in [(100, 1), (200, 1), (200, 2), (600, 1)]:
        (Path(commit(tmp_path, step, attempt).uri) / markers.NAME).unlink()
    commit(tmp_path, 300)
    prune(tmp_path, commit(tmp_path, 500), keep=2)
    directories = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert directories == ["step-000000300.attempt-1", "step-000000500.attempt-1", "step-000000600.attempt-1"]


def test_prune_deletes_earlier_attempts_at_a_step(tmp_path: Path) -> None:
    commit(tmp_path, 100, attempt=1)
    commit(tmp_path, 200, attempt=1)
    prune(tmp_path, commit(tmp_path, 200, attempt=2), keep=2)
    assert names(tmp_path) == ["step-000000200.attempt-2", "step-000000100.attempt-1"]


def test_prune_does_not_delete_checkpoints_of_another_run(tmp_path: Path) -> None:
    commit(tmp_path, 100, run_id="other")
    commit(tmp_path, 200)
    prune(tmp_path, commit(tmp_path, 300), keep=2)
    assert "step-000000100.attempt-1" in names(tmp_path)


def test_reader_lists_again_if_retention_deletes_its_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the newest is being read, two newer ones are committed and it is deleted."""
    commit(tmp_path, 100)
    download, calls = storage.download, []

    def delete_under_the_reader(uri: str, local_path: str, **options: object) -> None:
        if not calls:
            calls.append(uri)
            commit(tmp_path, 200)
            prune(tmp_path, commit(tmp_path, 300), keep=2)
        download(uri, local_path, **options)

    monkeypatch.setattr(storage, "download", delete_under_the_reader)
    restored = fetch_latest(tmp_path)
    assert restored.checkpoint.step == 300
    assert content(restored.path) == content(tmp_path / "local" / "300-1")


def test_fetched_copy_outlives_its_checkpoint(tmp_path: Path) -> None:
    committed = commit(tmp_path, 100)
    copy = checkpoint.fetch(committed, tmp_path / "into")
    checkpoint.delete_checkpoint(committed.uri)
    assert content(copy) == content(tmp_path / "local" / "100-1")


def test_file_damaged_during_download_is_read_once_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    committed = commit(tmp_path, 100)
    download, requested = storage.download, set()

    def damage_first_download(uri: str, local_path: str, **options: object) -> None:
        download(uri, local_path, **options)
        if uri not in requested:
            requested.add(uri)
            Path(local_path).write_bytes(b"other")

    monkeypatch.setattr(storage, "download", damage_first_download)
    assert content(checkpoint.fetch(committed, tmp_path / "into")) == content(tmp_path / "local" / "100-1")


def test_unreachable_storage_raises_instead_of_falling_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Falling back because of a network failure would silently repeat steps."""
    commit(tmp_path, 100)
    commit(tmp_path, 200)

    def unreachable(uri: str, local_path: str, **options: object) -> None:
        raise StorageError("no route to host")

    monkeypatch.setattr(storage, "download", unreachable)
    with pytest.raises(StorageError, match="no route"):
        fetch_latest(tmp_path)
    assert list((tmp_path / "into").iterdir()) == []
