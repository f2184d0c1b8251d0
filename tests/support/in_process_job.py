"""Run a job in the tests' own process, which has imported everything."""

import contextlib
import io
import sys
from dataclasses import dataclass
from types import ModuleType
from unittest import mock


@dataclass(frozen=True)
class JobResult:
    """Exit code and output of a job."""

    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The one line of a failed job's error."""
        [line] = [line for line in self.err.splitlines() if not line.startswith("[pretrain]")]
        assert line.startswith("error: ") and "Traceback" not in self.out
        return line


def run_job(job: ModuleType, *arguments: str) -> JobResult:
    """Run `python -m jobs.JOB ARGUMENTS` in this process, with its Ray."""
    out, err = io.StringIO(), io.StringIO()
    code = 0
    redirected = contextlib.redirect_stdout(out), contextlib.redirect_stderr(err)
    with mock.patch.object(sys, "argv", [job.__name__, *arguments]), redirected[0], redirected[1]:
        try:
            job.main()
        except SystemExit as end:
            code = int(end.code or 0)
    return JobResult(code, out.getvalue(), err.getvalue())
