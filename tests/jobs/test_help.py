"""`--help` of every job explains the job and all its flags quickly; a misspelt flag names the nearest one."""

import importlib
import json
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.presets import PRESETS
from jobs.submit import names
from xmodal.errors import ConfigError

ROOT = Path(__file__).parents[2]
JOBS = [name for name in [*names(), "jobs.submit"] if (ROOT / f"{name.replace('.', '/')}.py").is_file()]
HEAVY = ("torch", "transformers", "ray", "sklearn", "s3fs")
COMMAND = re.compile(r"^    (python -m jobs\.\w+.*)$", re.MULTILINE)


@pytest.fixture(autouse=True)
def wide(monkeypatch):
    monkeypatch.setenv("COLUMNS", "121")


def help_of(job, capsys, *words):
    """Return what `--help` prints; it ends the job with exit status 0."""
    module = importlib.import_module(job)
    with pytest.raises(SystemExit) as end:
        (module.run if job == "jobs.submit" else module.parse)([*words, "--help"])
    assert not end.value.code
    return capsys.readouterr().out


@pytest.mark.parametrize("job", JOBS)
def test_help_begins_with_the_docstring_of_the_job_and_explains_every_flag(job, capsys):
    words = {"jobs.pretrain": ["vit-tiny"], "jobs.classify": ["clips"]}.get(job, [])
    text, _, flags = help_of(job, capsys, *words).partition("usage: ")
    assert text.startswith(importlib.import_module(job).__doc__) and len(COMMAND.findall(text)) >= 2
    assert max(map(len, text.splitlines())) <= 120
    assert f"python -m {job}" in flags
    unexplained = re.findall(r"│ (--[a-z-]+)[^│\n]*│\n│ {10,}\(default", flags) + re.findall(
        r"│ (--[a-z-]+) (?:STR|INT|FLOAT)? +\(default", flags
    )
    assert not unexplained


def test_paragraphs_are_wrapped_for_a_narrow_terminal_and_examples_are_not(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    text = help_of("jobs.prepare", capsys).partition("usage: ")[0]
    prose = [line for line in text.splitlines() if not line.startswith("    ")]
    assert max(map(len, prose)) < 80
    doc = importlib.import_module("jobs.prepare").__doc__
    assert COMMAND.findall(text) == COMMAND.findall(doc) and text.split() == doc.split()


def test_help_of_pretraining_lists_the_presets_with_a_line_each(capsys):
    text = help_of("jobs.pretrain", capsys)
    for name, preset in PRESETS.items():
        assert re.search(rf"^  {re.escape(name)} +{re.escape(preset.summary)}$", text, re.MULTILINE)
    assert PRESETS["vit-b-32"].summary in help_of("jobs.pretrain", capsys, "vit-b-32")


def test_the_benchmarks_are_listed_with_a_line_each(capsys):
    from jobs.bench import __main__ as bench

    with pytest.raises(SystemExit) as end:
        bench.main(["--help"])
    text = capsys.readouterr().out
    assert end.value.code == 0
    for name in bench.benchmarks():
        assert re.search(rf"^  {name} +\S.{{20,}}", text, re.MULTILINE), name


def test_no_job_imports_torch_or_ray_before_its_arguments_are_valid():
    """One process imports all jobs, prints every help and makes a mistake in each, within a few seconds."""
    script = f"""
import contextlib, importlib, io, sys
from xmodal.errors import XmodalError
for name in {[*JOBS, "jobs.bench.__main__"]}:
    module = importlib.import_module(name)
    for words in (["--help"], ["vit-tiny", "--help"], ["--no-such-flag"]):
        begin = getattr(module, "parse", None) or (module.run if name == "jobs.submit" else module.main)
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            with contextlib.suppress(SystemExit, XmodalError):
                begin(words)
    heavy_modules = [heavy for heavy in {HEAVY} if heavy in sys.modules]
    assert not heavy_modules, (name, heavy_modules)
"""
    began = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    seconds = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - began
    assert seconds < 8, "all of them together; one alone takes half a second"


@pytest.mark.parametrize(
    ("job", "words", "nearest"),
    [
        ("jobs.pretrain", ["vit-tiny", "--corpus", "c", "--batch-sise", "8"], "--batch-size"),
        ("jobs.embed", ["run", "corpus", "--to", "x", "--overwrit"], "--overwrite"),
        ("jobs.evaluate", ["run", "corpus", "--bootstrp", "8"], "--bootstrap"),
        ("jobs.prepare", ["a.csv", "corpus", "--rows-per-shart", "8"], "--rows-per-shard"),
        ("jobs.report", ["run", "--corpos", "c"], "--corpus"),
        ("jobs.inspect", ["corpus", "--pictues", "3"], "--pictures"),
        ("jobs.diagnose", ["run", "corpus", "--iteratons", "3"], "--iterations"),
        ("jobs.doctor", ["--corpuss", "c"], "--corpus"),
        ("jobs.sweep", ["--serch", "a", "--", "jobs.pretrain", "vit-tiny", "--corpus", "c"], "--search"),
        ("jobs.spot", ["--address", "a", "--every", "3"], "--every-s"),
        ("jobs.demo", ["--frsh"], "--fresh"),
    ],
)
def test_a_misspelt_flag_names_the_nearest(job, words, nearest, capsys):
    with pytest.raises(SystemExit) as end:
        importlib.import_module(job).parse(words)
    assert end.value.code == 2
    printed = capsys.readouterr()
    assert "Perhaps you meant" in printed.err and nearest in printed.err and not printed.out


def test_a_dry_run_of_prepare_lists_the_source_and_writes_nothing(tmp_path, capsys):
    from jobs import arguments, prepare

    (tmp_path / "pairs.csv").write_text("image,caption\na.jpg,a cat\nb.jpg,a dog\na.jpg,a cat\n")
    words = [str(tmp_path / "pairs.csv"), str(tmp_path / "corpus"), "--rows-per-shard", "1", "--workers", "3"]
    arguments.run_or_preview(prepare.parse([*words, "--dry-run"]), prepare.run, prepare.preview)
    shown = json.loads(capsys.readouterr().out)
    assert (shown["rows"], shown["shards"], shown["refused"]) == (2, 2, {"duplicate_key": 1})
    assert shown["resources"]["processes"] == 3 and shown["config"]["format"] == "tar"
    assert [path.name for path in tmp_path.iterdir()] == ["pairs.csv"]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["clip", "--corpus", "c"], "jobs.adapt takes no preset any more: leave the word clip out .*--name clip"),
        (["clips", "--corpus", "c"], "write python -m jobs.classify clips ..."),
        (["grid-letter"], "write python -m jobs.classify grid-letter ..."),
        (["grid-digit", "--help"], "write python -m jobs.classify grid-digit ..."),
    ],
)
def test_a_command_of_earlier_versions_is_answered_with_todays_command(words, sentence):
    with pytest.raises(ConfigError, match=sentence):
        importlib.import_module("jobs.adapt").parse(words)
