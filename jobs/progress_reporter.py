"""What a run says while it goes: its news in, lines that a person understands out."""

import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import TextIO

from jobs import console

SECONDS_PER_LINE = 2.0


class Narrator:
    """Prints a line for what happens and at most one every two seconds for progress; `stage` opens every line."""

    def __init__(self, stage: str, out: TextIO | None = None) -> None:
        self._stage = stage
        self._out = out or sys.stderr
        self._due = 0.0
        self._since: tuple[float, int] | None = None  # time and step of the first line: what starts takes no share
        self._bars = ExitStack()
        self._bar: Callable[[int, int], None] | None = None

    def __call__(self, message: dict) -> None:
        getattr(self, f"_{message['kind']}")(message)

    def _say(self, text: str) -> None:
        print(f"[{self._stage}] {text}", file=self._out, flush=True)

    def _note(self, message: dict) -> None:
        self._say(message["text"])

    def _indexing(self, message: dict) -> None:
        """A bar on a terminal, lines in a log, until the last shard."""
        if self._bar is None:
            self._bar = self._bars.enter_context(console.progress(f"[{self._stage}] indexing", "shards"))
        self._bar(message["done"], message["total"])
        if message["done"] == message["total"]:
            self._bars.close()
            self._bar = None

    def _opening(self, message: dict) -> None:
        self._say(
            f"{message['rows']:,} rows, {message['steps']:,} steps "
            f"({message['steps_per_epoch']:,} an epoch), {message['parameters'] / 1e6:.1f} M parameters"
        )
        if message["found"] is not None:
            self._say(f"found a checkpoint of step {message['found']:,} in {message['run']}")
        self._say("starting the workers")

    def _start(self, message: dict) -> None:
        """A worker group has started: the first one, or another after a failure."""
        self._since = None
        whence = f"from checkpoint {message['found']}" if message["found"] else "from nothing"
        self._say(f"{message['workers']} worker(s) start at step {message['step']:,} {whence}; the first batch comes")

    def _progress(self, message: dict) -> None:
        step, steps, metrics = message["step"], message["steps"], message["metrics"]
        since, first = self._since = self._since or (time.monotonic(), step)
        if not self._is_due(step == steps):
            return
        parts = [
            f"step {step:,}/{steps:,}",
            f"loss {metrics['loss']:.3f}",
            f"{metrics['samples_per_s']:,.0f} samples/s",
            f"waiting for data {metrics['data_wait_share']:.0%}",
        ]
        if step > first or step == steps:
            parts.append(f"ETA {clock((time.monotonic() - since) / max(step - first, 1) * (steps - step))}")
        if metrics["rows/quarantined"]:
            parts.append(f"{metrics['rows/quarantined']:,} bad rows")
        self._say("  ".join(parts))

    def _validation(self, message: dict) -> None:
        """What was measured between two steps, both ways, beside chance."""
        found = {name.removeprefix("validation/"): value for name, value in message["metrics"].items()}
        self._label_free(message, found)
        ways = [name.removesuffix("/recall@10") for name in found if name.endswith("/recall@10")]
        ways = [way for way in ways if not way.endswith("/chance")]
        if not ways:
            return
        parts = [f"{way.replace('_to_', ' -> ')} {found[f'{way}/recall@10']:.1%}" for way in ways]
        chance = f"chance {found[f'{ways[-1]}/chance/recall@10']:.1%}"
        self._say(
            f"step {message['step']:,}/{message['steps']:,}  recall@10 on {found['rows']:,.0f} held-out rows: "
            f"{', '.join(parts)} ({chance}; {found['seconds']:.1f} s)"
        )

    def _label_free(self, message: dict, found: dict[str, float]) -> None:
        """What the target's rows tell without labels."""
        scores = {name.removeprefix("target/"): x for name, x in found.items() if name.startswith("target/")}
        if scores:
            told = ", ".join(f"{name.replace('_', ' ')} {value:.3g}" for name, value in scores.items())
            self._say(f"step {message['step']:,}/{message['steps']:,}  target, without labels: {told}")

    def _is_due(self, last: bool) -> bool:
        now = time.monotonic()
        if now < self._due and not last:
            return False
        self._due = now + SECONDS_PER_LINE
        return True


def clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds + 0.5), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
