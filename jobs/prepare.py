"""Turn a table or a folder of images and captions into a corpus that training can stream.

    python -m jobs.prepare pairs.csv corpus/
    python -m jobs.prepare photos/ s3://bucket/corpus --format parquet --shard-mb 256
    python -m jobs.prepare pairs.jsonl corpus/ --image-column file --caption-column title --resize-short-side 256

SOURCE is a table (.csv, .tsv, .jsonl, .ndjson, .parquet) with a column of image paths and one of captions, paths
relative to the table's folder (or --base); or a folder in which img.jpg has its caption beside it in img.txt,
img.caption or img.json. TARGET gets the shards, their index, and _refused.jsonl: one line for each row that could not
be used, with the reason.

A shard appears only when it is whole, and the index last. If the run is killed, start the same command again: finished
shards stay as they are. The same source and settings always give the same bytes.
"""

import sys
from typing import Any

from jobs import arguments, console
from pipelines.corpus import prepare
from pipelines.runtime.output_path import check_output
from xmodal import storage


def run(config: prepare.Config) -> None:
    check_output(config.target, "TARGET")
    with console.progress("prepare", "rows") as report:
        summary = prepare.run(config, progress=report, notify=print)
    print(describe(summary))


def describe(summary: prepare.Summary) -> str:
    """The closing words: what was written, what was not and why, where it lies, what to do next."""
    refused = ", ".join(f"{n:,} {reason}" for reason, n in summary.refused.items())
    kept = f" ({summary.kept_shards:,} from an earlier run)" if summary.kept_shards else ""
    target = summary.target
    return "\n".join(
        [
            f"rows     {summary.rows:,} written, {sum(summary.refused.values()):,} refused",
            *([f"refused  {refused}: see {storage.join(target, prepare.REFUSED)}"] if refused else []),
            f"shards   {summary.shards:,}{kept}, {summary.bytes / 1e6:,.1f} MB in {summary.seconds:.1f} s",
            f"index    {storage.join(target, '_xmodal_index.parquet')}",
            f"next     python -m jobs.pretrain vit-tiny --corpus {target}",
        ]
    )


def preview(config: prepare.Config) -> dict[str, Any]:
    from pipelines.preview.prepare import of

    return of(config)


def parse(words: list[str]) -> arguments.Start[prepare.Config]:
    return arguments.parse_start(prepare.Config, words, program="python -m jobs.prepare", text=__doc__)


def main() -> None:
    console.main(lambda: arguments.begin(parse(sys.argv[1:]), run, preview))


if __name__ == "__main__":
    main()
