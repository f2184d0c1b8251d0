"""Check a laptop or a cluster before a run, and say what to mend.

    python -m jobs.doctor --corpus shards/
    python -m jobs.doctor --address 10.0.0.5:6379 --corpus s3://bucket/shards --runs s3://bucket/runs --workers 8
    python -m jobs.submit -- jobs.doctor --corpus s3://bucket/shards --runs s3://bucket/runs --workers 8

Checked on every node: equal versions, /dev/shm, GPUs as Ray and as torch see them, open files, disk for what spills out
of memory, reading the corpora and writing to the directory of runs, with the time both take. Checked once: whether the
workers fit, the cluster's token, and whether the indexes of the corpora are of the shards that lie there.

Without --address and RAY_ADDRESS this machine alone is checked, and no Ray is started. Exit status: 0 when a run can
start (a `warn` would slow it or leave it open to others), 1 when something would break it.
"""

import sys
from typing import TYPE_CHECKING, Any

from jobs import arguments, console
from pipelines.config.doctor import Config

if TYPE_CHECKING:
    from pipelines.ops.doctor import Finding


def table(findings: "list[Finding]") -> str:
    """A line for each check, and below those that are not well what to do."""
    width = max(len(finding.what) for finding in findings)
    lines = []
    for finding in findings:
        lines.append(f"{finding.state:5} {finding.what:{width}}  {finding.found}")
        if finding.state != "ok" and finding.mend:
            lines.append(f"{'':5} {'':{width}}  mend: {finding.mend}")
    return "\n".join(lines)


def run(config: Config) -> int:
    """1 when something would break a run."""
    from pipelines.ops import doctor  # Ray and a second, for a command line that is sound

    findings = doctor.run(config)
    print(table(findings))
    return int(any(finding.state == "bad" for finding in findings))


def preview(config: Config) -> dict[str, Any]:
    from pipelines.preview.local_jobs import examining

    return examining(config)


def parse(words: list[str]) -> arguments.Start[Config]:
    return arguments.parse_start(Config, words, program="python -m jobs.doctor", text=__doc__)


def main() -> None:
    console.main(lambda: sys.exit(arguments.begin(parse(sys.argv[1:]), run, preview)))


if __name__ == "__main__":
    main()
