"""Embeddings of a corpus as Parquet: rows and vectors in, the bytes of one part out, and back.

A folder holds `part-00000.parquet` ... of one checkpoint and one corpus, with `embeddings.json` beside them. A part has
the columns `row`, `key`, `item` (place of the caption in its row's list; 0 for images), `modality`, `text` (null for
images) and `vector` (unit length). It carries its own account in its footer, so that a part stands or falls whole.
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
from xmodal.errors import StorageError
from xmodal.storage import StorageOptions

RECORD, SKIPPED = "embeddings.json", "skipped.jsonl"
ACCOUNT = b"xmodal"
DEFAULT = StorageOptions()

DType = Literal["float32", "float16"]


@dataclass(frozen=True, kw_only=True)
class Account:
    """What became of the rows of one part. `of` names the checkpoint, corpus and settings that it belongs to."""

    of: str
    rows: int  # of the corpus, sound
    vectors: int
    skipped: list[dict[str, Any]] = field(default_factory=list)  # records of rows, or of single captions of sound rows

    @property
    def skipped_rows(self) -> int:
        return sum(record.get("item") is None for record in self.skipped)

    @property
    def seen(self) -> int:
        """Rows of the corpus that this part accounts for."""
        return self.rows + self.skipped_rows


def part_name(number: int) -> str:
    return f"part-{number:05d}.parquet"


def is_part(name: str) -> bool:
    return re.fullmatch(r"part-\d{5,}\.parquet", name) is not None


def schema(dim: int, dtype: DType) -> pa.Schema:
    """The columns of a part."""
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


def table(
    modality: str,
    row: np.ndarray,
    key: Sequence[str],
    item: np.ndarray,
    text: Sequence[str] | None,
    vector: np.ndarray,
    dtype: DType,
) -> pa.Table:
    """Vectors [R, D] of one modality with what they are of, as a table of `schema`."""
    columns = schema(vector.shape[1], dtype)
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


def part_bytes(tables: Sequence[pa.Table], account: Account) -> bytes:
    """One part: a row group for each table (images, then texts), and the account in the footer."""
    note = {ACCOUNT: json.dumps(vars(account), ensure_ascii=False).encode("utf-8", "backslashreplace")}
    sink = io.BytesIO()
    packed = {"row": "zstd", "key": "zstd", "item": "zstd", "modality": "zstd", "text": "zstd"}
    columns = tables[0].schema
    with pq.ParquetWriter(
        sink,
        columns.with_metadata(note),
        compression={**packed, "vector.list.element": "none"},  # vectors do not get smaller
        use_dictionary=["modality"],
        write_statistics=["row", "modality"],
    ) as writer:
        for each in tables:
            if len(each):
                writer.write_table(each.replace_schema_metadata(note), row_group_size=len(each))
    return sink.getvalue()


def read_account(uri: str, size: int, *, options: StorageOptions = DEFAULT) -> Account | None:
    """The account of a stored part of `size` bytes; None where it is no sound part."""
    try:
        tail = storage.read(uri, max(0, size - (1 << 16)), options=options)
        needed = int.from_bytes(tail[-8:-4], "little") + 8
        if needed > len(tail):
            tail = storage.read(uri, max(0, size - needed), options=options)
        note = (pq.read_metadata(io.BytesIO(tail)).metadata or {}).get(ACCOUNT)
        return None if note is None else Account(**json.loads(note))
    except (pa.ArrowException, ValueError, TypeError):
        return None


def read_embeddings(uri: str, *, options: StorageOptions = DEFAULT) -> pa.Table:
    """All parts of a folder, in order; StorageError where there are none."""
    names = sorted(
        entry.uri for entry in storage.list_files(uri, options=options) if is_part(entry.uri.rpartition("/")[2])
    )
    if not names:
        raise StorageError(f"{uri} holds no embeddings (no part-*.parquet); make them with python -m jobs.embed")
    parts = [pq.read_table(io.BytesIO(storage.read(name, options=options))) for name in names]
    return pa.concat_tables([part.replace_schema_metadata(None) for part in parts])
