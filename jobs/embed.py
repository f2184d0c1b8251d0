"""Embed a corpus with a checkpoint: every image and caption, or video and audio, as unit vectors in Parquet files.

    python -m jobs.embed runs/first shards/ --to embeddings/
    python -m jobs.embed s3://bucket/runs/first s3://bucket/laion --to s3://bucket/vectors --dtype float16 --workers 8

CHECKPOINT is a run (its newest valid checkpoint is taken) or one checkpoint; CORPUS is a folder of shards. The folder
--to gets part-*.parquet with the columns row, key, item, modality, text and vector, which pandas, DuckDB and FAISS
read, embeddings.json (checkpoint, corpus, number of rows), and skipped.jsonl with every row that could not be read and
the reason. After a failure the same command continues: finished parts stay, and no row is lost or written twice.
"""

import sys

from jobs import arguments, console
from pipelines.config.embed import EmbedConfig
from pipelines.runtime.output_path import check_output


def run(config: EmbedConfig) -> None:
    from pipelines.inference import embed  # takes seconds to import: only for a valid command line
    from xmodal.data.formats.embedding_parts import SKIPPED_NAME

    check_output(config.to, "--to")
    with console.progress("embed", "rows") as progress:
        result = embed.run(config, progress=progress, notify=print)
    print(f"{result.rows:,} rows as {result.vectors:,} vectors of {result.dim} numbers; step {result.step:,}")
    if result.skipped:
        print(f"{result.skipped:,} rows could not be read: {result.to.rstrip('/')}/{SKIPPED_NAME} says why")
    resumed = f", {result.reused_parts:,} of them from before" if result.reused_parts else ""
    print(f"{result.parts:,} parts in {result.to}{resumed}; {result.seconds:.0f} s")


def preview(config: EmbedConfig) -> dict[str, object]:
    from pipelines.preview.encode import preview_embedding

    return preview_embedding(config)


def parse(words: list[str]) -> arguments.ModelJobRequest[EmbedConfig]:
    return arguments.parse_model_request(EmbedConfig, words, program="python -m jobs.embed", text=__doc__)


def main() -> None:
    console.main(lambda: arguments.run_or_preview(parse(sys.argv[1:]), run, preview))


if __name__ == "__main__":
    main()
