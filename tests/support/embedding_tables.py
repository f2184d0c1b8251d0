"""The embeddings in a folder as one table."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq


def read_embeddings(folder: str) -> pa.Table:
    """Return all parts of a folder as one table, in order."""
    parts = [pq.read_table(path) for path in sorted(Path(folder).glob("part-*.parquet"))]
    return pa.concat_tables([part.replace_schema_metadata(None) for part in parts])
