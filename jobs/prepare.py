"""Make a corpus that training can stream from a table or a folder of images and captions.

    python -m jobs.prepare pairs.csv corpus/
    python -m jobs.prepare photos/ s3://bucket/corpus --format parquet --shard-mb 256
    python -m jobs.prepare pairs.jsonl corpus/ --image-column file --caption-column title --resize-short-side 256

SOURCE is a table (.csv, .tsv, .jsonl, .ndjson, .parquet) with a column of image paths, relative to the table's folder
(or --base), and a column of captions; or a folder in which img.jpg has its caption in img.txt, img.caption or img.json.
TARGET gets the shards, their index, and _refused.jsonl: one line for each row that could not be used, with the reason.

A shard appears only when it is complete, and the index last. If the command is killed, start it again: finished shards
stay as they are. The same source and settings always give the same bytes.
"""

import sys

from jobs import arguments, console
from pipelines.corpus import prepare
from pipelines.runtime.output_path import check_output
from xmodal import storage


def run(config: prepare.PrepareConfig) -> None:
    check_output(config.target, "TARGET")
    with console.progress("prepare", "rows") as report:
        summary = prepare.run(config, progress=report, notify=print)
    print(describe(summary))


def describe(summary: prepare.PrepareSummary) -> str:
    """Return what was written, what was refused and why, where the corpus is, and the next command."""
    refused = ", ".join(f"{n:,} {reason}" for reason, n in summary.refused.items())
    resumed = f" ({summary.reused_shards:,} from an earlier run)" if summary.reused_shards else ""
    target = summary.target
    return "\n".join(
        [
            f"rows     {summary.rows:,} written, {sum(summary.refused.values()):,} refused",
            *([f"refused  {refused}: see {storage.join(target, prepare.REFUSED)}"] if refused else []),
            f"shards   {summary.shards:,}{resumed}, {summary.bytes / 1e6:,.1f} MB in {summary.seconds:.1f} s",
            f"index    {storage.join(target, '_xmodal_index.parquet')}",
            f"next     python -m jobs.pretrain vit-tiny --corpus {target}",
        ]
    )


def preview(config: prepare.PrepareConfig) -> dict[str, object]:
    from pipelines.preview.prepare import preview_preparation

    return preview_preparation(config)


def parse(words: list[str]) -> arguments.JobRequest[prepare.PrepareConfig]:
    return arguments.parse_request(prepare.PrepareConfig, words, program="python -m jobs.prepare", text=__doc__)


def main() -> None:
    console.main(lambda: arguments.run_or_preview(parse(sys.argv[1:]), run, preview))


if __name__ == "__main__":
    main()
