"""The words of a command line in, the configuration of a job out; `--help` opens with the job's own text."""

import json
import shutil
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Generic, TypeVar

import tyro

STYLE = (tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff, tyro.conf.PositionalMetavarFromFieldName)
HELP = frozenset({"-h", "--help"})
C = TypeVar("C")


@dataclass(frozen=True, kw_only=True)
class Start(Generic[C]):
    """A job that starts work, or with `dry_run` only says what it would start."""

    config: Annotated[C, tyro.conf.arg(name="")]
    dry_run: bool = False  # check it, print it with its defaults and the resources it takes as JSON, and start nothing


def parse(kind: type[C], words: Sequence[str], *, program: str, text: str | None, default: C | None = None) -> C:
    """A `kind` from flags over `default`. Exit status 2 with the nearest flag on a mistake, 0 after `--help`.

    `text` is the documentation of the job, printed above the flags.
    """
    if HELP & set(words):
        print(fitted(text or "", shutil.get_terminal_size().columns))
    keywords: dict[str, Any] = {} if default is None else {"default": default}
    return tyro.cli(kind, args=list(words), prog=program, description="", config=STYLE, **keywords)


def fitted(text: str, columns: int) -> str:
    """The paragraphs of a docstring broken anew where they are wider than the terminal; examples stay as they are."""
    if max(map(len, text.splitlines()), default=0) < columns:
        return text
    paragraphs = text.split("\n\n")
    return "\n\n".join(p if p.startswith((" ", "\n")) else textwrap.fill(p, columns - 1) for p in paragraphs)


def parse_start(
    kind: type[C], words: Sequence[str], *, program: str, text: str | None, default: C | None = None
) -> Start[C]:
    """The same with `--dry-run` among the flags."""
    start: Any = None if default is None else Start(config=default)
    asked: Any = Start[kind]  # type: ignore[valid-type]
    return parse(asked, words, program=program, text=text, default=start)


def begin(start: Start[C], run: Callable[[C], int | None], preview: Callable[[C], dict[str, Any]]) -> int | None:
    """Run the job, or print what would be run; the exit status where the job has one of its own."""
    if not start.dry_run:
        return run(start.config)
    print(json.dumps(preview(start.config), indent=2))
    return None
