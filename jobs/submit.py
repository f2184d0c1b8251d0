"""Run a job on a cluster: send this directory's code and a command, show its log, end with its exit status.

    python -m jobs.submit -- jobs.pretrain vit-b-32 --corpus s3://bucket/shards --runs s3://bucket/runs --workers 8
    python -m jobs.submit --address http://127.0.0.1:8265 --token-file ~/.ray/auth_token --no-wait -- jobs.pretrain ...
    python -m jobs.submit --name probe -- jobs.doctor --workers 8

It wraps `ray job submit --working-dir . -- python -m JOB ...`. The flags of jobs.submit stand before the `--`, the job
and its own flags behind it. The command is checked here before it is sent. The submission is called after the job and
the run (pretrain-first): a name whose job has ended gets a number, one whose job still runs is refused.

The code that travels is this directory without .git, environments, runs, data and whatever .gitignore names. Corpora
and runs must be where every node reaches them: s3://... or an absolute path on a shared file system.

Exit status: that of the job's command (0 done, 2 a mistake to mend, ...); 130 when it was stopped. Ctrl-C stops
watching, not the job.
"""

import functools
import importlib
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs import arguments, console
from pipelines.config.submission import Config
from pipelines.runtime.output_path import check_lasting
from xmodal.errors import ConfigError, nearest

PROGRAM = "python -m jobs.submit"
OUTPUTS = {"runs": "--runs", "to": "--to", "target": "TARGET"}  # of any job: what must outlive the copy of the code


@dataclass(frozen=True, kw_only=True)
class Flags:
    """What stands before the `--`."""

    address: str | None = None  # of the job server; None: RAY_API_SERVER_ADDRESS, else http://127.0.0.1:8265
    token_file: Path | None = None  # holds the cluster's token; None: RAY_AUTH_TOKEN, then ~/.ray/auth_token
    token: str | None = None  # the token itself; other users of this machine can see it, so prefer a file
    name: str | None = None  # of the submission; None: the job's and the run's
    working_dir: str = "."  # the code to send
    wait: bool = True  # show the log and take over the exit status
    dry_run: bool = False  # check everything, print the submission as JSON, and send nothing


def names() -> list[str]:
    """The jobs that can be submitted: the modules and packages beside this one that a person starts."""
    here = Path(__file__)
    modules = [path.stem for path in here.parent.glob("*.py") if "__main__" in path.read_text() and path != here]
    packages = [path.parent.name for path in here.parent.glob("*/__main__.py")]
    return sorted(f"jobs.{name}" for name in modules + packages)


def split(words: list[str]) -> tuple[list[str], list[str]]:
    """The flags before the `--` and the job behind it, without a `python -m`; ConfigError where no job is named."""
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
    """The configuration of the job; its mistakes are found here, not on the cluster."""
    module, *words = job
    parse = getattr(importlib.import_module(module), "parse", None)
    if parse is None:  # of a package: it has names, and no configuration
        return None
    found = parse(words)
    config = found.config if isinstance(found, arguments.Start) else found
    for name, flag in OUTPUTS.items():
        if isinstance(place := getattr(config, name, None), str):
            check_lasting(place, flag)
    return config


def run_name(job: list[str], config: Any) -> str:
    """What a submission is called after: the job, and the run or its first argument."""
    kind = job[0].removeprefix("jobs.")
    first = job[1] if len(job) > 1 and not job[1].startswith("-") else ""
    subject = getattr(config, "name", None) or first.rstrip("/").rpartition("/")[2]
    return f"{kind}-{subject}" if subject else kind


def run(words: list[str]) -> int:
    """The exit status of the job."""
    before, job = split(words)
    flags = arguments.parse(Flags, before, program=PROGRAM, text=__doc__)
    name = run_name(job, check(job))
    from pipelines.ops import submission  # Ray and a second, for a command line that is sound

    config = Config(
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
    return submission.run(config, say=lambda text: say(f"[submit] {text}"), show=show).exit_code


def main() -> None:
    console.main(lambda: sys.exit(run(sys.argv[1:])))


if __name__ == "__main__":
    main()
