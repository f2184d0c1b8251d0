"""Parse the words of a command line into the configuration of a job; `--help` opens with the job's own text."""

import json
import shutil
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Generic, Protocol, TypeVar

import tyro

from xmodal.errors import ConfigError, nearest
from xmodal.plugins import load_plugins

STYLE = (tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff, tyro.conf.PositionalMetavarFromFieldName)
HELP_FLAGS = frozenset({"-h", "--help"})
PLUGIN = "--plugin"
C = TypeVar("C")


@dataclass(frozen=True, kw_only=True)
class JobRequest(Generic[C]):
    """A job to start, or with `dry_run` only to describe."""

    config: Annotated[C, tyro.conf.arg(name="")]
    dry_run: bool = False  # check everything, print the configuration and the resources it takes as JSON, start nothing


@dataclass(frozen=True, kw_only=True)
class ModelJobRequest(JobRequest[C]):
    """A job that builds or loads a model, whose parts may be a user's own."""

    plugin: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """module that registers encoders, inputs, losses or weightings of your own, e.g.
    my_towers; it is imported here and on every worker, and the flag may be repeated"""


def parse(kind: type[C], words: Sequence[str], *, program: str, text: str | None, default: C | None = None) -> C:
    """Return a `kind` from flags over `default`.

    `text` is the documentation of the job, which `--help` prints above the flags. Ends the process with status 2 and
    the nearest flag on a mistake, and with status 0 after `--help`.
    """
    if HELP_FLAGS & set(words):
        print(wrap_paragraphs(text or "", shutil.get_terminal_size().columns))
    keywords: dict[str, Any] = {} if default is None else {"default": default}
    return tyro.cli(kind, args=list(words), prog=program, description="", config=STYLE, **keywords)


def parse_request(
    kind: type[C], words: Sequence[str], *, program: str, text: str | None, default: C | None = None
) -> JobRequest[C]:
    """Return the same as `parse`, with `--dry-run` among the flags."""
    return _parse_as(JobRequest, kind, words, program, text, default)


def parse_model_request(
    kind: type[C], words: Sequence[str], *, program: str, text: str | None, default: C | None = None
) -> ModelJobRequest[C]:
    """Return the same as `parse_request`, with `--plugin` among the flags; the plugins are loaded first."""
    load_plugins_of(words)
    return _parse_as(ModelJobRequest, kind, words, program, text, default)


def _parse_as(
    request: Any, kind: type[C], words: Sequence[str], program: str, text: str | None, default: C | None
) -> Any:
    """Parse a `request` whose configuration is a `kind`."""
    default_request = None if default is None else request(config=default)
    return parse(request[kind], words, program=program, text=text, default=default_request)


def load_plugins_of(words: Sequence[str]) -> None:
    """Import the modules that `--plugin` names, since what they register may be named by other flags."""
    pairs = zip(words, [*words[1:], ""], strict=True)
    following = [following for word, following in pairs if word == PLUGIN and not following.startswith("-")]
    joined = [word.partition("=")[2] for word in words if word.startswith(f"{PLUGIN}=")]
    load_plugins(filter(None, [*following, *joined]))


def wrap_paragraphs(text: str, columns: int) -> str:
    """Return a docstring whose paragraphs fit a terminal of `columns`; indented examples stay as they are."""
    if max(map(len, text.splitlines()), default=0) < columns:
        return text
    paragraphs = text.split("\n\n")
    return "\n\n".join(p if p.startswith((" ", "\n")) else textwrap.fill(p, columns - 1) for p in paragraphs)


def run_or_preview(
    request: JobRequest[C], run: Callable[[C], int | None], preview: Callable[[C], Mapping[str, object]]
) -> int | None:
    """Run the job, or print its preview as JSON; return the exit status where the job has one of its own."""
    if not request.dry_run:
        return run(request.config)
    print(json.dumps(preview(request.config), indent=2))
    return None


class Preset(Protocol):
    """A named starting point of a job, with one line for the help."""

    @property
    def summary(self) -> str: ...


P = TypeVar("P", bound=Preset)


def choose_preset(words: Sequence[str], presets: Mapping[str, P], *, program: str, text: str | None) -> tuple[str, P]:
    """Return the preset that the first word names, with its name.

    `--help` in place of a preset lists them and ends the process with status 0. Raises ConfigError with the nearest
    name, or with all names where none is given.
    """
    if words and words[0] in HELP_FLAGS:
        print(f"{text}\nPresets, each with its own --help:\n\n{_list_presets(presets)}")
        raise SystemExit(0)
    if not words or words[0].startswith("-"):
        raise ConfigError(f"name a preset first: {program} PRESET --corpus URI\n\n{_list_presets(presets)}")
    if words[0] not in presets:
        raise ConfigError(f"no preset {words[0]!r}: {nearest(words[0], presets)}")
    return words[0], presets[words[0]]


def _list_presets(presets: Mapping[str, P]) -> str:
    return "\n".join(f"  {name:14} {preset.summary}" for name, preset in presets.items())
