"""S3 storage on a server with faults: every byte arrives, or one error says why not."""

import os
import threading
import time
from pathlib import Path

import boto3
import pytest

from support.s3 import S3Server
from xmodal import storage
from xmodal.errors import StorageError
from xmodal.storage import retry, transfer

pytestmark = [pytest.mark.s3, pytest.mark.usefixtures("short_waits")]


def names_below(uri: str) -> list[str]:
    return [entry.uri.removeprefix(f"{uri}/") for entry in storage.list_files(uri)]


class TestS3:
    def test_listing_of_several_pages_is_complete(self, s3_root: str) -> None:
        bucket, prefix = s3_root.removeprefix("s3://").split("/")
        client, names = boto3.client("s3"), [f"{n:02}" for n in range(100)]

        def put(batch: list[str]) -> None:
            for name in batch:
                client.put_object(Bucket=bucket, Key=f"{prefix}/{name}", Body=name.encode())

        threads = [threading.Thread(target=put, args=(names[n::4],)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert names_below(s3_root) == names
        storage.delete_tree(s3_root)
        assert not storage.exists(s3_root)

    def test_keys_that_a_file_system_would_normalize_are_distinct(self, s3_root: str) -> None:
        names = ["a//b", "a/b", "a/./b", "a/../b", "/a", "a/b/c"]
        for name in names:
            storage.write(f"{s3_root}/{name}", name.encode())
        assert names_below(s3_root) == sorted(names)
        assert [storage.read(f"{s3_root}/{name}").decode() for name in names] == names

    def test_directory_markers_are_not_listed_but_deleted(self, s3_root: str) -> None:
        bucket, prefix = s3_root.removeprefix("s3://").split("/")
        client = boto3.client("s3")
        client.put_object(Bucket=bucket, Key=f"{prefix}/dir/", Body=b"")
        storage.write(f"{s3_root}/dir/x", b"1")
        assert names_below(s3_root) == ["dir/x"]
        storage.delete_tree(s3_root)
        assert client.list_objects_v2(Bucket=bucket, Prefix=prefix)["KeyCount"] == 0

    def test_failed_upload_leaves_neither_object_nor_parts(
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

    def test_forked_process_can_read(self, s3_root: str) -> None:
        storage.write(f"{s3_root}/x", b"shared")
        for _ in range(2):
            child = os.fork()
            if child == 0:
                os._exit(0 if storage.read(f"{s3_root}/x") == b"shared" else 1)
            assert storage.read(f"{s3_root}/x") == b"shared"
            assert os.waitpid(child, 0)[1] == 0


class TestFaults:
    @pytest.mark.parametrize("refusals", [2, 4, 8])
    def test_read_succeeds_after_fewer_refusals_than_the_limit(
        self, s3_server: S3Server, s3_root: str, refusals: int
    ) -> None:
        data = os.urandom(50_000)
        storage.write(f"{s3_root}/x", data)
        before = storage.retries.by_cause().get("busy", 0)
        with s3_server.faults([{"kind": "slow_down", "key": "*/x", "first": refusals}]) as faults:
            assert storage.read(f"{s3_root}/x", 10, 40_000) == data[10:40_010]
            assert faults.fired == [refusals]
        assert storage.retries.by_cause()["busy"] == before + refusals

    def test_endless_refusals_raise_with_uri_and_cause(self, s3_server: S3Server, s3_root: str) -> None:
        storage.write(f"{s3_root}/x", b"")
        with (
            s3_server.faults([{"kind": "slow_down", "key": "*/x"}]) as faults,
            pytest.raises(StorageError, match=rf"^{s3_root}/x: .*\(SlowDown\); .*endpoint http://127"),
        ):
            storage.read(f"{s3_root}/x")
        assert faults.fired == [retry.MAX_ATTEMPTS] and retry.MAX_ATTEMPTS >= 8

    @pytest.mark.parametrize("cut", [0, 1, 30_000, 49_999])
    def test_cut_body_is_never_returned(self, s3_server: S3Server, s3_root: str, cut: int) -> None:
        data = os.urandom(50_000)
        storage.write(f"{s3_root}/x", data)
        with s3_server.faults([{"kind": "cut", "key": "*/x", "bytes": cut, "first": 3}]) as faults:
            assert storage.read(f"{s3_root}/x") == data
            assert faults.fired == [3]

    def test_download_succeeds_despite_several_kinds_of_faults(
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
    def test_every_http_method_is_retried(
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
    def test_stalled_response_is_retried_after_the_read_timeout(
        self, s3_server: S3Server, s3_root: str, monkeypatch: pytest.MonkeyPatch, kind: str
    ) -> None:
        monkeypatch.setattr("xmodal.storage.s3_session.READ_TIMEOUT_S", 0.5)
        storage.write(f"{s3_root}/x", b"0123456789")
        plan = [{"kind": kind, "key": "*/x", "method": "GET", "seconds": 30, "bytes": 5, "first": 2}]
        started = time.monotonic()
        with s3_server.faults(plan) as faults:
            assert storage.read(f"{s3_root}/x") == b"0123456789"
            assert faults.fired == [2]
        assert 1.0 <= time.monotonic() - started < 10

    def test_read_succeeds_after_the_server_was_down(
        self, s3_server: S3Server, s3_root: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(retry, "BACKOFF_S", 0.1)
        storage.write(f"{s3_root}/x", b"still here")
        received: list[bytes] = []
        reader = threading.Thread(target=lambda: received.append(storage.read(f"{s3_root}/x")))
        before = storage.retries.by_cause().get("connection", 0)
        with s3_server.down():
            reader.start()
            while storage.retries.by_cause().get("connection", 0) < before + 2:
                time.sleep(0.01)
        reader.join(60)
        assert received == [b"still here"]

    def test_expired_credentials_are_renewed(
        self, s3_server: S3Server, s3_root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        storage.write(f"{s3_root}/x", b"1")
        keys = "[default]\naws_access_key_id = test:tester\naws_secret_access_key = {}\n"
        (tmp_path / "credentials").write_text(keys.format("old"))
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", f"{tmp_path}/credentials")
        with pytest.raises(StorageError, match="refuses the secret key"):
            storage.read(f"{s3_root}/x")
        (tmp_path / "credentials").write_text(keys.format("testing"))
        with s3_server.faults([{"kind": "expired_token", "key": "*/x", "first": 1}]):
            assert storage.read(f"{s3_root}/x") == b"1"

    @pytest.mark.parametrize(("kind", "code"), [("not_found", "NoSuchKey"), ("forbidden", "AccessDenied")])
    def test_permanent_errors_are_raised_without_retry(
        self, s3_server: S3Server, s3_root: str, kind: str, code: str
    ) -> None:
        storage.write(f"{s3_root}/x", b"1")
        with s3_server.faults([{"kind": kind, "key": "*/x", "first": 1}]) as faults:
            with pytest.raises(StorageError, match=code):
                storage.read(f"{s3_root}/x")
            assert faults.fired == [1]
            assert storage.read(f"{s3_root}/x") == b"1"

    def test_object_replaced_between_two_parts_raises(
        self, s3_server: S3Server, s3_root: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(transfer, "PART_BYTES", 1000)
        monkeypatch.setattr(transfer, "CONCURRENCY", 1)
        storage.write(f"{s3_root}/x", b"a" * 900)
        boto3.client("s3").put_object(Bucket=s3_root.split("/")[2], Key=f"{s3_root.split('/')[3]}/x", Body=b"a" * 3000)
        errors: list[BaseException] = []

        def read() -> None:
            try:
                storage.read(f"{s3_root}/x")
            except StorageError as error:
                errors.append(error)

        with s3_server.faults([{"kind": "delay", "key": "*/x", "method": "GET", "skip": 1, "seconds": 1}]) as faults:
            reader = threading.Thread(target=read)
            reader.start()
            while not sum(faults.fired):
                time.sleep(0.01)
            storage.write(f"{s3_root}/x", b"b" * 900)
            reader.join(30)
        assert [type(error) for error in errors] == [storage.FileChanged]
