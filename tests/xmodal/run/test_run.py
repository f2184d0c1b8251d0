"""The run directory: created once, resumed only with the same configuration, and without secrets."""

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xmodal import storage
from xmodal.errors import ConfigError
from xmodal.run import claim_attempt, create_run, newest_attempt, open_run, provenance
from xmodal.run.directory import run_names
from xmodal.run.plain_config import differences, is_within, to_plain


@dataclass(frozen=True, kw_only=True)
class Optim:
    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.98)


@dataclass(frozen=True, kw_only=True)
class Config:
    optim: Optim = Optim()
    batch: int = 256
    log_every: int = 10
    corpus: Path = Path("corpus")
    seed: int | None = None


def test_opened_run_equals_the_created_one(tmp_path: Path) -> None:
    created = create_run(str(tmp_path), "demo", config=Config(), corpora={"train": "ab12"})
    opened = open_run(str(tmp_path), "demo")
    assert opened == created
    assert opened.config["optim"] == {"lr": 1e-3, "betas": [0.9, 0.98]}
    assert opened.checkpoints_uri == f"{tmp_path}/demo/checkpoints"
    assert len(opened.id) == 32
    assert json.loads((tmp_path / "demo/run.json").read_text()) == opened.record


def test_second_run_of_the_same_name_raises_with_the_fix(tmp_path: Path) -> None:
    create_run(str(tmp_path), "demo", config={})
    with pytest.raises(ConfigError, match="--resume continues it, another --name starts anew"):
        create_run(str(tmp_path), "demo", config={})


def test_create_run_in_an_existing_directory_raises(tmp_path: Path) -> None:
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "thesis.tex").write_text("mine")
    with pytest.raises(ConfigError, match="exists already"):
        create_run(str(tmp_path), "demo", config={})


def test_resuming_an_unknown_run_names_the_nearest(tmp_path: Path) -> None:
    for name in ("birds-large", "flowers"):
        create_run(str(tmp_path), name, config={})
    with pytest.raises(ConfigError, match=r"no run 'birds-lrage'.*did you mean 'birds-large'\? valid: birds-large, fl"):
        open_run(str(tmp_path), "birds-lrage", config={})
    assert run_names(str(tmp_path)) == ["birds-large", "flowers"]


def test_resuming_with_other_values_raises_and_lists_the_fields(tmp_path: Path) -> None:
    create_run(str(tmp_path), "demo", config=Config())
    other = Config(optim=Optim(lr=2e-3), batch=128, log_every=5)
    with pytest.raises(ConfigError) as raised:
        open_run(str(tmp_path), "demo", config=other, may_change={"log_every"})
    assert "optim.lr is 0.001 there and 0.002 here; batch is 256 there and 128 here" in str(raised.value)
    assert "log_every" not in str(raised.value)
    assert open_run(str(tmp_path), "demo").record["resumes"] == []


def test_fields_that_may_change_are_recorded(tmp_path: Path) -> None:
    first = create_run(str(tmp_path), "demo", config=Config())
    run = open_run(
        str(tmp_path), "demo", config=Config(log_every=5, optim=Optim(lr=1.0)), may_change=("log_every", "optim")
    )
    assert run.id == first.id
    assert run.record["resumes"][0]["changed"] == {"log_every": [10, 5], "optim.lr": [1e-3, 1.0]}
    assert open_run(str(tmp_path), "demo").config["log_every"] == 5


def test_resuming_with_a_changed_corpus_raises(tmp_path: Path) -> None:
    create_run(str(tmp_path), "demo", config={}, corpora={"train": "ab12"})
    open_run(str(tmp_path), "demo", config={}, corpora={"train": "ab12"})
    with pytest.raises(ConfigError, match="train was ab12, is cd34"):
        open_run(str(tmp_path), "demo", config={}, corpora={"train": "cd34"})


@pytest.mark.parametrize("name", ["", ".hidden", "a/b", "..", "a b", "-x", "naïve", "x" * 101, "a\n", "end."])
def test_invalid_run_name_raises_with_a_valid_one(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot name a run") as raised:
        create_run(str(tmp_path), name, config={})
    suggestion = str(raised.value).rpartition("for example ")[2].strip("'")
    create_run(str(tmp_path), suggestion, config={})


@pytest.mark.parametrize("damage", [b"", b"{", b'{"format": 99}'])
def test_damaged_record_raises_with_its_path(damage: bytes, tmp_path: Path) -> None:
    create_run(str(tmp_path), "demo", config={})
    (tmp_path / "demo/run.json").write_bytes(damage)
    with pytest.raises(ConfigError, match=r"demo/run\.json"):
        open_run(str(tmp_path), "demo")


@pytest.mark.parametrize("value", [object(), float("nan"), {1, 2}])
def test_value_that_json_cannot_represent_raises_with_its_field(value: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"config\.model\.head\[1\]"):
        create_run(str(tmp_path), "demo", config={"model": {"head": [0, value]}})
    assert not storage.exists(str(tmp_path / "demo"))


def test_only_listed_environment_variables_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = {*os.environ, "AWS_SECRET_ACCESS_KEY", "WANDB_API_KEY", "RAY_AUTH_TOKEN", "HF_TOKEN"}
    for name in names - {"PATH", "TMPDIR", *provenance.ENVIRONMENT}:
        monkeypatch.setenv(name, f"canary-{name}")
    create_run(str(tmp_path), "demo", config=Config())
    open_run(str(tmp_path), "demo", config=Config())
    claim_attempt(str(tmp_path / "demo"))
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) == 2
    assert not any(b"canary" in path.read_bytes() for path in files)


def test_commit_is_marked_if_files_differ(tmp_path: Path) -> None:
    assert provenance.commit(tmp_path) is None
    identity = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
    (tmp_path / "code.py").write_text("1")
    for command in (["init", "-q"], ["add", "."], [*identity, "commit", "-q", "-m", "first"]):
        subprocess.run(["git", "-C", str(tmp_path), *command], check=True)
    commit = provenance.commit(tmp_path)
    assert commit is not None
    assert len(commit) == 40
    (tmp_path / "code.py").write_text("2")
    assert provenance.commit(tmp_path) == f"{commit}+changes"


def test_provenance_has_versions_and_hardware() -> None:
    values = provenance.provenance()
    assert {"numpy", "pyarrow"} <= set(values["packages"])
    assert values["hardware"]["cores"] >= 1
    assert json.loads(json.dumps(values)) == values


def test_attempts_are_numbered_from_one(tmp_path: Path) -> None:
    assert newest_attempt(str(tmp_path)) == 0
    assert [claim_attempt(str(tmp_path)) for _ in range(12)] == list(range(1, 13))
    assert newest_attempt(str(tmp_path)) == 12


tables = st.recursive(
    st.none() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("abcd"), inner, max_size=3),
)


@settings(deadline=None)
@given(tables, tables)
def test_differences_are_empty_exactly_for_equal_configurations(recorded: Any, given_: Any) -> None:
    assert differences(recorded, recorded) == {}
    assert bool(differences(recorded, given_)) == (recorded != given_)


@settings(deadline=None)
@given(tables)
def test_to_plain_leaves_plain_values_unchanged(value: Any) -> None:
    assert to_plain(value) == value


def test_is_within_compares_whole_field_names() -> None:
    assert is_within("log.every", frozenset({"log"}))
    assert is_within("log", frozenset({"log"}))
    assert not is_within("logging.every", frozenset({"log"}))
    assert not is_within("log", frozenset({"log.every"}))
