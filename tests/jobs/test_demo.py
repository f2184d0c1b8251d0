"""The demo as a newcomer runs it: first, again, and after it was interrupted."""

import re
import subprocess

import pytest

from jobs import demo as job
from support import fork_server
from support.in_process_job import run_job
from xmodal.run import open_run, read_metrics

pytestmark = [pytest.mark.ray]
SMALL = ("--rows", "128", "--steps", "4", "--batch-size", "32", "--sketches", "64", "--adapt-steps", "3")


@pytest.fixture(scope="module")
def first(forked_workers, tmp_path_factory):
    runs = tmp_path_factory.mktemp("demo")
    command = fork_server.command("jobs.demo", "--runs", str(runs), *SMALL)
    return runs, subprocess.run(command, capture_output=True, text=True, check=False, timeout=500)


def test_it_ends_with_a_table_and_where_the_run_lies(first):
    runs, done = first
    assert done.returncode == 0, done.stderr
    for words in ("R@1", "R@10", "image -> text", "text -> image", "chance", str(runs / "demo"), "jobs.prepare"):
        assert words in done.stdout
    assert "step 4/4" in done.stderr and "samples/s" in done.stderr and "ETA" in done.stderr
    assert [line["step"] for line in read_metrics(str(runs / "demo"))][-1] == 4
    assert "step 3/3" in done.stderr
    for name in ("demo-control", "demo-adapted"):
        assert [line["step"] for line in read_metrics(str(runs / name))] == [3]


def test_it_shows_before_control_centred_and_adapted(first):
    runs, done = first
    assert "From photos (source) to sketches without captions (target): mmd, strength 5 (ramp)" in done.stdout
    assert "consistency 0.3" in done.stdout
    for label in ("before", "further steps without the target", "the same, embeddings centred", "adapted"):
        assert len(re.findall(rf"^  {label} +[0-9.]+%", done.stdout, re.MULTILINE)) == 2, label  # both directions
    assert "image -> text R@10, adapted - source alone" in done.stdout
    control, adapted = (open_run(str(runs), name).config for name in ("demo-control", "demo-adapted"))
    assert {name for name in control if control[name] != adapted[name]} == {"run", "domain", "target"}


def test_its_report_names_the_corpora_and_shows_queries_before_and_after(first):
    runs, _ = first
    page = (runs / "demo" / "report.html").read_text(encoding="utf-8")
    for words in ("What the adaptation changed", "The same 5 queries before and after", "sketches-held-out (held out)"):
        assert words in page, words


def test_its_output_is_its_own(first):
    """Ray's chatter is kept away: every line is one that the demo wrote."""
    _, done = first
    own = ("[pretrain]", "[control]", "[adapt]", "drawing")
    foreign = [line for line in done.stderr.splitlines() if not line.startswith(own)]
    assert foreign == []


def test_again_it_says_what_it_found_and_trains_nothing(first):
    runs, _ = first
    again = run_job(job, "--runs", str(runs), *SMALL)
    assert again.code == 0
    assert again.out.count("found a finished run") == 3 and "found the training pairs" in again.out
    assert "step 4/4" not in again.err and "R@10" in again.out


def test_an_interrupted_demo_is_never_resumed_silently(first):
    runs, _ = first
    log = runs / "demo" / "metrics.jsonl"
    kept = log.read_text()
    log.write_text("")
    refused = run_job(job, "--runs", str(runs), *SMALL)
    log.write_text(kept)
    assert refused.code == 2
    assert "--resume" in refused.error and "--fresh" in refused.error


def test_other_sizes_do_not_reuse_the_corpus(first):
    runs, _ = first
    other = run_job(job, "--runs", str(runs), *SMALL, "--rows", "64")
    assert other.code == 2 and "--fresh" in other.error
