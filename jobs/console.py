"""Print errors in one line with their exit code, and progress as a bar on a terminal or as lines in a log."""

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from xmodal.errors import XmodalError

SECONDS_PER_LINE = 5.0
INTERRUPTED = 130


def main(run: Callable[[], object]) -> None:
    """Call `run`; an XmodalError becomes one line on stderr and its exit code, never a traceback."""
    try:
        run()
    except XmodalError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        raise SystemExit(INTERRUPTED) from None
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(0) from None


@contextmanager
def progress(label: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    """A callback (done, total): a bar on a terminal, else a line every few seconds; both on stderr."""
    if not sys.stderr.isatty():
        yield _Lines(label, unit)
        return
    columns = (
        TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TextColumn(unit),
        TextColumn("{task.fields[rate]}"), TimeElapsedColumn(), TextColumn("eta"), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(label, total=None, rate="")
        rate = _Rate()
        yield lambda done, total: bar.update(task, completed=done, total=total, rate=f"{rate.of(done):,.0f}/s")


class _Rate:
    """Units a second since the first report; what was done before does not count."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.first: int | None = None

    def of(self, done: int) -> float:
        if self.first is None:
            self.first = done
        return (done - self.first) / max(time.monotonic() - self.began, 1e-6)


class _Lines:
    def __init__(self, label: str, unit: str) -> None:
        self.label, self.unit = label, unit
        self.rate = _Rate()
        self.due = 0.0

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if now < self.due and done < total:
            return
        self.due = now + SECONDS_PER_LINE
        rate = self.rate.of(done)
        left = f", {(total - done) / rate:,.0f} s left" if rate and done < total else ""
        print(f"{self.label}: {done:,} of {total:,} {self.unit} ({rate:,.0f}/s{left})", file=sys.stderr, flush=True)
