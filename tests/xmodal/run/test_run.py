"""A run's directory: made once, continued only as it was started, and without a secret in it."""

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
from xmodal.run import claim_attempt, create_run, newest_attempt, open_run
from xmodal.run import provenance as origin
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


def test_a_run_is_found_again_as_it_was_recorded(tmp_path: Path) -> None:
    made = create_run(str(tmp_path), "demo", config=Config(), corpora={"train": "ab12"})
    found = open_run(str(tmp_path), "demo")
    assert found == made
    assert found.config["optim"] == {"lr": 1e-3, "betas": [0.9, 0.98]}
    assert found.checkpoints_uri == f"{tmp_path}/demo/checkpoints"
    assert len(found.id) == 32
    assert json.loads((tmp_path / "demo/run.json").read_text()) == found.record


def test_two_runs_of_one_name_are_refused_with_the_mend(tmp_path: Path) -> None:
    create_run(str(tmp_path), "demo", config={})
    with pytest.raises(ConfigError, match="--resume continues it, another --name starts anew"):
        create_run(str(tmp_path), "demo", config={})


def test_a_directory_of_something_else_is_not_taken(tmp_path: Path) -> None:
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "thesis.tex").write_text("mine")
    with pytest.raises(ConfigError, match="exists already"):
        create_run(str(tmp_path), "demo", config={})


def test_resuming_a_run_that_is_not_there_names_the_nearest(tmp_path: Path) -> None:
    for name in ("birds-large", "flowers"):
        create_run(str(tmp_path), name, config={})
    with pytest.raises(ConfigError, match=r"no run 'birds-lrage'.*did you mean 'birds-large'\? valid: birds-large, fl"):
        open_run(str(tmp_path), "birds-lrage", config={})
    assert run_names(str(tmp_path)) == ["birds-large", "flowers"]


def test_resuming_with_other_values_is_refused_field_by_field(tmp_path: Path) -> None:
    create_run(str(tmp_path), "demo", config=Config())
    other = Config(optim=Optim(lr=2e-3), batch=128, log_every=5)
    with pytest.raises(ConfigError) as refusal:
        open_run(str(tmp_path), "demo", config=other, may_change={"log_every"})
    assert "optim.lr is 0.001 there and 0.002 here; batch is 256 there and 128 here" in str(refusal.value)
    assert "log_every" not in str(refusal.value)
    assert open_run(str(tmp_path), "demo").record["resumes"] == []


def test_fields_that_may_change_are_recorded(tmp_path: Path) -> None:
    first = create_run(str(tmp_path), "demo", config=Config())
    run = open_run(
        str(tmp_path), "demo", config=Config(log_every=5, optim=Optim(lr=1.0)), may_change=("log_every", "optim")
    )
    assert run.id == first.id
    assert run.record["resumes"][0]["changed"] == {"log_every": [10, 5], "optim.lr": [1e-3, 1.0]}
    assert open_run(str(tmp_path), "demo").config["log_every"] == 5


def test_a_corpus_that_changed_is_refused(tmp_path: Path) -> None:
    create_run(str(tmp_path), "demo", config={}, corpora={"train": "ab12"})
    open_run(str(tmp_path), "demo", config={}, corpora={"train": "ab12"})
    with pytest.raises(ConfigError, match="train was ab12, is cd34"):
        open_run(str(tmp_path), "demo", config={}, corpora={"train": "cd34"})


@pytest.mark.parametrize("name", ["", ".hidden", "a/b", "..", "a b", "-x", "naïve", "x" * 101, "a\n", "end."])
def test_names_that_cannot_be_a_directory_are_refused_with_one_that_can(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot name a run") as refusal:
        create_run(str(tmp_path), name, config={})
    offered = str(refusal.value).rpartition("for example ")[2].strip("'")
    create_run(str(tmp_path), offered, config={})


@pytest.mark.parametrize("damage", [b"", b"{", b'{"format": 99}'])
def test_a_damaged_record_is_named(damage: bytes, tmp_path: Path) -> None:
    create_run(str(tmp_path), "demo", config={})
    (tmp_path / "demo/run.json").write_bytes(damage)
    with pytest.raises(ConfigError, match=r"demo/run\.json"):
        open_run(str(tmp_path), "demo")


@pytest.mark.parametrize("value", [object(), float("nan"), {1, 2}])
def test_a_value_that_json_cannot_hold_is_named(value: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"config\.model\.head\[1\]"):
        create_run(str(tmp_path), "demo", config={"model": {"head": [0, value]}})
    assert not storage.exists(str(tmp_path / "demo"))


def test_nothing_of_the_environment_but_the_listed_names_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = {*os.environ, "AWS_SECRET_ACCESS_KEY", "WANDB_API_KEY", "RAY_AUTH_TOKEN", "HF_TOKEN"}
    for name in names - {"PATH", "TMPDIR", *origin.ENVIRONMENT}:
        monkeypatch.setenv(name, f"canary-{name}")
    create_run(str(tmp_path), "demo", config=Config())
    open_run(str(tmp_path), "demo", config=Config())
    claim_attempt(str(tmp_path / "demo"))
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) == 2
    assert not any(b"canary" in path.read_bytes() for path in files)


def test_the_commit_is_recorded_with_its_changes(tmp_path: Path) -> None:
    assert origin.commit(tmp_path) is None
    identity = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
    (tmp_path / "code.py").write_text("1")
    for command in (["init", "-q"], ["add", "."], [*identity, "commit", "-q", "-m", "first"]):
        subprocess.run(["git", "-C", str(tmp_path), *command], check=True)
    commit = origin.commit(tmp_path)
    assert commit is not None
    assert len(commit) == 40
    (tmp_path / "code.py").write_text("2")
    assert origin.commit(tmp_path) == f"{commit}+changes"


def test_provenance_names_versions_and_hardware() -> None:
    found = origin.provenance()
    assert {"numpy", "pyarrow"} <= set(found["packages"])
    assert found["hardware"]["cores"] >= 1
    assert json.loads(json.dumps(found)) == found


def test_attempts_count_the_starts_of_a_run(tmp_path: Path) -> None:
    assert newest_attempt(str(tmp_path)) == 0
    assert [claim_attempt(str(tmp_path)) for _ in range(12)] == list(range(1, 13))
    assert newest_attempt(str(tmp_path)) == 12


tables = st.recursive(
    st.none() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("abcd"), inner, max_size=3),
)


@settings(deadline=None)
@given(tables, tables)
def test_configurations_differ_exactly_when_a_field_does(recorded: Any, given_: Any) -> None:
    assert differences(recorded, recorded) == {}
    assert bool(differences(recorded, given_)) == (recorded != given_)


@settings(deadline=None)
@given(tables)
def test_plain_values_stay_as_they_are(value: Any) -> None:
    assert to_plain(value) == value


def test_a_table_allows_its_fields_and_nothing_that_only_sounds_alike() -> None:
    assert is_within("log.every", frozenset({"log"}))
    assert is_within("log", frozenset({"log"}))
    assert not is_within("logging.every", frozenset({"log"}))
    assert not is_within("log", frozenset({"log.every"}))
