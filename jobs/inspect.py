"""Look into a corpus before anything is trained on it.

    python -m jobs.inspect shards/
    python -m jobs.inspect shards/ --grid grid.png
    python -m jobs.inspect 's3://bucket/laion/{00000..00999}.tar' --grid - --rows 2000

Prints rows, fields, sizes, lengths of captions, duplicates (the same bytes, the same caption) and damage: what the
index found in the shards, and which rows a run would quarantine and why. --grid draws sample rows as a PNG, or with
`-` in a terminal that shows 24-bit colours. Of a corpus with more than --rows rows an even sample is read, and the
output says so: then shares and duplicates are those of the sample.
"""

import shutil
import sys
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from jobs import arguments, console
from pipelines.config.inspect import TERMINAL, Config
from xmodal.data.extents import damage_summary
from xmodal.data.index.survey import Alike
from xmodal.formatting import clean, count, percent, size
from xmodal.report.charts.contact_sheet import terminal_grid

if TYPE_CHECKING:
    from pipelines.corpus.inspect import Inspection

QUANTILES = {"least": 0.0, "5 %": 0.05, "median": 0.5, "95 %": 0.95, "most": 1.0}


def run(config: Config) -> None:
    from pipelines.corpus import inspect  # Ray Data and a second, for a command line that is sound

    with console.progress("index", "shards") as report:
        found = inspect.run(config, notify=print, progress=report)
    print("\n".join(describe(found)))
    if config.grid == TERMINAL:
        print("\n" + "\n".join(terminal_grid(found.survey.examples, shutil.get_terminal_size().columns)))
    elif config.grid:
        print(f"grid        {config.grid}: {count(len(found.survey.examples), 'row')}")


def describe(found: "Inspection") -> Iterator[str]:
    """What a person reads: a line for each thing, a table for what has quantiles."""
    corpus, seen = found.corpus, found.survey
    stored = sum(shard.size for shard in corpus.shards)
    yield f"corpus      {corpus.uri}"
    yield f"format      {corpus.format}, {count(len(corpus.shards), 'shard')}, {size(stored)}"
    yield f"rows        {corpus.rows:,} in {count(len(corpus.extents), 'extent')}, fingerprint {corpus.fingerprint}"
    if seen.rows < corpus.rows:
        yield (
            f"read        a sample: {seen.rows:,} rows ({percent(seen.rows / corpus.rows)}) from {seen.extents:,} of "
            f"{len(corpus.extents):,} extents; what follows is of the sample"
        )
    else:
        yield "read        all rows"
    yield f"fields      {_shares(seen.members, seen.rows)}"
    yield f"field map   {' '.join(found.mapping.specs) or 'none'}"
    yield from (f"            {line}" for line in found.unmapped)
    if seen.formats:
        yield f"images      {_shares(seen.formats, seen.rows)}"
    yield from _quantiles(seen.measures)
    yield f"same bytes    {_alike(seen.same_bytes, seen.rows)}"
    yield f"same caption  {_alike(seen.same_caption, seen.rows)}"
    yield from _damage(found)


def _shares(counts: Mapping[str, int], rows: int) -> str:
    return ", ".join(f"{clean(name, 40)} {percent(many / rows)}" for name, many in counts.items()) or "none"


def _quantiles(measures: Mapping[str, np.ndarray]) -> Iterator[str]:
    if not measures:
        return
    yield ""
    yield f"{'':22}" + "".join(f"{name:>11}" for name in QUANTILES)
    for name, values in measures.items():
        at = np.quantile(values, list(QUANTILES.values()))
        yield f"{name:22}" + "".join(f"{value:11,.0f}" for value in at)
    yield ""


def _alike(found: Alike, rows: int) -> str:
    if not found.rows:
        return "none"
    what = f" {clean(found.what, 60)!r}" if found.what else ""
    keys = ", ".join(clean(key, 40) for key in found.keys)
    groups = count(found.groups, "group")
    return f"{found.rows:,} rows ({percent(found.rows / rows)}) in {groups}; the largest:{what} {keys}"


def _damage(found: "Inspection") -> Iterator[str]:
    damage, faults = found.corpus.damage, found.survey.faults
    if damage:
        reasons = ", ".join(f"{many:,} {reason}" for reason, many in damage_summary(damage).items())
        first = f"{clean(damage[0].shard)} at byte {damage[0].offset:,}: {clean(damage[0].detail)}"
        yield f"damage      in shards: {reasons}; first {first}"
    for fault in faults:
        share = percent(fault.rows / found.survey.rows)
        yield (
            f"damage      {count(fault.rows, 'row')} ({share}) {fault.reason} ({fault.field}); "
            f"first {clean(fault.key, 60)}: {clean(fault.detail, 100)}"
        )
    if not damage and not faults:
        yield "damage      none found"


def preview(config: Config) -> dict[str, Any]:
    from pipelines.preview.local_jobs import inspecting

    return inspecting(config)


def parse(words: list[str]) -> arguments.Start[Config]:
    return arguments.parse_start(Config, words, program="python -m jobs.inspect", text=__doc__)


def main() -> None:
    console.main(lambda: arguments.begin(parse(sys.argv[1:]), run, preview))


if __name__ == "__main__":
    main()
