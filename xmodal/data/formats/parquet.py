"""Index a Parquet shard (row groups become extents, with their damage), and turn table rows into samples.

Layouts: Hugging Face (`image: struct<bytes, path>`), plain binary and string columns, img2dataset (`key`, `jpg`,
`caption`, `status`). Extension types are read as their storage type, so that no code of theirs is ever loaded.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from xmodal.data.extents import Damage, RawSample, RowSpan, ShardContents
from xmodal.data.formats.tar_samples import name_fault
from xmodal.errors import BadSample

ROWS_PER_EXTENT = 512
MAX_SPLIT_GROUP_BYTES = 64 << 20  # compressed bytes; extents of one row group each decode all of it
MAX_GROUP_BYTES = 1 << 30  # compressed bytes
MAX_DECODED_GROUP_BYTES = 4 << 30  # bytes
MAX_ROWS_IN_GROUP = 10_000_000
MAX_COLUMNS = 10_000

KEY_COLUMNS = ("key", "__key__")
STATUS_COLUMN, ERROR_COLUMN = "status", "error_message"  # img2dataset: a row whose download failed has no bytes

PYARROW_ERRORS = (pa.ArrowException, OSError, ValueError)  # that pyarrow raises for a damaged file


def column_kind(column: pa.DataType) -> str:
    """Return what a column delivers: "bytes", "text", "texts", "number", "null", or the type's name for anything else.

    >>> column_kind(pa.list_(pa.string()))
    'texts'
    """
    column = plain_type(column)
    if _is_binary(column) or _is_file(column):
        return "bytes"
    if _is_text(column):
        return "text"
    if pa.types.is_list(column) or pa.types.is_large_list(column):
        return "texts" if _is_text(plain_type(column.value_type)) else str(column)
    if pa.types.is_integer(column) or pa.types.is_floating(column) or pa.types.is_boolean(column):
        return "number"
    return str(column)


def plain_type(column: pa.DataType) -> pa.DataType:
    """Return the type without extension or dictionary."""
    while isinstance(column, pa.BaseExtensionType):
        column = column.storage_type
    return column.value_type if pa.types.is_dictionary(column) else column


def _is_binary(column: pa.DataType) -> bool:
    types = pa.types
    return bool(types.is_binary(column) or types.is_large_binary(column) or types.is_fixed_size_binary(column))


def _is_text(column: pa.DataType) -> bool:
    return bool(pa.types.is_string(column) or pa.types.is_large_string(column))


def _is_file(column: pa.DataType) -> bool:
    """Return whether the type is Hugging Face's struct of an image or audio file."""
    return pa.types.is_struct(column) and {field.name for field in column} == {"bytes", "path"}


def index_parquet(file: Any, size: int, path: str) -> ShardContents:
    """Index an open Parquet file of `size` bytes from its footer alone; `path` is its name in the damage records."""
    if size == 0:
        return ShardContents(damage=(Damage(path, 0, "empty_shard", "zero bytes"),))
    try:
        parquet_file = pq.ParquetFile(file)
        schema = parquet_file.schema_arrow
    except PYARROW_ERRORS as error:
        return ShardContents(damage=(Damage(path, max(0, size - 8), "bad_footer", str(error)[:200]),))
    if len(schema) > MAX_COLUMNS:
        detail = f"{len(schema)} columns; at most {MAX_COLUMNS} are read"
        return ShardContents(damage=(Damage(path, 0, "too_many_columns", detail),))
    spans, damage = _row_groups(parquet_file.metadata, size, path)
    if not spans and not damage:
        damage = [Damage(path, 0, "empty_shard", "no rows")]
    kinds = tuple(column_kind(column.type) for column in schema)
    return ShardContents(spans=tuple(spans), fields=tuple(schema.names), kinds=kinds, damage=tuple(damage))


def _row_groups(metadata: pq.FileMetaData, size: int, path: str) -> tuple[list[RowSpan], list[Damage]]:
    spans: list[RowSpan] = []
    damage, first_row = [], 0
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        begin, end = group_span(group)
        fault = _group_fault(group, begin, end, size)
        if fault:
            damage.append(Damage(path, max(begin, 0), fault.reason, f"row group {number}: {fault.detail}"))
        elif group.num_rows:
            spans += _split(first_row, group.num_rows, begin, end - begin)
        first_row += max(group.num_rows, 0)
    return spans, damage


def group_span(group: pq.RowGroupMetaData) -> tuple[int, int]:
    """Return the byte positions where the row group's pages begin and end."""
    begin, end = 1 << 62, 0
    for number in range(group.num_columns):
        column = group.column(number)
        start = column.data_page_offset
        if column.has_dictionary_page and column.dictionary_page_offset:
            start = min(start, column.dictionary_page_offset)
        begin, end = min(begin, start), max(end, start + column.total_compressed_size)
    return begin, end


def _group_fault(group: pq.RowGroupMetaData, begin: int, end: int, size: int) -> BadSample | None:
    if group.num_rows == 0:
        return None
    columns = [group.column(number) for number in range(group.num_columns)]
    if not 0 < group.num_rows <= MAX_ROWS_IN_GROUP:
        return BadSample("bad_row_group", f"claims {group.num_rows} rows; at most {MAX_ROWS_IN_GROUP} are read")
    if any(column.num_values < group.num_rows for column in columns):
        return BadSample("bad_row_group", f"claims {group.num_rows} rows, but a column holds fewer values")
    if not 4 <= begin < end <= size - 8:
        return BadSample("bad_row_group", f"claims bytes {begin} to {end} of a file of {size} bytes")
    if end - begin > MAX_GROUP_BYTES or group.total_byte_size > MAX_DECODED_GROUP_BYTES:
        sizes = f"{(end - begin) >> 20} MiB, {group.total_byte_size >> 20} MiB decoded"
        return BadSample("row_group_too_large", f"{sizes}; write row groups of at most {MAX_GROUP_BYTES >> 20} MiB")
    return None


def _split(first_row: int, rows: int, offset: int, length: int) -> Iterator[RowSpan]:
    step = ROWS_PER_EXTENT if length <= MAX_SPLIT_GROUP_BYTES else rows
    for start in range(0, rows, step):
        yield first_row + start, min(step, rows - start), offset, length


def columns_to_read(schema: pa.Schema, columns: Collection[str] | None) -> list[str]:
    """Return those of `columns` that exist (None: all), and those that hold a row's key or why it is absent."""
    if columns is None:
        return list(schema.names)
    names = {*columns, *KEY_COLUMNS, STATUS_COLUMN, ERROR_COLUMN}
    return [name for name in schema.names if name in names]


def raw_samples(table: pa.Table, numbers: Sequence[int], columns: Collection[str] | None) -> list[RawSample]:
    """Return the rows of a table as samples with the members `columns` (None: all columns).

    `numbers` are those of the rows in the file; a row's number is its key where the table has no key column.
    """
    values = {name: column_values(table.column(name)) for name in dict.fromkeys(table.column_names)}
    keys = next((values[name] for name in KEY_COLUMNS if name in values), [None] * len(table))
    member_columns = {name: column for name, column in values.items() if columns is None or name in columns}
    samples = []
    for i, number in enumerate(numbers):
        members = {name: column[i] for name, column in member_columns.items()}
        key = str(number) if keys[i] is None else _safe_key(keys[i])
        fault = _download_fault(members, {n: values[n][i] for n in (STATUS_COLUMN, ERROR_COLUMN) if n in values})
        samples.append(RawSample(key, number, None if fault else members, fault))
    return samples


def _safe_key(value: object) -> str:
    key = value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)
    return repr(key[:255]) if name_fault(key.encode("utf-8", "backslashreplace")) else key


def _download_fault(members: Mapping[str, object], download: Mapping[str, object]) -> BadSample | None:
    """Return why a row of img2dataset has no bytes; None where it is complete or was not downloaded at all."""
    status = download.get(STATUS_COLUMN)
    if not isinstance(status, str) or status == "success" or None not in members.values():
        return None
    return BadSample("missing_member", f"status {status[:80]!r}: {str(download.get(ERROR_COLUMN))[:120]}")


def column_values(column: pa.ChunkedArray) -> list[object]:
    """Return the Python values of a column: the bytes of a file struct, and bytes where text is not UTF-8."""
    return [value for chunk in column.chunks for value in _chunk_to_python(chunk)]


def _chunk_to_python(array: pa.Array) -> list[object]:
    while isinstance(array, pa.ExtensionArray):
        array = array.storage
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if _is_file(array.type):
        array = pc.struct_field(array, "bytes")
    try:
        return list(array.to_pylist())
    except UnicodeDecodeError:
        if not _is_text(array.type):
            return [None] * len(array)
        large = pa.types.is_large_string(array.type)
        return [_text_or_bytes(value) for value in array.view(pa.large_binary() if large else pa.binary()).to_pylist()]


def _text_or_bytes(value: bytes | None) -> str | bytes | None:
    """Return text if it is UTF-8; otherwise the bytes, for the text field to reject."""
    try:
        return None if value is None else value.decode()
    except UnicodeDecodeError:
        return value
