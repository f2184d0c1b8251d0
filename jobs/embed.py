"""Embed a corpus with a checkpoint: every picture and caption, or clip and its sound, as unit vectors in Parquet.

    python -m jobs.embed runs/first shards/ --to embeddings/
    python -m jobs.embed s3://bucket/runs/first s3://bucket/laion --to s3://bucket/vectors --dtype float16 --workers 8

CHECKPOINT is a run (its newest sound checkpoint is taken) or one checkpoint; CORPUS a folder of shards. The folder gets
part-*.parquet with the columns row, key, item, modality, text and vector, which pandas, DuckDB and FAISS read as they
are, embeddings.json (checkpoint, corpus, rows), and skipped.jsonl with every row that could not be read and why. A run
that was killed goes on with the same command: finished parts stay, and no row is lost or comes twice.
"""

import sys
from typing import Any

from jobs import arguments, console
from pipelines.config.embed import Config
from pipelines.runtime.output_path import check_output


def run(config: Config) -> None:
    from pipelines.inference import embed  # torch, Ray and seconds, for a command line that is sound

    check_output(config.to, "--to")
    with console.progress("embed", "rows") as progress:
        result = embed.run(config, progress=progress, notify=print)
    print(f"{result.rows:,} rows as {result.vectors:,} vectors of {result.dim} numbers; step {result.step:,}")
    if result.skipped:
        print(f"{result.skipped:,} rows could not be read: {result.to.rstrip('/')}/{embed.SKIPPED} says why")
    kept = f", {result.kept_parts:,} of them from before" if result.kept_parts else ""
    print(f"{result.parts:,} parts in {result.to}{kept}; {result.seconds:.0f} s")


def preview(config: Config) -> dict[str, Any]:
    from pipelines.preview.encode import embedding

    return embedding(config)


def parse(words: list[str]) -> arguments.Start[Config]:
    return arguments.parse_start(Config, words, program="python -m jobs.embed", text=__doc__)


def main() -> None:
    console.main(lambda: arguments.begin(parse(sys.argv[1:]), run, preview))


if __name__ == "__main__":
    main()
