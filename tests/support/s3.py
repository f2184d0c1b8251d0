"""Fixtures for tests on a real S3 server on loopback, which runs for the whole session."""

import contextlib
import os
import uuid
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from support.object_store import Faults, ObjectStore, Unavailable, environment


@dataclass(frozen=True)
class S3Server:
    """The server of the session: `bucket_uri` is an empty bucket, `env` is set in os.environ during the session.

    `faults(plan)` makes requests fail by a list of rules (object_store_faults.py); `down()` refuses connections.
    """

    store: ObjectStore
    bucket_uri: str

    @property
    def env(self) -> dict[str, str]:
        return self.store.exports

    def faults(self, plan: list[dict[str, object]]) -> contextlib.AbstractContextManager[Faults]:
        return self.store.faults(*plan)

    def down(self) -> contextlib.AbstractContextManager[None]:
        return self.store.down()


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """Start a real S3 server on loopback. Without Swift its tests are skipped, or fail with XMODAL_REQUIRE_S3=1."""
    store = ObjectStore(tmp_path_factory.mktemp("object-store"), environment())
    try:
        store.start()
    except Unavailable as error:
        if os.environ.get("XMODAL_REQUIRE_S3") == "1":
            pytest.fail(f"XMODAL_REQUIRE_S3=1, but there is no S3 server: {error}")
        pytest.skip(f"no S3 server: {error}")
    with contextlib.ExitStack() as cleanup, pytest.MonkeyPatch.context() as patch:
        cleanup.callback(store.stop)
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            patch.delenv(name)
        for name, value in store.exports.items():
            patch.setenv(name, value)
        yield S3Server(store, f"s3://{_new_bucket()}")


@pytest.fixture
def s3_root(s3_server: S3Server) -> str:
    """Return a prefix below which nothing is stored yet."""
    return f"{s3_server.bucket_uri}/{uuid.uuid4().hex[:8]}"


@pytest.fixture
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the waits between retries a hundredth of a second."""
    monkeypatch.setattr("xmodal.storage.retry.BACKOFF_S", 0.01)


def _new_bucket() -> str:
    import boto3

    bucket = f"xmodal-{uuid.uuid4().hex[:8]}"
    boto3.client("s3").create_bucket(Bucket=bucket)
    return bucket
