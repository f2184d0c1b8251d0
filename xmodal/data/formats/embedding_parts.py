"""The embeddings of a corpus as Parquet files, and the summary in the footer of each.

A folder holds `part-00000.parquet` ... of one checkpoint and one corpus, and `embeddings.json`. A part has the columns
`row`, `key`, `item` (position of the caption in its row's list; 0 for images), `modality`, `text` (null for images) and
`vector` (unit length). Its footer holds a summary of its rows, so that a part is either complete or invalid.
"""

import io
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from xmodal import storage
from xmodal.data.extents import DEFAULT_STORAGE
from xmodal.storage import StorageOptions

RECORD_NAME, SKIPPED_NAME = "embeddings.json", "skipped.jsonl"
SUMMARY_KEY = b"xmodal"

VectorDType = Literal["float32", "float16"]


@dataclass(frozen=True, kw_only=True)
class PartSummary:
    """Counts of one part. `of` is the identity of the checkpoint, the corpus and the settings that made it."""

    of: str
    rows: int  # valid rows of the corpus
    vectors: int
    skipped: list[dict[str, Any]] = field(default_factory=list)  # records of rows, or of single captions of valid rows

    @property
    def skipped_rows(self) -> int:
        """Rows without any vector."""
        return sum(record.get("item") is None for record in self.skipped)

    @property
    def accounted_rows(self) -> int:
        """Rows of the corpus that this part covers, skipped ones included."""
        return self.rows + self.skipped_rows


def part_name(number: int) -> str:
    """Return the file name of part `number`.

    >>> part_name(7)
    'part-00007.parquet'
    """
    return f"part-{number:05d}.parquet"


def is_part(name: str) -> bool:
    """Return whether a file name is that of a part."""
    return re.fullmatch(r"part-\d{5,}\.parquet", name) is not None


def part_schema(dim: int, dtype: VectorDType) -> pa.Schema:
    """Return the columns of a part whose vectors have `dim` numbers."""
    number = {"float32": pa.float32(), "float16": pa.float16()}[dtype]
    return pa.schema(
        [
            pa.field("row", pa.int64(), nullable=False),
            pa.field("key", pa.string(), nullable=False),
            pa.field("item", pa.int32(), nullable=False),
            pa.field("modality", pa.string(), nullable=False),
            pa.field("text", pa.string()),
            pa.field("vector", pa.list_(number, dim), nullable=False),
        ]
    )


def part_table(
    modality: str,
    row: np.ndarray,
    key: Sequence[str],
    item: np.ndarray,
    text: Sequence[str] | None,
    vector: np.ndarray,
    dtype: VectorDType,
) -> pa.Table:
    """Return the vectors [R, D] of one modality, with their rows, keys and texts, as a table of `part_schema`."""
    columns = part_schema(vector.shape[1], dtype)
    flat = pa.array(np.ascontiguousarray(vector, dtype=dtype).reshape(-1))
    return pa.table(
        {
            "row": row,
            "key": [name.encode("utf-8", "backslashreplace").decode() for name in key],
            "item": item.astype(np.int32),
            "modality": [modality] * len(row),
            "text": [None] * len(row) if text is None else list(text),
            "vector": pa.FixedSizeListArray.from_arrays(flat, vector.shape[1]),
        },
        schema=columns,
    )


def part_bytes(tables: Sequence[pa.Table], summary: PartSummary) -> bytes:
    """Return the bytes of one part: a row group for each table (images, then texts), and the summary in the footer."""
    metadata = {SUMMARY_KEY: json.dumps(vars(summary), ensure_ascii=False).encode("utf-8", "backslashreplace")}
    sink = io.BytesIO()
    compression = {"row": "zstd", "key": "zstd", "item": "zstd", "modality": "zstd", "text": "zstd"}
    columns = tables[0].schema
    with pq.ParquetWriter(
        sink,
        columns.with_metadata(metadata),
        compression={**compression, "vector.list.element": "none"},  # vectors do not get smaller
        use_dictionary=["modality"],
        write_statistics=["row", "modality"],
    ) as writer:
        for table in tables:
            if len(table):
                writer.write_table(table.replace_schema_metadata(metadata), row_group_size=len(table))
    return sink.getvalue()


def read_summary(uri: str, size: int, *, options: StorageOptions = DEFAULT_STORAGE) -> PartSummary | None:
    """Return the summary in the footer of a stored part of `size` bytes; None where it is not a valid part."""
    try:
        tail = storage.read(uri, max(0, size - (1 << 16)), options=options)
        footer_bytes = int.from_bytes(tail[-8:-4], "little") + 8
        if footer_bytes > len(tail):
            tail = storage.read(uri, max(0, size - footer_bytes), options=options)
        summary = (pq.read_metadata(io.BytesIO(tail)).metadata or {}).get(SUMMARY_KEY)
        return None if summary is None else PartSummary(**json.loads(summary))
    except (pa.ArrowException, ValueError, TypeError):
        return None
