"""Run a job on a cluster: send the code of this directory and a command, show the log, return the exit status.

    python -m jobs.submit -- jobs.pretrain vit-b-32 --corpus s3://bucket/shards --runs s3://bucket/runs --workers 8
    python -m jobs.submit --address http://127.0.0.1:8265 --token-file ~/.ray/auth_token --no-wait -- jobs.pretrain ...
    python -m jobs.submit --name probe -- jobs.doctor --workers 8

This wraps `ray job submit --working-dir . -- python -m JOB ...`. The flags of jobs.submit stand before the `--`, the
job and its own flags behind it. The command is checked here before it is sent. The submission is named after the job
and the run (pretrain-first): a number is appended where a job of that name has ended, and the submission is refused
while one still runs.

The code that is sent is this directory without .git, environments, runs, data and whatever .gitignore names. Corpora
and runs must be where every node reaches them: s3://... or an absolute path on a shared file system.

Exit status: that of the job's command (0 success, 2 a mistake that you can fix, ...); 130 when it was stopped. Ctrl-C
stops watching, not the job.
"""

import functools
import importlib
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs import arguments, console
from pipelines.config.submission import SubmissionConfig
from pipelines.runtime.output_path import check_survives_job
from xmodal.errors import ConfigError, nearest

PROGRAM = "python -m jobs.submit"
OUTPUTS = {"runs": "--runs", "to": "--to", "target": "TARGET"}  # fields of any job whose files must outlive the job


@dataclass(frozen=True, kw_only=True)
class SubmitFlags:
    """The flags of jobs.submit itself, which stand before the `--`."""

    address: str | None = None
    """address of the job server; None: RAY_API_SERVER_ADDRESS, else http://127.0.0.1:8265"""
    token_file: Path | None = None  # file with the cluster's token; None: RAY_AUTH_TOKEN, then ~/.ray/auth_token
    token: str | None = None  # the cluster's token itself; other users of this machine can see it, so prefer a file
    name: str | None = None  # name of the submission; None: made from the job and the run
    working_dir: str = "."  # directory whose code is sent
    wait: bool = True  # show the log until the job ends, and return its exit status
    dry_run: bool = False  # check everything, print the submission as JSON, and send nothing


def names() -> list[str]:
    """Return the jobs that can be submitted: the modules and packages in this folder that are commands."""
    here = Path(__file__)
    modules = [path.stem for path in here.parent.glob("*.py") if "__main__" in path.read_text() and path != here]
    packages = [path.parent.name for path in here.parent.glob("*/__main__.py")]
    return sorted(f"jobs.{name}" for name in modules + packages)


def split(words: list[str]) -> tuple[list[str], list[str]]:
    """Return the flags before the `--`, and the job behind it without `python -m`; ConfigError without a job."""
    if "--" not in words:
        if {"-h", "--help"} & set(words):
            return words, []
        raise ConfigError(f"name the job behind a `--`, e.g. {PROGRAM} -- jobs.pretrain vit-b-32 --corpus URI")
    at = words.index("--")
    job = words[at + 1 :]
    job = job[2:] if job[:2] in (["python", "-m"], ["python3", "-m"]) else job
    if not job or job[0] not in names():
        raise ConfigError(f"no job {job[0] if job else ''!r}: {nearest(job[0] if job else '', names())}")
    return words[:at], job


def check(job: list[str]) -> Any:
    """Return the configuration of the job, and raise ConfigError for its mistakes here instead of on the cluster."""
    module, *words = job
    parse = getattr(importlib.import_module(module), "parse", None)
    if parse is None:  # of a package: it has names, and no configuration
        return None
    request = parse(words)
    config = request.config if isinstance(request, arguments.JobRequest) else request
    for holder in (config, run_options(config)):
        for name, flag in OUTPUTS.items():
            if isinstance(uri := getattr(holder, name, None), str):
                check_survives_job(uri, flag)
    return config


def run_options(config: object) -> object:
    """Return what holds the name and the folder of a job's run or sweep: the options of it, else the configuration."""
    return getattr(config, "sweep", None) or getattr(config, "run", None) or config


def run_name(job: list[str], config: object) -> str:
    """Return the name of a submission: the job, and its run or its first argument."""
    kind = job[0].removeprefix("jobs.")
    first = job[1] if len(job) > 1 and not job[1].startswith("-") else ""
    subject = getattr(run_options(config), "name", None) or first.rstrip("/").rpartition("/")[2]
    return f"{kind}-{subject}" if subject else kind


def run(words: list[str]) -> int:
    """Submit the job and return its exit status."""
    before, job = split(words)
    flags = arguments.parse(SubmitFlags, before, program=PROGRAM, text=__doc__)
    name = run_name(job, check(job))
    from pipelines.ops import submission  # takes seconds to import: only for a valid command line

    config = SubmissionConfig(
        command=("python", "-m", *job),
        name=flags.name or name,
        address=flags.address,
        token=flags.token or (submission.read_token(flags.token_file) if flags.token_file else None),
        working_dir=flags.working_dir,
        wait=flags.wait,
    )
    if flags.dry_run:
        print(json.dumps(submission.preview(config), indent=2))
        return 0
    say = functools.partial(print, file=sys.stderr, flush=True)
    show = functools.partial(print, end="", flush=True)
    return submission.run(config, notify=lambda text: say(f"[submit] {text}"), show_log=show).exit_code


def main() -> None:
    console.main(lambda: sys.exit(run(sys.argv[1:])))


if __name__ == "__main__":
    main()
