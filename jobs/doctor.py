"""Check a laptop or a cluster before a run, and say what to fix.

    python -m jobs.doctor --corpus shards/
    python -m jobs.doctor --address 10.0.0.5:6379 --corpus s3://bucket/shards --runs s3://bucket/runs --workers 8
    python -m jobs.submit -- jobs.doctor --corpus s3://bucket/shards --runs s3://bucket/runs --workers 8

Checked on every node: equal versions, /dev/shm, GPUs as Ray and as torch see them, the limit of open files, disk space
for objects that do not fit in memory, and the time it takes to read the corpora and to write to the folder of runs.
Checked once: whether the workers fit on the cluster, the cluster's token, and whether the stored indexes match the
shards.

Without --address and RAY_ADDRESS only this machine is checked, and no Ray is started. Exit status: 0 when a run can
start (`warn` marks what would slow it down or leave it open to others), 1 when something would break it.
"""

import sys
from typing import TYPE_CHECKING

from jobs import arguments, console
from pipelines.config.doctor import DoctorConfig

if TYPE_CHECKING:
    from pipelines.ops.doctor import Check


def table(findings: "list[Check]") -> str:
    """Return a line for each check, and below those that failed what to do."""
    width = max(len(finding.subject) for finding in findings)
    lines = []
    for finding in findings:
        lines.append(f"{finding.state:5} {finding.subject:{width}}  {finding.finding}")
        if finding.state != "ok" and finding.fix:
            lines.append(f"{'':5} {'':{width}}  fix: {finding.fix}")
    return "\n".join(lines)


def run(config: DoctorConfig) -> int:
    """Return the exit status: 1 when something would break a run."""
    from pipelines.ops import doctor  # takes seconds to import: only for a valid command line

    findings = doctor.run(config)
    print(table(findings))
    return int(any(finding.state == "bad" for finding in findings))


def preview(config: DoctorConfig) -> dict[str, object]:
    from pipelines.preview.local_jobs import preview_doctor

    return preview_doctor(config)


def parse(words: list[str]) -> arguments.JobRequest[DoctorConfig]:
    return arguments.parse_request(DoctorConfig, words, program="python -m jobs.doctor", text=__doc__)


def main() -> None:
    console.main(lambda: sys.exit(arguments.run_or_preview(parse(sys.argv[1:]), run, preview)))


if __name__ == "__main__":
    main()
