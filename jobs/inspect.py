"""Inspect a corpus before training on it: sizes, fields, lengths of captions, duplicates and damage.

    python -m jobs.inspect shards/
    python -m jobs.inspect shards/ --grid grid.png
    python -m jobs.inspect 's3://bucket/laion/{00000..00999}.tar' --grid - --rows 2000

Prints the number of rows, their fields, image sizes, lengths of captions, duplicates (equal bytes, equal captions) and
damage: what the index found in the shards, and which rows a run would quarantine and why. --grid draws sample rows as a
PNG, or with `-` in a terminal that shows 24-bit colours. Of a corpus with more than --rows rows an even sample is read,
and the output says so: shares and duplicates are then those of the sample.
"""

import shutil
import sys
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from jobs import arguments, console
from pipelines.config.inspect import TERMINAL, InspectConfig
from xmodal.data.extents import damage_summary
from xmodal.data.index.survey import MIN_PAIRS, DuplicateRows, NeighbourLikeness
from xmodal.formatting import clean_text, format_bytes, format_percent, pluralize
from xmodal.report.charts.contact_sheet import terminal_grid

if TYPE_CHECKING:
    from pipelines.corpus.inspect import Inspection

QUANTILES = {"least": 0.0, "5 %": 0.05, "median": 0.5, "95 %": 0.95, "most": 1.0}


def run(config: InspectConfig) -> None:
    from pipelines.corpus import inspect  # takes seconds to import: only for a valid command line

    with console.progress("index", "shards") as report:
        inspection = inspect.run(config, notify=print, progress=report)
    print("\n".join(describe(inspection)))
    if config.grid == TERMINAL:
        print("\n" + "\n".join(terminal_grid(inspection.survey.examples, shutil.get_terminal_size().columns)))
    elif config.grid:
        print(f"grid        {config.grid}: {pluralize(len(inspection.survey.examples), 'row')}")


def describe(inspection: "Inspection") -> Iterator[str]:
    """Yield the result for a person: a line for each property, and a table of those that have quantiles."""
    corpus, survey = inspection.corpus, inspection.survey
    stored = sum(shard.size for shard in corpus.shards)
    yield f"corpus      {corpus.uri}"
    yield f"format      {corpus.format}, {pluralize(len(corpus.shards), 'shard')}, {format_bytes(stored)}"
    yield f"rows        {corpus.rows:,} in {pluralize(len(corpus.extents), 'extent')}, fingerprint {corpus.fingerprint}"
    if survey.rows < corpus.rows:
        yield (
            f"read        a sample: {survey.rows:,} rows ({format_percent(survey.rows / corpus.rows)}) from "
            f"{survey.extents:,} of {len(corpus.extents):,} extents; what follows is of the sample"
        )
    else:
        yield "read        all rows"
    yield f"fields      {_shares(survey.members, survey.rows)}"
    yield f"field map   {' '.join(inspection.mapping.specs) or 'none'}"
    yield from (f"            {line}" for line in inspection.missing_fields)
    if survey.formats:
        yield f"images      {_shares(survey.formats, survey.rows)}"
    yield from _quantiles(survey.measures)
    yield f"same bytes    {_duplicates(survey.same_bytes, survey.rows)}"
    yield f"same caption  {_duplicates(survey.same_caption, survey.rows)}"
    yield f"order         {_order(survey.neighbours)}"
    yield from _damage(inspection)


def _order(neighbours: NeighbourLikeness) -> str:
    """Say whether the corpus is sorted, and what that means for a training."""
    if neighbours.pairs < MIN_PAIRS:
        return "too few rows follow each other in the sample to say whether the corpus is sorted"
    found = (
        f"rows that follow each other share {format_percent(neighbours.captions)} of their captions' words (at random "
        f"{format_percent(neighbours.captions_at_random)}), and {format_percent(neighbours.images)} have the same image"
    )
    if not neighbours.is_sorted:
        return f"mixed: {found}"
    return (
        f"SORTED: {found}\n              --shuffle wide, the default of a training, mixes them; --shuffle task and off "
        "would fill batches with rows that are alike"
    )


def _shares(counts: Mapping[str, int], rows: int) -> str:
    return (
        ", ".join(f"{clean_text(name, 40)} {format_percent(number / rows)}" for name, number in counts.items())
        or "none"
    )


def _quantiles(measures: Mapping[str, np.ndarray]) -> Iterator[str]:
    if not measures:
        return
    yield ""
    yield f"{'':22}" + "".join(f"{name:>11}" for name in QUANTILES)
    for name, values in measures.items():
        at = np.quantile(values, list(QUANTILES.values()))
        yield f"{name:22}" + "".join(f"{value:11,.0f}" for value in at)
    yield ""


def _duplicates(duplicates: DuplicateRows, rows: int) -> str:
    if not duplicates.rows:
        return "none"
    caption = f" {clean_text(duplicates.caption, 60)!r}" if duplicates.caption else ""
    keys = ", ".join(clean_text(key, 40) for key in duplicates.keys)
    groups = pluralize(duplicates.groups, "group")
    return (
        f"{duplicates.rows:,} rows ({format_percent(duplicates.rows / rows)}) in {groups}; the largest:{caption} {keys}"
    )


def _damage(inspection: "Inspection") -> Iterator[str]:
    damage, faults = inspection.corpus.damage, inspection.survey.faults
    if damage:
        reasons = ", ".join(f"{many:,} {reason}" for reason, many in damage_summary(damage).items())
        first = f"{clean_text(damage[0].shard)} at byte {damage[0].offset:,}: {clean_text(damage[0].detail)}"
        yield f"damage      in shards: {reasons}; first {first}"
    for fault in faults:
        share = format_percent(fault.rows / inspection.survey.rows)
        yield (
            f"damage      {pluralize(fault.rows, 'row')} ({share}) {fault.reason} ({fault.field}); "
            f"first {clean_text(fault.key, 60)}: {clean_text(fault.detail, 100)}"
        )
    if not damage and not faults:
        yield "damage      none found"


def preview(config: InspectConfig) -> dict[str, object]:
    from pipelines.preview.local_jobs import preview_inspection

    return preview_inspection(config)


def parse(words: list[str]) -> arguments.JobRequest[InspectConfig]:
    return arguments.parse_request(InspectConfig, words, program="python -m jobs.inspect", text=__doc__)


def main() -> None:
    console.main(lambda: arguments.run_or_preview(parse(sys.argv[1:]), run, preview))


if __name__ == "__main__":
    main()
