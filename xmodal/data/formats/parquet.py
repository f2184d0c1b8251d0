"""One Parquet shard comes in; its row groups as extents and its damage, or the rows of one extent, go out.

Layouts: Hugging Face (`image: struct<bytes, path>`), plain binary and string columns, img2dataset (`key`, `jpg`,
`caption`, `status`). Extension types are read as their storage: whatever they carry is never loaded.
"""

from collections.abc import Collection, Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from xmodal.data.extents import Contents, Damage, RawSample, Span
from xmodal.data.formats.tar_samples import name_fault
from xmodal.errors import BadSample

ROWS_PER_EXTENT = 512
LARGEST_SPLIT_GROUP = 64 << 20  # compressed bytes; extents of one row group each decode all of it
LARGEST_GROUP = 1 << 30  # compressed bytes
LARGEST_DECODED_GROUP = 4 << 30  # bytes
MOST_ROWS_IN_GROUP = 10_000_000
MOST_COLUMNS = 10_000

KEY_COLUMNS = ("key", "__key__")
STATUS_COLUMN, ERROR_COLUMN = "status", "error_message"  # img2dataset: a row whose download failed has no bytes

UNREADABLE = (pa.ArrowException, OSError, ValueError)  # what pyarrow raises for a damaged file


def kind(column: pa.DataType) -> str:
    """What a column delivers: "bytes", "text", "texts", "number", "null", or its own type for anything else."""
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
    """The type without extension or dictionary."""
    while isinstance(column, pa.BaseExtensionType):
        column = column.storage_type
    return column.value_type if pa.types.is_dictionary(column) else column


def _is_binary(column: pa.DataType) -> bool:
    types = pa.types
    return types.is_binary(column) or types.is_large_binary(column) or types.is_fixed_size_binary(column)


def _is_text(column: pa.DataType) -> bool:
    return pa.types.is_string(column) or pa.types.is_large_string(column)


def _is_file(column: pa.DataType) -> bool:
    """Hugging Face's struct of an image or audio file."""
    return pa.types.is_struct(column) and {field.name for field in column} == {"bytes", "path"}


def index_parquet(file: Any, size: int, path: str) -> Contents:
    """Read the footer of an open file; nothing else is touched."""
    if size == 0:
        return Contents(damage=(Damage(path, 0, "empty_shard", "zero bytes"),))
    try:
        opened = pq.ParquetFile(file)
        schema = opened.schema_arrow
    except UNREADABLE as error:
        return Contents(damage=(Damage(path, max(0, size - 8), "bad_footer", str(error)[:200]),))
    if len(schema) > MOST_COLUMNS:
        detail = f"{len(schema)} columns; at most {MOST_COLUMNS} are read"
        return Contents(damage=(Damage(path, 0, "too_many_columns", detail),))
    spans, damage = _row_groups(opened.metadata, size, path)
    if not spans and not damage:
        damage = [Damage(path, 0, "empty_shard", "no rows")]
    kinds = tuple(kind(column.type) for column in schema)
    return Contents(spans=tuple(spans), fields=tuple(schema.names), kinds=kinds, damage=tuple(damage))


def _row_groups(metadata: pq.FileMetaData, size: int, path: str) -> tuple[list[Span], list[Damage]]:
    spans: list[Span] = []
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
    """Byte positions where the row group's pages begin and end."""
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
    if not 0 < group.num_rows <= MOST_ROWS_IN_GROUP:
        return BadSample("bad_row_group", f"claims {group.num_rows} rows; at most {MOST_ROWS_IN_GROUP} are read")
    if any(column.num_values < group.num_rows for column in columns):
        return BadSample("bad_row_group", f"claims {group.num_rows} rows, but a column holds fewer values")
    if not 4 <= begin < end <= size - 8:
        return BadSample("bad_row_group", f"claims bytes {begin} to {end} of a file of {size} bytes")
    if end - begin > LARGEST_GROUP or group.total_byte_size > LARGEST_DECODED_GROUP:
        sizes = f"{(end - begin) >> 20} MiB, {group.total_byte_size >> 20} MiB decoded"
        return BadSample("row_group_too_large", f"{sizes}; write row groups of at most {LARGEST_GROUP >> 20} MiB")
    return None


def _split(first_row: int, rows: int, offset: int, length: int) -> Iterator[Span]:
    step = ROWS_PER_EXTENT if length <= LARGEST_SPLIT_GROUP else rows
    for start in range(0, rows, step):
        yield first_row + start, min(step, rows - start), offset, length


def columns_to_read(schema: pa.Schema, wanted: Collection[str] | None) -> list[str]:
    """The wanted columns that exist, and those that name a row or explain its absence."""
    if wanted is None:
        return list(schema.names)
    named = {*wanted, *KEY_COLUMNS, STATUS_COLUMN, ERROR_COLUMN}
    return [name for name in schema.names if name in named]


def raw_samples(table: pa.Table, first_row: int, wanted: Collection[str] | None) -> list[RawSample]:
    """The rows of a table as samples; `first_row` is the number of its first row in the file."""
    values = {name: to_python(table.column(name)) for name in dict.fromkeys(table.column_names)}
    keys = next((values[name] for name in KEY_COLUMNS if name in values), [None] * len(table))
    members = {name: column for name, column in values.items() if wanted is None or name in wanted}
    samples = []
    for i in range(len(table)):
        own = {name: column[i] for name, column in members.items()}
        key = str(first_row + i) if keys[i] is None else _safe_key(keys[i])
        fault = _download_fault(own, {n: values[n][i] for n in (STATUS_COLUMN, ERROR_COLUMN) if n in values})
        samples.append(RawSample(key, first_row + i, None if fault else own, fault))
    return samples


def _safe_key(value: Any) -> str:
    key = value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)
    return repr(key[:255]) if name_fault(key.encode("utf-8", "backslashreplace")) else key


def _download_fault(members: dict[str, Any], notes: dict[str, Any]) -> BadSample | None:
    status = notes.get(STATUS_COLUMN)
    if not isinstance(status, str) or status == "success" or None not in members.values():
        return None
    return BadSample("missing_member", f"status {status[:80]!r}: {str(notes.get(ERROR_COLUMN))[:120]}")


def to_python(column: pa.ChunkedArray) -> list[Any]:
    """Python values of a column: bytes of a file struct, storage of an extension, bytes where text is not UTF-8."""
    return [value for chunk in column.chunks for value in _chunk_to_python(chunk)]


def _chunk_to_python(array: pa.Array) -> list[Any]:
    while isinstance(array, pa.ExtensionArray):
        array = array.storage
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if _is_file(array.type):
        array = pc.struct_field(array, "bytes")
    try:
        return array.to_pylist()
    except UnicodeDecodeError:
        if not _is_text(array.type):
            return [None] * len(array)
        large = pa.types.is_large_string(array.type)
        return [_text(value) for value in array.view(pa.large_binary() if large else pa.binary()).to_pylist()]


def _text(value: bytes | None) -> str | bytes | None:
    """Text if it is UTF-8; otherwise the bytes, for the text field to refuse."""
    try:
        return None if value is None else value.decode()
    except UnicodeDecodeError:
        return value
