"""Storage: what is written comes back, alike on local paths and on S3, whatever the server does in between."""

import errno
import os
import pickle
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path

import boto3
import pytest
from hypothesis import given
from hypothesis import strategies as st
from s3 import S3Server

from xmodal import storage
from xmodal.errors import StorageError
from xmodal.storage import StorageOptions, retry, transfer

SECRET = "canary-5ecret"


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "BACKOFF_S", 0.01)


@pytest.fixture
def s3_root(s3_server: S3Server) -> str:
    return f"{s3_server.bucket_uri}/{uuid.uuid4().hex[:8]}"


@pytest.fixture(params=["local", "file", pytest.param("s3", marks=pytest.mark.s3)])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A place where nothing is stored yet."""
    if request.param == "s3":
        return request.getfixturevalue("s3_root")
    return f"{'file://' if request.param == 'file' else ''}{tmp_path}/store"


def names_below(uri: str) -> list[str]:
    return [entry.uri.removeprefix(f"{uri}/") for entry in storage.list_files(uri)]


def no_space(*_: object) -> int:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class TestContract:
    """Every statement holds for a plain path, a file:// URI and a real S3 server."""

    @pytest.mark.parametrize(
        "data", [b"", b"x", bytes(range(256)) * 400], ids=["empty", "one byte", "100 KB"]
    )
    def test_written_bytes_come_back(self, root: str, data: bytes) -> None:
        storage.write(f"{root}/a/b", data)
        assert storage.read(f"{root}/a/b") == data
        assert storage.stat(f"{root}/a/b").size == len(data)

    def test_any_range_is_the_slice_of_the_whole(self, root: str) -> None:
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
    def test_a_file_that_ends_early_is_never_delivered_short(
        self, root: str, offset: int, length: int
    ) -> None:
        storage.write(f"{root}/x", b"0123456789")
        with pytest.raises(storage.ShortRead, match=r"/x ends at byte 10"):
            storage.read(f"{root}/x", offset, length)

    def test_a_large_file_passes_in_parts(
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

    def test_an_empty_file_can_be_uploaded_and_downloaded(self, root: str, tmp_path: Path) -> None:
        (tmp_path / "here").touch()
        storage.upload(f"{tmp_path}/here", f"{root}/x")
        storage.download(f"{root}/x", f"{tmp_path}/back")
        assert (tmp_path / "back").read_bytes() == b""

    def test_writing_again_replaces_the_file_and_changes_its_etag(self, root: str) -> None:
        storage.write(f"{root}/x", b"old")
        before = storage.stat(f"{root}/x")
        storage.write(f"{root}/x", b"new")
        assert storage.read(f"{root}/x") == b"new"
        assert storage.stat(f"{root}/x").etag != before.etag
        assert storage.read(f"{root}/x", etag=storage.stat(f"{root}/x").etag) == b"new"
        with pytest.raises(storage.Changed, match=r"/x.*index"):
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

    def test_a_listing_is_sorted_recursive_and_ignores_a_trailing_slash(self, root: str) -> None:
        for name in ("b", "a/2", "a/10", "a-b", "Z", "é", "a.b/c/d"):
            storage.write(f"{root}/{name}", b"1234"[: len(name)])
        assert names_below(root) == sorted(["b", "a/2", "a/10", "a-b", "Z", "é", "a.b/c/d"])
        assert [e.uri for e in storage.list_files(f"{root}/a/")] == [f"{root}/a/10", f"{root}/a/2"]
        assert all(storage.stat(entry.uri) == entry for entry in storage.list_files(root))

    def test_a_file_lists_itself_and_not_its_namesakes(self, root: str) -> None:
        storage.write(f"{root}/x", b"1")
        storage.write(f"{root}/xy", b"2")
        assert storage.list_files(f"{root}/x") == [storage.stat(f"{root}/x")]

    def test_a_new_file_is_in_the_next_listing_and_a_deleted_one_is_not(self, root: str) -> None:
        for turn in range(5):
            storage.write(f"{root}/{turn}", b"")
            assert str(turn) in names_below(root)
            storage.delete(f"{root}/{turn}")
            assert not storage.exists(f"{root}/{turn}")

    def test_exists_is_true_for_files_and_for_what_holds_files(self, root: str) -> None:
        assert not storage.exists(root)
        storage.write(f"{root}/a/b", b"")
        assert storage.exists(f"{root}/a/b") and storage.exists(f"{root}/a") and storage.exists(f"{root}/a/")
        assert not storage.exists(f"{root}/a/bc") and not storage.exists(f"{root}/A")

    def test_deleting_is_idempotent(self, root: str) -> None:
        for name in ("t/1", "t/u/2", "tt", "keep"):
            storage.write(f"{root}/{name}", b"")
        for _ in range(2):
            storage.delete(f"{root}/tt")
            storage.delete_tree(f"{root}/t")
            assert names_below(root) == ["keep"]

    @pytest.mark.parametrize(
        "use",
        [
            storage.read,
            storage.stat,
            storage.list_files,
            lambda uri: storage.download(uri, "/tmp/xmodal-none"),
        ],
        ids=["read", "stat", "list", "download"],
    )
    def test_a_missing_file_is_named(self, root: str, use) -> None:
        with pytest.raises(storage.NotFound, match=r"store/none|/none: "):
            use(f"{root}/none")
        assert not Path("/tmp/xmodal-none").exists()

    def test_a_directory_is_not_a_file(self, root: str) -> None:
        storage.write(f"{root}/a/b", b"")
        with pytest.raises(StorageError, match="/a"):
            storage.stat(f"{root}/a")
        with pytest.raises(StorageError, match="/a"):
            storage.read(f"{root}/a")
        with pytest.raises(StorageError, match="names a directory"):
            storage.write(f"{root}/a/", b"")

    def test_a_file_that_cannot_be_uploaded_is_named_and_stores_nothing(
        self, root: str, tmp_path: Path
    ) -> None:
        with pytest.raises(StorageError, match="absent"):
            storage.upload(f"{tmp_path}/absent", f"{root}/x")
        assert not storage.exists(root)

    def test_a_directory_cannot_be_uploaded(self, root: str, tmp_path: Path) -> None:
        (tmp_path / "directory").mkdir()
        with pytest.raises(StorageError, match=r"directory: Is a directory; name a file"):
            storage.upload(f"{tmp_path}/directory", f"{root}/x")
        assert not storage.exists(root)

    def test_a_download_to_a_full_disk_names_the_local_path_and_leaves_nothing(
        self, root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        storage.write(f"{root}/x", b"1234")
        monkeypatch.setattr("xmodal.storage.local.os.pwrite", no_space)
        with pytest.raises(StorageError, match=r"back/x: No space left on device; free some space"):
            storage.download(f"{root}/x", f"{tmp_path}/back/x")
        assert list((tmp_path / "back").iterdir()) == []

    def test_check_passes_where_the_work_can_be_done_and_leaves_nothing(self, root: str) -> None:
        storage.check(f"{root}/new/run", writable=True)
        assert not storage.exists(root)
        storage.write(f"{root}/x", b"")
        storage.check(root, writable=False)
        storage.check(f"{root}/x", writable=False)
        storage.check(root, writable=True)
        assert names_below(root) == ["x"]

    def test_check_to_read_needs_something_to_read(self, root: str) -> None:
        with pytest.raises(storage.NotFound, match="check the"):
            storage.check(f"{root}/none", writable=False)

    def test_threads_read_side_by_side(self, root: str) -> None:
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


class TestUris:
    @pytest.mark.parametrize(
        "uri", ["gs://b/k", "http://h/x", "pipe://cat", "S3://b/k", "s3a://b/k", "hdfs://x"]
    )
    def test_only_s3_and_file_are_supported(self, uri: str) -> None:
        for use in (storage.read, storage.list_files, lambda u: storage.check(u, writable=True)):
            with pytest.raises(
                StorageError, match=r"not supported; use s3://bucket/key, file:///path or a plain"
            ):
                use(uri)

    @pytest.mark.parametrize(
        "uri",
        ["", "a\0b", "s3:/b/k", "s3:b/k", "s3://", "s3:///k", "s3://b c/k", "file://host/x", "s3://b/\ud800"],
    )
    def test_a_malformed_uri_is_refused_with_the_mend(self, uri: str) -> None:
        with pytest.raises(StorageError, match=r"use|write|rename"):
            storage.exists(uri)

    @pytest.mark.parametrize("part", ["/etc", "..", "a/../b", "../x", "a\0"])
    def test_join_never_leads_out(self, part: str) -> None:
        with pytest.raises(StorageError, match="is not a name below"):
            storage.join("s3://b/corpus", part)

    @given(st.lists(st.text("ab./é %", max_size=6), max_size=4))
    def test_join_is_associative_and_stays_below(self, parts: list[str]) -> None:
        base = "s3://b/corpus"
        try:
            joined = storage.join(base, *parts)
        except StorageError:
            return
        step = base
        for part in parts:
            step = storage.join(step, part)
        assert joined == step and (joined == base or joined.startswith(f"{base}/"))

    def test_join_adds_one_slash(self) -> None:
        assert storage.join("s3://b", "k") == storage.join("s3://b/", "k") == "s3://b/k"
        assert storage.join("/", "k") == "/k" and storage.join("file:///", "k") == "file:///k"
        assert storage.join("/a", "", "b/c") == "/a/b/c" and storage.join("/a") == "/a"

    def test_the_environment_is_never_expanded(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("HOME", "/elsewhere")
        storage.write("$HOME/~/x", b"")
        assert (tmp_path / "$HOME/~/x").exists()

    @pytest.mark.parametrize(
        "root", ["s3://bucket", "s3://bucket/", "s3://bucket//", "/", "file:///", "/../"]
    )
    def test_a_whole_bucket_or_file_system_is_never_deleted(self, root: str) -> None:
        with pytest.raises(StorageError, match="name a"):
            storage.delete_tree(root)


class TestLocal:
    def test_a_reader_sees_the_old_or_the_new_file_and_nothing_else(self, tmp_path: Path) -> None:
        path, contents = f"{tmp_path}/x", {bytes([n]) * 200_000 for n in range(2)}
        storage.write(path, min(contents))
        stop = threading.Event()
        seen: set[bytes] = set()

        def look() -> None:
            while not stop.is_set():
                seen.add(storage.read(path))

        reader = threading.Thread(target=look)
        reader.start()
        for turn in range(30):
            storage.write(path, sorted(contents)[turn % 2])
        stop.set()
        reader.join()
        assert seen <= contents

    def test_an_interrupted_write_leaves_no_trace_in_a_listing(self, tmp_path: Path) -> None:
        storage.write(f"{tmp_path}/x", b"old")
        writer = (
            "import os, signal; from xmodal.storage import local\n"
            "local.os.fsync = lambda descriptor: os.kill(os.getpid(), signal.SIGKILL)\n"
            f"from xmodal import storage; storage.write({f'{tmp_path}/x'!r}, b'half')"
        )
        subprocess.run([sys.executable, "-c", writer], check=False)
        assert len(list(tmp_path.iterdir())) == 2
        assert storage.read(f"{tmp_path}/x") == b"old" and names_below(str(tmp_path)) == ["x"]

    def test_a_failed_write_names_the_file_and_removes_its_part(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(StorageError, match=r"file/x: .*is a file"):
            storage.write(f"{tmp_path}/file/x", b"")
        (tmp_path / "directory").mkdir()
        with pytest.raises(StorageError, match="directory"):
            storage.write(f"{tmp_path}/directory", b"")
        assert sorted(path.name for path in tmp_path.iterdir()) == ["directory", "file"]

    def test_a_full_disk_keeps_the_old_file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        storage.write(f"{tmp_path}/x", b"old")

        monkeypatch.setattr("xmodal.storage.local.os.pwrite", no_space)
        with pytest.raises(StorageError, match=r"/x: No space left on device; free some space"):
            storage.write(f"{tmp_path}/x", b"new")
        assert storage.read(f"{tmp_path}/x") == b"old" and [p.name for p in tmp_path.iterdir()] == ["x"]

    def test_links_are_followed_once_and_a_broken_one_is_named(self, tmp_path: Path) -> None:
        storage.write(f"{tmp_path}/corpus/a/x", b"1")
        storage.write(f"{tmp_path}/elsewhere/y", b"2")
        (tmp_path / "corpus/a/loop").symlink_to(tmp_path / "corpus")
        (tmp_path / "corpus/linked").symlink_to(tmp_path / "elsewhere")
        assert names_below(f"{tmp_path}/corpus") == ["a/x", "linked/y"]
        (tmp_path / "corpus/broken").symlink_to(tmp_path / "nothing")
        with pytest.raises(StorageError, match="broken is a link to nothing"):
            storage.list_files(f"{tmp_path}/corpus")

    def test_check_refuses_a_path_through_a_file(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(StorageError, match=r"is a file"):
            storage.check(f"{tmp_path}/file/run", writable=True)

    def test_check_to_read_refuses_an_empty_directory_as_s3_would(self, tmp_path: Path) -> None:
        with pytest.raises(storage.NotFound, match="no file is stored there"):
            storage.check(str(tmp_path), writable=False)

    def test_the_mode_follows_the_umask(self, tmp_path: Path) -> None:
        storage.write(f"{tmp_path}/x", b"")
        (tmp_path / "plain").touch()
        assert (tmp_path / "x").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.s3
class TestS3:
    def test_a_listing_of_more_than_one_page_is_complete(self, s3_root: str) -> None:
        bucket, prefix = s3_root.removeprefix("s3://").split("/")
        client, names = boto3.client("s3"), [f"{n:02}" for n in range(100)]

        def put(some: list[str]) -> None:
            for name in some:
                client.put_object(Bucket=bucket, Key=f"{prefix}/{name}", Body=name.encode())

        threads = [threading.Thread(target=put, args=(names[n::4],)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert names_below(s3_root) == names
        storage.delete_tree(s3_root)
        assert not storage.exists(s3_root)

    def test_keys_that_no_file_system_has_are_kept_apart(self, s3_root: str) -> None:
        names = ["a//b", "a/b", "a/./b", "a/../b", "/a", "a/b/c"]
        for name in names:
            storage.write(f"{s3_root}/{name}", name.encode())
        assert names_below(s3_root) == sorted(names)
        assert [storage.read(f"{s3_root}/{name}").decode() for name in names] == names

    def test_directory_markers_are_not_files_but_are_deleted_with_their_tree(self, s3_root: str) -> None:
        bucket, prefix = s3_root.removeprefix("s3://").split("/")
        client = boto3.client("s3")
        client.put_object(Bucket=bucket, Key=f"{prefix}/dir/", Body=b"")
        storage.write(f"{s3_root}/dir/x", b"1")
        assert names_below(s3_root) == ["dir/x"]
        storage.delete_tree(s3_root)
        assert client.list_objects_v2(Bucket=bucket, Prefix=prefix)["KeyCount"] == 0

    def test_a_failed_upload_leaves_neither_object_nor_parts(
        self, s3_server: S3Server, s3_root: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(transfer, "PART_BYTES", 5 << 20)
        with (
            s3_server.faults([{"kind": "forbidden", "method": "PUT", "skip": 1}]),
            pytest.raises(StorageError, match="AccessDenied"),
        ):
            storage.write(f"{s3_root}/x", bytes(16 << 20))
        assert not storage.exists(s3_root)
        bucket = s3_root.removeprefix("s3://").split("/")[0]
        assert "Uploads" not in boto3.client("s3").list_multipart_uploads(Bucket=bucket)

    def test_a_forked_process_reads_with_a_client_of_its_own(self, s3_root: str) -> None:
        storage.write(f"{s3_root}/x", b"shared")
        for _ in range(2):
            child = os.fork()
            if child == 0:
                os._exit(0 if storage.read(f"{s3_root}/x") == b"shared" else 1)
            assert storage.read(f"{s3_root}/x") == b"shared"
            assert os.waitpid(child, 0)[1] == 0


@pytest.mark.s3
class TestFaults:
    @pytest.mark.parametrize("refusals", [2, 4, 8])
    def test_an_object_is_read_through_any_number_of_refusals_below_the_limit(
        self, s3_server: S3Server, s3_root: str, refusals: int
    ) -> None:
        data = os.urandom(50_000)
        storage.write(f"{s3_root}/x", data)
        before = storage.retries.by_cause().get("busy", 0)
        with s3_server.faults([{"kind": "slow_down", "key": "*/x", "first": refusals}]) as faults:
            assert storage.read(f"{s3_root}/x", 10, 40_000) == data[10:40_010]
            assert faults.fired == [refusals]
        assert storage.retries.by_cause()["busy"] == before + refusals

    def test_refusals_without_end_are_reported_with_uri_and_cause(
        self, s3_server: S3Server, s3_root: str
    ) -> None:
        storage.write(f"{s3_root}/x", b"")
        with (
            s3_server.faults([{"kind": "slow_down", "key": "*/x"}]) as faults,
            pytest.raises(StorageError, match=rf"^{s3_root}/x: .*\(SlowDown\); .*endpoint http://127"),
        ):
            storage.read(f"{s3_root}/x")
        assert faults.fired == [retry.ATTEMPTS] and retry.ATTEMPTS >= 8

    @pytest.mark.parametrize("cut", [0, 1, 30_000, 49_999])
    def test_a_cut_body_is_never_delivered(self, s3_server: S3Server, s3_root: str, cut: int) -> None:
        data = os.urandom(50_000)
        storage.write(f"{s3_root}/x", data)
        with s3_server.faults([{"kind": "cut", "key": "*/x", "bytes": cut, "first": 3}]) as faults:
            assert storage.read(f"{s3_root}/x") == data
            assert faults.fired == [3]

    def test_a_download_survives_a_mixture_of_faults(
        self, s3_server: S3Server, s3_root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        data = os.urandom(1_000_000)
        storage.write(f"{s3_root}/x", data)
        monkeypatch.setattr(transfer, "PART_BYTES", 50_000)
        plan = [
            {"kind": "slow_down", "method": "GET", "share": 0.1},
            {"kind": "cut", "method": "GET", "bytes": 20_000, "share": 0.1},
            {"kind": "server_error", "method": "GET", "share": 0.05},
        ]
        with s3_server.faults(plan) as faults:
            storage.download(f"{s3_root}/x", f"{tmp_path}/x")
            assert sum(faults.fired) > 0
        assert (tmp_path / "x").read_bytes() == data

    @pytest.mark.parametrize("method", ["PUT", "POST", "HEAD", "DELETE", "GET"])
    def test_every_kind_of_request_is_repeated(
        self, s3_server: S3Server, s3_root: str, monkeypatch: pytest.MonkeyPatch, method: str
    ) -> None:
        monkeypatch.setattr(transfer, "PART_BYTES", 5 << 20)
        data = os.urandom(6 << 20)
        with s3_server.faults([{"kind": "server_error", "method": method, "first": 2}]) as faults:
            storage.write(f"{s3_root}/x", data)  # POST starts and completes an upload, PUT sends its parts
            assert storage.read(f"{s3_root}/x") == data
            assert storage.stat(f"{s3_root}/x").size == len(data)
            assert names_below(s3_root) == ["x"]
            storage.delete(f"{s3_root}/x")
            assert faults.fired == [2]

    @pytest.mark.parametrize("kind", ["delay", "stall"])
    def test_a_stall_ends_at_the_read_timeout(
        self, s3_server: S3Server, s3_root: str, monkeypatch: pytest.MonkeyPatch, kind: str
    ) -> None:
        monkeypatch.setattr("xmodal.storage.session.READ_TIMEOUT_S", 0.5)
        storage.write(f"{s3_root}/x", b"0123456789")
        plan = [{"kind": kind, "key": "*/x", "method": "GET", "seconds": 30, "bytes": 5, "first": 2}]
        started = time.monotonic()
        with s3_server.faults(plan) as faults:
            assert storage.read(f"{s3_root}/x") == b"0123456789"
            assert faults.fired == [2]
        assert 1.0 <= time.monotonic() - started < 10

    def test_a_read_outlives_a_server_that_is_down(
        self, s3_server: S3Server, s3_root: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(retry, "BACKOFF_S", 0.1)
        storage.write(f"{s3_root}/x", b"still here")
        found: list[bytes] = []
        reader = threading.Thread(target=lambda: found.append(storage.read(f"{s3_root}/x")))
        before = storage.retries.by_cause().get("connection", 0)
        with s3_server.down():
            reader.start()
            while storage.retries.by_cause().get("connection", 0) < before + 2:
                time.sleep(0.01)
        reader.join(60)
        assert found == [b"still here"]

    def test_expired_credentials_are_fetched_anew(self, s3_server: S3Server, s3_root: str) -> None:
        storage.write(f"{s3_root}/x", b"1")
        with s3_server.faults([{"kind": "expired_token", "key": "*/x", "first": 2}]) as faults:
            assert storage.read(f"{s3_root}/x") == b"1"
            assert faults.fired == [2]

    @pytest.mark.parametrize(("kind", "says"), [("not_found", "NoSuchKey"), ("forbidden", "AccessDenied")])
    def test_what_no_retry_can_mend_is_reported_at_once(
        self, s3_server: S3Server, s3_root: str, kind: str, says: str
    ) -> None:
        storage.write(f"{s3_root}/x", b"1")
        with s3_server.faults([{"kind": kind, "key": "*/x", "first": 1}]) as faults:
            with pytest.raises(StorageError, match=says):
                storage.read(f"{s3_root}/x")
            assert faults.fired == [1]
            assert storage.read(f"{s3_root}/x") == b"1"

    def test_an_object_replaced_between_two_parts_is_not_mixed(
        self, s3_server: S3Server, s3_root: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(transfer, "PART_BYTES", 1000)
        monkeypatch.setattr(transfer, "AT_ONCE", 1)
        storage.write(f"{s3_root}/x", b"a" * 900)
        boto3.client("s3").put_object(
            Bucket=s3_root.split("/")[2], Key=f"{s3_root.split('/')[3]}/x", Body=b"a" * 3000
        )
        failed: list[BaseException] = []

        def read() -> None:
            try:
                storage.read(f"{s3_root}/x")
            except StorageError as error:
                failed.append(error)

        with s3_server.faults(
            [{"kind": "delay", "key": "*/x", "method": "GET", "skip": 1, "seconds": 1}]
        ) as faults:
            reader = threading.Thread(target=read)
            reader.start()
            while not sum(faults.fired):
                time.sleep(0.01)
            storage.write(f"{s3_root}/x", b"b" * 900)
            reader.join(30)
        assert [type(error) for error in failed] == [storage.Changed]

    def test_the_waits_outlast_an_outage_of_a_minute(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.undo()
        for draw in (0.0, 1.0):
            monkeypatch.setattr(
                retry.random, "uniform", lambda low, high, draw=draw: low + draw * (high - low)
            )
            waits = [retry.backoff_s(attempt) for attempt in range(1, retry.ATTEMPTS)]
            assert sum(waits) > 60 and max(waits) <= 32


@pytest.mark.s3
class TestCheck:
    """One StorageError, in at most 10 s, that names the URI, the place, the credentials tried, and the mend."""

    def refused(self, uri: str, *, writable: bool, options: StorageOptions = StorageOptions()) -> str:  # noqa: B008
        started = time.monotonic()
        with pytest.raises(StorageError) as caught:
            storage.check(uri, writable=writable, options=options)
        assert time.monotonic() - started < 10
        message = str(caught.value)
        assert uri in message and SECRET not in message and "\n" not in message
        return message

    @pytest.mark.parametrize("writable", [True, False])
    def test_a_missing_bucket(self, s3_server: S3Server, writable: bool) -> None:
        message = self.refused("s3://no-such-bucket/run", writable=writable)
        assert "the bucket does not exist" in message and "create it or correct its name" in message
        assert f"endpoint {s3_server.env['AWS_ENDPOINT_URL']}, region us-east-1" in message
        assert "credentials: environment variable AWS_ACCESS_KEY_ID" in message

    @pytest.mark.parametrize("name", ["AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID"])
    def test_a_wrong_key(self, s3_root: str, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        monkeypatch.setenv(name, SECRET)
        message = self.refused(s3_root, writable=True)
        assert "refuses the secret key" in message and "check AWS_ACCESS_KEY_ID" in message
        monkeypatch.undo()
        storage.check(s3_root, writable=True)

    def test_no_credentials(self, s3_root: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        message = self.refused(s3_root, writable=True)
        assert "there are no credentials" in message and "credentials: none found" in message

    def test_half_a_pair_of_credentials(self, s3_root: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
        assert "the credentials are incomplete" in self.refused(s3_root, writable=True)

    def test_anonymous_access_to_a_private_bucket(self, s3_root: str) -> None:
        message = self.refused(s3_root, writable=False, options=StorageOptions(anonymous=True))
        assert "refuses unsigned requests" in message and "credentials: anonymous" in message

    @pytest.mark.parametrize("through", ["option", "environment"])
    def test_an_unknown_profile(self, s3_root: str, monkeypatch: pytest.MonkeyPatch, through: str) -> None:
        options = StorageOptions(profile="team" if through == "option" else None)
        if through == "environment":
            monkeypatch.setenv("AWS_PROFILE", "team")
        message = self.refused(s3_root, writable=True, options=options)
        assert "have no such profile" in message and "credentials: profile 'team'" in message

    def test_the_keys_of_a_profile(
        self, s3_server: S3Server, s3_root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        keys = "aws_access_key_id = {}\naws_secret_access_key = {}\n"
        good, bad = keys.format("test:tester", "testing"), keys.format("test:tester", SECRET)
        (tmp_path / "credentials").write_text(f"[good]\n{good}[bad]\n{bad}")
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", f"{tmp_path}/credentials")
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        storage.check(s3_root, writable=True, options=StorageOptions(profile="good"))
        message = self.refused(s3_root, writable=True, options=StorageOptions(profile="bad"))
        assert "refuses the secret key" in message and "credentials: profile 'bad'" in message

    def test_a_refused_connection(self, s3_root: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        message = self.refused(s3_root, writable=True)
        assert "nothing answers at the endpoint" in message and "endpoint http://127.0.0.1:9," in message

    def test_an_endpoint_option_wins_over_the_environment(self, s3_root: str) -> None:
        options = StorageOptions(endpoint="http://127.0.0.1:9", region="eu-west-7")
        message = self.refused(s3_root, writable=False, options=options)
        assert "endpoint http://127.0.0.1:9, region eu-west-7" in message

    def test_a_silent_server(
        self, s3_server: S3Server, s3_root: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("xmodal.storage.s3.CHECK_LIMIT_S", 1.0)
        with s3_server.faults([{"kind": "delay", "seconds": 3}]):
            assert "does not answer in time" in self.refused(s3_root, writable=True)

    def test_a_bucket_without_the_right_to_write(self, s3_server: S3Server, s3_root: str) -> None:
        with s3_server.faults([{"kind": "forbidden", "method": "PUT"}]):
            message = self.refused(s3_root, writable=True)
        assert "may not do this (AccessDenied)" in message and "s3:PutObject" in message

    def test_an_endpoint_that_is_no_url(self, s3_root: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_ENDPOINT_URL", "nonsense")
        assert "the endpoint is not a URL" in self.refused(s3_root, writable=True)
        with pytest.raises(StorageError, match="is not a URL; write http"):
            StorageOptions(endpoint="nonsense")


@pytest.mark.s3
class TestSecrets:
    def test_no_secret_travels(self, s3_root: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        options = StorageOptions(profile="team", endpoint="http://127.0.0.1:9")
        with pytest.raises(StorageError) as caught:
            storage.check(s3_root, writable=True)
        for value in (options, storage.retries.by_cause(), caught.value, storage.Entry("s3://b/k", 1, "e")):
            assert SECRET not in repr(value) and SECRET.encode() not in pickle.dumps(value)
        assert pickle.loads(pickle.dumps(options)) == options

    def test_a_secret_in_a_uri_or_an_endpoint_is_refused_and_not_repeated(self) -> None:
        with pytest.raises(StorageError, match="environment or a profile") as caught:
            storage.read(f"s3://key:{SECRET}@bucket/key")
        assert SECRET not in str(caught.value)
        with pytest.raises(StorageError, match="environment or a profile") as caught:
            StorageOptions(endpoint=f"http://key:{SECRET}@host")
        assert SECRET not in str(caught.value)
