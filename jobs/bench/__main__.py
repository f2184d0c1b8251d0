"""Names of benchmarks go in, JSON lines come out; exit code 1 when a figure falls short, 2 for an unknown name."""

import argparse
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

from jobs.bench.provenance import provenance
from xmodal.errors import ConfigError, XmodalError, nearest


def benchmarks() -> list[str]:
    """The modules beside this one that define `run`; read as text, so that none has to be imported."""
    modules = sorted(Path(__file__).parent.glob("*.py"))
    return [module.stem for module in modules if "\ndef run(" in module.read_text()]


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
    parser = argparse.ArgumentParser(prog="python -m jobs.bench", description=__doc__)
    parser.add_argument("names", nargs="+", metavar="NAME", help=f"one of: {', '.join(benchmarks())}")
    try:
        reached = [run_one(name) for name in parser.parse_args(arguments).names]
    except XmodalError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0 if all(reached) else 1


if __name__ == "__main__":
    sys.exit(main())
