"""The words of a command line in, the configuration of a job out; `--help` opens with the job's own text."""

import json
import shutil
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Generic, Protocol, TypeVar

import tyro

from xmodal.errors import ConfigError, nearest

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


class Named(Protocol):
    """A preset: it has one line for the help."""

    @property
    def summary(self) -> str: ...


P = TypeVar("P", bound=Named)


def preset(words: Sequence[str], presets: Mapping[str, P], *, program: str, text: str | None) -> tuple[str, P]:
    """The preset that the first word names. Without a word for a preset, `--help` lists them and ends with status 0.

    ConfigError with the nearest name, or with all of them where none is named.
    """
    listing = "\n".join(f"  {name:14} {one.summary}" for name, one in presets.items())
    if words and words[0] in HELP:
        print(f"{text}\nPresets, each with its own --help:\n\n{listing}")
        raise SystemExit(0)
    if not words or words[0].startswith("-"):
        raise ConfigError(f"name a preset first: {program} PRESET --corpus URI\n\n{listing}")
    if words[0] not in presets:
        raise ConfigError(f"no preset {words[0]!r}: {nearest(words[0], presets)}")
    return words[0], presets[words[0]]
