"""A job called in the tests' own process, which has imported everything: what it prints and how it ends."""

import contextlib
import io
import sys
from dataclasses import dataclass
from types import ModuleType
from unittest import mock


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The one line of a failure."""
        [line] = [line for line in self.err.splitlines() if not line.startswith("[pretrain]")]
        assert line.startswith("error: ") and "Traceback" not in self.out
        return line


def call(job: ModuleType, *arguments: str) -> Done:
    """`python -m jobs.JOB ARGUMENTS` in this process, with the Ray that it holds."""
    out, err = io.StringIO(), io.StringIO()
    code = 0
    redirected = contextlib.redirect_stdout(out), contextlib.redirect_stderr(err)
    with mock.patch.object(sys, "argv", [job.__name__, *arguments]), redirected[0], redirected[1]:
        try:
            job.main()
        except SystemExit as end:
            code = int(end.code or 0)
    return Done(code, out.getvalue(), err.getvalue())
