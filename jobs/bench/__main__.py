"""Measure what the README claims, each figure beside its target.

    python -m jobs.bench plan
    python -m jobs.bench loss ingest overhead

Prints one JSON object a line for each figure, with commit, hardware, load, repeats and spread. Opponents run in the
same run on the same work, so a figure is a ratio. Exit status: 0 when every figure reaches its target, 1 when one
falls short, 2 for an unknown name.
"""

import argparse
import ast
import importlib
import os
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

from jobs.bench.provenance import provenance
from xmodal.errors import ConfigError, XmodalError, nearest


def benchmarks() -> list[str]:
    """The modules beside this one that define `run`."""
    return sorted(_sources())


def _sources() -> dict[str, str]:
    """Their text by name; read, so that none has to be imported."""
    texts = {module.stem: module.read_text() for module in sorted(Path(__file__).parent.glob("*.py"))}
    return {name: text for name, text in texts.items() if "\ndef run(" in text}


def listing() -> str:
    """Every benchmark with the first line of its module."""
    first = {name: (ast.get_docstring(ast.parse(text)) or name).splitlines()[0] for name, text in _sources().items()}
    return "\n".join(
        textwrap.fill(line, 120, initial_indent=f"  {name:10} ", subsequent_indent=" " * 13)
        for name, line in first.items()
    )


NICENESS = 15  # what Ray gives its workers, and so what their opponents get: a neighbour takes as much from both


def run_one(name: str) -> bool:
    """Runs one benchmark, prints each figure when it is there; whether all of them reached their targets."""
    if name not in benchmarks():
        raise ConfigError(f"no benchmark {name!r}: {nearest(name, benchmarks())}")
    where = provenance()
    short = []
    for figure in importlib.import_module(f"jobs.bench.{name}").run():
        print(figure.to_json(where), flush=True)
        if not figure.ok:
            short.append(figure.name)
    if short:
        print(f"{name}: short of the target: {', '.join(short)}", file=sys.stderr)
    return not short


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code: 0 when every figure of every named benchmark reached its target, else 1; 2 for a mistake."""
    parser = argparse.ArgumentParser(
        prog="python -m jobs.bench",
        description=__doc__,
        epilog=f"benchmarks:\n{listing()}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="+", metavar="NAME", help="a benchmark of the list below")
    try:
        reached = [run_one(name) for name in parser.parse_args(arguments).names]
    except XmodalError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0 if all(reached) else 1


if __name__ == "__main__":
    os.setpriority(os.PRIO_PROCESS, 0, NICENESS)
    sys.exit(main())
