"""URIs: supported schemes, error messages, and names that are taken literally."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xmodal import storage
from xmodal.errors import StorageError


class TestUris:
    @pytest.mark.parametrize("uri", ["gs://b/k", "http://h/x", "pipe://cat", "S3://b/k", "s3a://b/k", "hdfs://x"])
    def test_only_s3_and_file_are_supported(self, uri: str) -> None:
        for function in (storage.read, storage.list_files, lambda u: storage.check(u, writable=True)):
            with pytest.raises(StorageError, match=r"not supported; use s3://bucket/key, file:///path or a plain"):
                function(uri)

    @pytest.mark.parametrize(
        "uri",
        ["", "a\0b", "s3:/b/k", "s3:b/k", "s3://", "s3:///k", "s3://b c/k", "file://host/x", "s3://b/\ud800"],
    )
    def test_malformed_uri_raises_with_the_fix(self, uri: str) -> None:
        with pytest.raises(StorageError, match=r"use|write|rename"):
            storage.exists(uri)

    @pytest.mark.parametrize("part", ["/etc", "..", "a/../b", "../x", "a\0"])
    def test_join_raises_for_paths_outside(self, part: str) -> None:
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

    def test_absolute_uri_does_not_depend_on_the_working_directory(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        assert storage.absolute("runs/") == storage.absolute("./a/../runs") == f"{tmp_path}/runs"
        for uri in ("/a", "s3://b/k/", "s3://b/../k", "file:///a"):
            assert storage.absolute(uri) == uri

    def test_environment_variables_are_not_expanded(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("HOME", "/elsewhere")
        storage.write("$HOME/~/x", b"")
        assert (tmp_path / "$HOME/~/x").exists()

    @pytest.mark.parametrize("root", ["s3://bucket", "s3://bucket/", "s3://bucket//", "/", "file:///", "/../"])
    def test_delete_tree_of_a_bucket_or_file_system_raises(self, root: str) -> None:
        with pytest.raises(StorageError, match="name a"):
            storage.delete_tree(root)
