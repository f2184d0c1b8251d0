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
import sys
from dataclasses import dataclass
from pathlib import Path

import tyro

from jobs import console, pretrain
from pipelines import submission
from pipelines.cluster import check_lasting
from xmodal.errors import ConfigError, nearest

PROGRAM = "python -m jobs.submit"


@dataclass(frozen=True, kw_only=True)
class Flags:
    """What stands before the `--`."""

    address: str | None = None  # of the job server; None: RAY_API_SERVER_ADDRESS, else http://127.0.0.1:8265
    token_file: Path | None = None  # holds the cluster's token; None: RAY_AUTH_TOKEN, then ~/.ray/auth_token
    token: str | None = None  # the token itself; other users of this machine can see it, so prefer a file
    name: str | None = None  # of the submission; None: the job's and the run's
    working_dir: str = "."  # the code to send
    wait: bool = True  # show the log and take over the exit status


def names() -> list[str]:
    """The jobs that can be submitted: the modules beside this one that a person starts."""
    found = Path(__file__).parent.glob("*.py")
    return sorted(f"jobs.{path.stem}" for path in found if "__main__" in path.read_text() and path != Path(__file__))


def split(arguments: list[str]) -> tuple[list[str], list[str]]:
    """The flags before the `--` and the job behind it, without a `python -m`; ConfigError where no job is named."""
    if "--" not in arguments:
        if {"-h", "--help"} & set(arguments):
            return arguments, []
        raise ConfigError(f"name the job behind a `--`, e.g. {PROGRAM} -- jobs.pretrain vit-b-32 --corpus URI")
    at = arguments.index("--")
    job = arguments[at + 1 :]
    job = job[2:] if job[:2] in (["python", "-m"], ["python3", "-m"]) else job
    if not job or job[0] not in [*names(), "jobs.bench"]:
        raise ConfigError(f"no job {job[0] if job else ''!r}: {nearest(job[0] if job else '', names())}")
    return arguments[:at], job


def run_name(job: list[str]) -> str:
    """What a submission is called after: the job, and the run as the job's own arguments name it."""
    module, *arguments = job
    kind = module.removeprefix("jobs.")
    if kind == "pretrain":  # its mistakes are found here, not on the cluster
        config = pretrain.parse([argument for argument in arguments if argument != pretrain.DRY_RUN])
        check_lasting(config.runs, "--runs")
        return f"{kind}-{config.name}"
    if "--name" in arguments[:-1]:
        return f"{kind}-{arguments[arguments.index('--name') + 1]}"
    subject = arguments[0].rstrip("/").rpartition("/")[2] if arguments and not arguments[0].startswith("-") else ""
    return f"{kind}-{subject}" if subject else kind


def run(arguments: list[str]) -> int:
    """The exit status of the job."""
    before, job = split(arguments)
    flags = tyro.cli(Flags, args=before, prog=PROGRAM, description=__doc__)
    config = submission.Config(
        command=("python", "-m", *job),
        name=flags.name or run_name(job),
        address=flags.address,
        token=flags.token or (submission.read_token(flags.token_file) if flags.token_file else None),
        working_dir=flags.working_dir,
        wait=flags.wait,
    )
    say = functools.partial(print, file=sys.stderr, flush=True)
    show = functools.partial(print, end="", flush=True)
    return submission.run(config, say=lambda text: say(f"[submit] {text}"), show=show).exit_code


def main() -> None:
    console.main(lambda: sys.exit(run(sys.argv[1:])))


if __name__ == "__main__":
    main()
