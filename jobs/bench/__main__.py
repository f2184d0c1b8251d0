"""Measure the speed and memory that the documentation states, each figure with its target.

    python -m jobs.bench plan
    python -m jobs.bench loss ingest overhead --data /data
    python -m jobs.bench ingest av icons --list-data

Prints one JSON object a line for each figure, with commit, hardware, load, repeats and spread. Opponents run in the
same run on the same work, so a figure is a ratio. Some benchmarks need public data sets, which the list below names;
their files are compared with their known SHA-256 before anything runs. Exit status: 0 when every figure reaches its
target, 1 when one falls short, 2 for an unknown name or missing data.
"""

import argparse
import ast
import importlib
import os
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

from jobs.bench.datasets import dataset_names
from jobs.bench.machine import benchmark_provenance
from jobs.bench.real_data import describe_data, require_data
from xmodal.errors import ConfigError, XmodalError, nearest

NICENESS = 15  # what Ray gives its workers, and so what their opponents get: other load slows both alike


def benchmarks() -> list[str]:
    """Return the names of the modules beside this one that define `run`."""
    return sorted(_sources())


def needs_of(name: str) -> tuple[str, ...]:
    """Return the patterns of the data files that a benchmark reads, its constant NEEDS, without importing it."""
    for node in ast.parse(_sources().get(name, "")).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == "NEEDS":
            return ast.literal_eval(node.value)
    return ()


def list_benchmarks() -> str:
    """Return every benchmark with the first line of its module and the data sets that it reads."""
    lines = {name: (ast.get_docstring(ast.parse(text)) or name).splitlines()[0] for name, text in _sources().items()}
    lines |= {name: f"{lines[name]} (data: {dataset_names(needs)})" for name in lines if (needs := needs_of(name))}
    return "\n".join(
        textwrap.fill(line, 120, initial_indent=f"  {name:10} ", subsequent_indent=" " * 13)
        for name, line in lines.items()
    )


def run_one(name: str, data: str | None = None, *, allow_other_data: bool = False) -> bool:
    """Run one benchmark and print each figure at once; return whether all of them reached their targets.

    Raises ConfigError for an unknown name, and where the files that the benchmark reads are not in the folder `data`.
    """
    _check_name(name)
    needs = needs_of(name)
    arguments = [require_data(name, needs, data, allow_other=allow_other_data)] if needs else []
    provenance = benchmark_provenance()
    short = []
    for measurement in importlib.import_module(f"jobs.bench.{name}").run(*arguments):
        print(measurement.to_json(provenance), flush=True)
        if not measurement.ok:
            short.append(measurement.name)
    if short:
        print(f"{name}: short of the target: {', '.join(short)}", file=sys.stderr)
    return not short


def list_data(names: Sequence[str], data: str | None) -> None:
    """Print the data files that these benchmarks read, with checksums, sources and licences."""
    for name in names:
        _check_name(name)
        needs = needs_of(name)
        print(describe_data(name, needs, data) if needs else f"{name} reads no data set")


def main(arguments: Sequence[str] | None = None) -> int:
    """Return the exit code: 0 when every figure of every benchmark reached its target, else 1; 2 for a mistake."""
    options = _parser().parse_args(arguments)
    try:
        if options.list_data:
            list_data(options.names, options.data)
            return 0
        reached = [run_one(name, options.data, allow_other_data=options.allow_other_data) for name in options.names]
    except XmodalError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0 if all(reached) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m jobs.bench",
        description=__doc__,
        epilog=f"benchmarks:\n{list_benchmarks()}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="+", metavar="NAME", help="a benchmark of the list below")
    parser.add_argument(
        "--data",
        metavar="FOLDER",
        help="folder of the public data sets (default: XMODAL_BENCH_DATA, else shared/data beside the checkout)",
    )
    parser.add_argument("--allow-other-data", action="store_true", help="run on files with other checksums, too")
    parser.add_argument("--list-data", action="store_true", help="print the data files that are read, and run nothing")
    return parser


def _check_name(name: str) -> None:
    if name not in benchmarks():
        raise ConfigError(f"no benchmark {name!r}: {nearest(name, benchmarks())}")


def _sources() -> dict[str, str]:
    """Return the text of every benchmark by its name; read, so that none has to be imported."""
    texts = {module.stem: module.read_text() for module in sorted(Path(__file__).parent.glob("*.py"))}
    return {name: text for name, text in texts.items() if "\ndef run(" in text}


if __name__ == "__main__":
    os.setpriority(os.PRIO_PROCESS, 0, NICENESS)
    sys.exit(main())
