"""The storage interface: the same behaviour on local paths, file:// URIs and S3."""

import errno
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from xmodal import storage
from xmodal.errors import StorageError
from xmodal.storage import transfer


@pytest.fixture(params=["local", "file", pytest.param("s3", marks=pytest.mark.s3)])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return a URI below which nothing is stored yet."""
    if request.param == "s3":
        return request.getfixturevalue("s3_root")
    return f"{'file://' if request.param == 'file' else ''}{tmp_path}/store"


def names_below(uri: str) -> list[str]:
    return [entry.uri.removeprefix(f"{uri}/") for entry in storage.list_files(uri)]


def no_space(*_: object) -> int:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class TestContract:
    """Properties that hold for a plain path, a file:// URI and a real S3 server."""

    @pytest.mark.parametrize("data", [b"", b"x", bytes(range(256)) * 400], ids=["empty", "one byte", "100 KB"])
    def test_read_returns_written_bytes(self, root: str, data: bytes) -> None:
        storage.write(f"{root}/a/b", data)
        assert storage.read(f"{root}/a/b") == data
        assert storage.stat(f"{root}/a/b").size == len(data)

    def test_read_of_a_range_equals_the_slice(self, root: str) -> None:
        data = os.urandom(1000)
        storage.write(f"{root}/x", data)
        for offset, length in [
            (0, 0),
            (0, 1),
            (0, 1000),
            (999, 1),
            (1000, 0),
            (17, 400),
            (0, None),
            (300, None),
        ]:
            end = None if length is None else offset + length
            assert storage.read(f"{root}/x", offset, length) == data[offset:end]
        assert storage.read(f"{root}/x", 1000) == b""

    @pytest.mark.parametrize(("offset", "length"), [(0, 11), (5, 6), (10, 1), (11, 1), (99, 1), (11, None)])
    def test_read_beyond_the_end_raises(self, root: str, offset: int, length: int) -> None:
        storage.write(f"{root}/x", b"0123456789")
        with pytest.raises(storage.ShortRead, match=r"/x ends at byte 10"):
            storage.read(f"{root}/x", offset, length)

    def test_large_file_is_transferred_in_parts(
        self, root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(transfer, "PART_BYTES", 5 << 20)  # the smallest part that S3 allows
        data = os.urandom((12 << 20) + 7)
        (tmp_path / "here").write_bytes(data)
        storage.upload(f"{tmp_path}/here", f"{root}/uploaded")
        storage.write(f"{root}/written", data)
        for name in ("uploaded", "written"):
            storage.download(f"{root}/{name}", f"{tmp_path}/back/{name}")
            assert (tmp_path / "back" / name).read_bytes() == data
            assert storage.read(f"{root}/{name}") == data
            assert storage.read(f"{root}/{name}", 3, 11 << 20) == data[3 : 3 + (11 << 20)]
        assert names_below(root) == ["uploaded", "written"]

    def test_empty_file_can_be_uploaded_and_downloaded(self, root: str, tmp_path: Path) -> None:
        (tmp_path / "here").touch()
        storage.upload(f"{tmp_path}/here", f"{root}/x")
        storage.download(f"{root}/x", f"{tmp_path}/back")
        assert (tmp_path / "back").read_bytes() == b""

    def test_overwriting_changes_content_and_etag(self, root: str) -> None:
        storage.write(f"{root}/x", b"old")
        before = storage.stat(f"{root}/x")
        storage.write(f"{root}/x", b"new")
        assert storage.read(f"{root}/x") == b"new"
        assert storage.stat(f"{root}/x").etag != before.etag
        assert storage.read(f"{root}/x", etag=storage.stat(f"{root}/x").etag) == b"new"
        with pytest.raises(storage.FileChanged, match=r"/x.*index"):
            storage.read(f"{root}/x", 0, 1, etag=before.etag)

    @pytest.mark.parametrize(
        "name",
        [
            "a b",
            "é/ü",
            "x%2Fy",
            "%41",
            "q?versionId=3",
            "#h",
            "+p",
            "~",
            "$HOME",
            "日本",
            "*[a]",
            "a&b=c;d'e\"f\\g",
        ],
    )
    def test_names_are_literal(self, root: str, name: str) -> None:
        storage.write(f"{root}/{name}", name.encode())
        assert names_below(root) == [name]
        assert storage.read(storage.list_files(root)[0].uri) == name.encode()
        assert storage.stat(f"{root}/{name}").uri == f"{root}/{name}"
        storage.delete(f"{root}/{name}")
        assert not storage.exists(root)

    def test_listing_is_sorted_and_recursive(self, root: str) -> None:
        for name in ("b", "a/2", "a/10", "a-b", "Z", "é", "a.b/c/d"):
            storage.write(f"{root}/{name}", b"1234"[: len(name)])
        assert names_below(root) == sorted(["b", "a/2", "a/10", "a-b", "Z", "é", "a.b/c/d"])
        assert [e.uri for e in storage.list_files(f"{root}/a/")] == [f"{root}/a/10", f"{root}/a/2"]
        assert all(storage.stat(entry.uri) == entry for entry in storage.list_files(root))

    def test_listing_of_a_file_is_the_file_itself(self, root: str) -> None:
        storage.write(f"{root}/x", b"1")
        storage.write(f"{root}/xy", b"2")
        assert storage.list_files(f"{root}/x") == [storage.stat(f"{root}/x")]

    def test_listing_shows_new_and_deleted_files_at_once(self, root: str) -> None:
        for turn in range(5):
            storage.write(f"{root}/{turn}", b"")
            assert str(turn) in names_below(root)
            storage.delete(f"{root}/{turn}")
            assert not storage.exists(f"{root}/{turn}")

    def test_exists_is_true_for_files_and_directories_with_files(self, root: str) -> None:
        assert not storage.exists(root)
        storage.write(f"{root}/a/b", b"")
        assert storage.exists(f"{root}/a/b") and storage.exists(f"{root}/a") and storage.exists(f"{root}/a/")
        assert not storage.exists(f"{root}/a/bc") and not storage.exists(f"{root}/A")

    def test_delete_is_idempotent(self, root: str) -> None:
        for name in ("t/1", "t/u/2", "tt", "keep"):
            storage.write(f"{root}/{name}", b"")
        for _ in range(2):
            storage.delete(f"{root}/tt")
            storage.delete_tree(f"{root}/t")
            assert names_below(root) == ["keep"]

    @pytest.mark.parametrize(
        "function",
        [
            storage.read,
            storage.stat,
            storage.list_files,
            lambda uri: storage.download(uri, "/tmp/xmodal-none"),
        ],
        ids=["read", "stat", "list", "download"],
    )
    def test_missing_file_raises_not_found(self, root: str, function) -> None:
        with pytest.raises(storage.NotFound, match=r"store/none|/none: "):
            function(f"{root}/none")
        assert not Path("/tmp/xmodal-none").exists()

    def test_directory_is_not_a_file(self, root: str) -> None:
        storage.write(f"{root}/a/b", b"")
        with pytest.raises(StorageError, match="/a"):
            storage.stat(f"{root}/a")
        with pytest.raises(StorageError, match="/a"):
            storage.read(f"{root}/a")
        with pytest.raises(StorageError, match="names a directory"):
            storage.write(f"{root}/a/", b"")

    def test_upload_of_a_missing_file_raises_and_stores_nothing(self, root: str, tmp_path: Path) -> None:
        with pytest.raises(StorageError, match="absent"):
            storage.upload(f"{tmp_path}/absent", f"{root}/x")
        assert not storage.exists(root)

    def test_upload_of_a_directory_raises(self, root: str, tmp_path: Path) -> None:
        (tmp_path / "directory").mkdir()
        with pytest.raises(StorageError, match=r"directory: Is a directory; name a file"):
            storage.upload(f"{tmp_path}/directory", f"{root}/x")
        assert not storage.exists(root)

    def test_download_to_a_full_disk_raises_and_leaves_nothing(
        self, root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        storage.write(f"{root}/x", b"1234")
        monkeypatch.setattr("xmodal.storage.local.os.pwrite", no_space)
        with pytest.raises(StorageError, match=r"back/x: No space left on device; free some space"):
            storage.download(f"{root}/x", f"{tmp_path}/back/x")
        assert list((tmp_path / "back").iterdir()) == []

    def test_check_passes_and_leaves_nothing(self, root: str) -> None:
        storage.check(f"{root}/new/run", writable=True)
        assert not storage.exists(root)
        storage.write(f"{root}/x", b"")
        storage.check(root, writable=False)
        storage.check(f"{root}/x", writable=False)
        storage.check(root, writable=True)
        assert names_below(root) == ["x"]

    def test_check_for_reading_raises_if_nothing_is_stored(self, root: str) -> None:
        with pytest.raises(storage.NotFound, match="check the"):
            storage.check(f"{root}/none", writable=False)

    def test_threads_can_read_concurrently(self, root: str) -> None:
        data = os.urandom(64_000)
        storage.write(f"{root}/x", data)
        wrong: list[int] = []

        def work(first: int) -> None:
            offsets = range(first, 64_000, 16_000)
            wrong.extend(o for o in offsets if storage.read(f"{root}/x", o, 1000) != data[o : o + 1000])

        threads = [threading.Thread(target=work, args=(1000 * n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []


class TestLocal:
    def test_reader_sees_the_old_or_the_new_file(self, tmp_path: Path) -> None:
        path, contents = f"{tmp_path}/x", {bytes([n]) * 200_000 for n in range(2)}
        storage.write(path, min(contents))
        stop = threading.Event()
        observed: set[bytes] = set()

        def read_repeatedly() -> None:
            while not stop.is_set():
                observed.add(storage.read(path))

        reader = threading.Thread(target=read_repeatedly)
        reader.start()
        for turn in range(30):
            storage.write(path, sorted(contents)[turn % 2])
        stop.set()
        reader.join()
        assert observed <= contents

    def test_killed_write_is_not_listed(self, tmp_path: Path) -> None:
        storage.write(f"{tmp_path}/x", b"old")
        writer = (
            "import os, signal; from xmodal.storage import local\n"
            "local.os.fsync = lambda descriptor: os.kill(os.getpid(), signal.SIGKILL)\n"
            f"from xmodal import storage; storage.write({f'{tmp_path}/x'!r}, b'half')"
        )
        subprocess.run([sys.executable, "-c", writer], check=False)
        assert len(list(tmp_path.iterdir())) == 2
        assert storage.read(f"{tmp_path}/x") == b"old" and names_below(str(tmp_path)) == ["x"]

    def test_failed_write_raises_and_removes_its_partial_file(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(StorageError, match=r"file/x: .*is a file"):
            storage.write(f"{tmp_path}/file/x", b"")
        (tmp_path / "directory").mkdir()
        with pytest.raises(StorageError, match="directory"):
            storage.write(f"{tmp_path}/directory", b"")
        assert sorted(path.name for path in tmp_path.iterdir()) == ["directory", "file"]

    def test_write_to_a_full_disk_leaves_the_old_file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        storage.write(f"{tmp_path}/x", b"old")

        monkeypatch.setattr("xmodal.storage.local.os.pwrite", no_space)
        with pytest.raises(StorageError, match=r"/x: No space left on device; free some space"):
            storage.write(f"{tmp_path}/x", b"new")
        assert storage.read(f"{tmp_path}/x") == b"old" and [p.name for p in tmp_path.iterdir()] == ["x"]

    def test_links_are_followed_once_and_broken_links_raise(self, tmp_path: Path) -> None:
        storage.write(f"{tmp_path}/corpus/a/x", b"1")
        storage.write(f"{tmp_path}/elsewhere/y", b"2")
        (tmp_path / "corpus/a/loop").symlink_to(tmp_path / "corpus")
        (tmp_path / "corpus/linked").symlink_to(tmp_path / "elsewhere")
        assert names_below(f"{tmp_path}/corpus") == ["a/x", "linked/y"]
        (tmp_path / "corpus/broken").symlink_to(tmp_path / "nothing")
        with pytest.raises(StorageError, match="broken is a link to nothing"):
            storage.list_files(f"{tmp_path}/corpus")

    def test_check_of_a_path_through_a_file_raises(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(StorageError, match=r"is a file"):
            storage.check(f"{tmp_path}/file/run", writable=True)

    def test_check_for_writing_passes_for_an_existing_file(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "page.html").write_bytes(b"old")
        monkeypatch.chdir(tmp_path)
        for uri in ("page.html", str(tmp_path / "page.html")):
            storage.check(uri, writable=True)
        assert [path.name for path in tmp_path.iterdir()] == ["page.html"]

    def test_check_for_reading_an_empty_directory_raises_like_s3(self, tmp_path: Path) -> None:
        with pytest.raises(storage.NotFound, match="no file is stored there"):
            storage.check(str(tmp_path), writable=False)

    def test_file_mode_follows_the_umask(self, tmp_path: Path) -> None:
        storage.write(f"{tmp_path}/x", b"")
        (tmp_path / "plain").touch()
        assert (tmp_path / "x").stat().st_mode == (tmp_path / "plain").stat().st_mode
