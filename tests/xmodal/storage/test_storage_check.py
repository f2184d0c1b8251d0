"""The storage check before a job starts: one error that says what is wrong and never contains a secret."""

import pickle
import time
from pathlib import Path

import pytest

from support.s3 import S3Server
from xmodal import storage
from xmodal.errors import StorageError
from xmodal.storage import StorageOptions

pytestmark = [pytest.mark.s3, pytest.mark.usefixtures("short_waits")]


SECRET = "canary-5ecret"


class TestCheck:
    """`check` raises StorageError within 10 s, which names the URI, the endpoint, the credentials and the fix."""

    def check_error(self, uri: str, *, writable: bool, options: StorageOptions = StorageOptions()) -> str:  # noqa: B008
        started = time.monotonic()
        with pytest.raises(StorageError) as caught:
            storage.check(uri, writable=writable, options=options)
        assert time.monotonic() - started < 10
        message = str(caught.value)
        assert uri in message and SECRET not in message and "\n" not in message
        return message

    @pytest.mark.parametrize("writable", [True, False])
    def test_missing_bucket(self, s3_server: S3Server, writable: bool) -> None:
        message = self.check_error("s3://no-such-bucket/run", writable=writable)
        assert "the bucket does not exist" in message and "create it or correct its name" in message
        assert f"endpoint {s3_server.env['AWS_ENDPOINT_URL']}, region us-east-1" in message
        assert "credentials: environment variable AWS_ACCESS_KEY_ID" in message

    @pytest.mark.parametrize("name", ["AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID"])
    def test_wrong_key(self, s3_root: str, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        monkeypatch.setenv(name, SECRET)
        message = self.check_error(s3_root, writable=True)
        assert "refuses the secret key" in message and "check AWS_ACCESS_KEY_ID" in message
        monkeypatch.undo()
        storage.check(s3_root, writable=True)

    def test_no_credentials(self, s3_root: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        message = self.check_error(s3_root, writable=True)
        assert "there are no credentials" in message and "credentials: none found" in message

    def test_incomplete_credentials(self, s3_root: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
        assert "the credentials are incomplete" in self.check_error(s3_root, writable=True)

    def test_anonymous_access_to_a_private_bucket(self, s3_root: str) -> None:
        message = self.check_error(s3_root, writable=False, options=StorageOptions(anonymous=True))
        assert "refuses unsigned requests" in message and "credentials: anonymous" in message

    @pytest.mark.parametrize("source", ["option", "environment"])
    def test_unknown_profile(self, s3_root: str, monkeypatch: pytest.MonkeyPatch, source: str) -> None:
        options = StorageOptions(profile="team" if source == "option" else None)
        if source == "environment":
            monkeypatch.setenv("AWS_PROFILE", "team")
        message = self.check_error(s3_root, writable=True, options=options)
        assert "have no such profile" in message and "credentials: profile 'team'" in message

    def test_keys_of_a_profile(
        self, s3_server: S3Server, s3_root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        keys = "aws_access_key_id = {}\naws_secret_access_key = {}\n"
        good, bad = keys.format("test:tester", "testing"), keys.format("test:tester", SECRET)
        (tmp_path / "credentials").write_text(f"[good]\n{good}[bad]\n{bad}")
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", f"{tmp_path}/credentials")
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        storage.check(s3_root, writable=True, options=StorageOptions(profile="good"))
        message = self.check_error(s3_root, writable=True, options=StorageOptions(profile="bad"))
        assert "refuses the secret key" in message and "credentials: profile 'bad'" in message

    def test_refused_connection(self, s3_root: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        message = self.check_error(s3_root, writable=True)
        assert "nothing answers at the endpoint" in message and "endpoint http://127.0.0.1:9," in message

    def test_endpoint_option_overrides_the_environment(self, s3_root: str) -> None:
        options = StorageOptions(endpoint="http://127.0.0.1:9", region="eu-west-7")
        message = self.check_error(s3_root, writable=False, options=options)
        assert "endpoint http://127.0.0.1:9, region eu-west-7" in message

    def test_server_that_does_not_answer(
        self, s3_server: S3Server, s3_root: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("xmodal.storage.s3.CHECK_TIMEOUT_S", 1.0)
        with s3_server.faults([{"kind": "delay", "seconds": 3}]):
            assert "does not answer in time" in self.check_error(s3_root, writable=True)

    def test_bucket_without_write_permission(self, s3_server: S3Server, s3_root: str) -> None:
        with s3_server.faults([{"kind": "forbidden", "method": "PUT"}]):
            message = self.check_error(s3_root, writable=True)
        assert "may not do this (AccessDenied)" in message and "s3:PutObject" in message

    def test_endpoint_that_is_not_a_url(self, s3_root: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_ENDPOINT_URL", "nonsense")
        assert "the endpoint is not a URL" in self.check_error(s3_root, writable=True)
        with pytest.raises(StorageError, match="is not a URL; write http"):
            StorageOptions(endpoint="nonsense")


class TestSecrets:
    def test_secrets_are_neither_shown_nor_pickled(self, s3_root: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        options = StorageOptions(profile="team", endpoint="http://127.0.0.1:9")
        with pytest.raises(StorageError) as caught:
            storage.check(s3_root, writable=True)
        for value in (options, storage.retries.by_cause(), caught.value, storage.Entry("s3://b/k", 1, "e")):
            assert SECRET not in repr(value) and SECRET.encode() not in pickle.dumps(value)
        assert pickle.loads(pickle.dumps(options)) == options

    def test_secret_in_a_uri_or_endpoint_raises_without_repeating_it(self) -> None:
        with pytest.raises(StorageError, match="environment or a profile") as caught:
            storage.read(f"s3://key:{SECRET}@bucket/key")
        assert SECRET not in str(caught.value)
        with pytest.raises(StorageError, match="environment or a profile") as caught:
            StorageOptions(endpoint=f"http://key:{SECRET}@host")
        assert SECRET not in str(caught.value)
