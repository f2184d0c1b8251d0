"""Read image paths and captions from the bytes of a CSV, JSON-lines or Parquet table.

A reader returns the rows, as dicts with the fields of `pairs.LISTING_SCHEMA`, and the caption column that it used. A
row that cannot be read keeps its number and has `reason` and `detail`.
"""

import csv
import io
import json
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from xmodal.errors import CorpusError, nearest

IMAGE_NAMES = (
    "image", "image_path", "img", "img_path", "path", "file", "file_name", "filename", "filepath", "file_path",
)  # fmt: skip
CAPTION_NAMES = ("caption", "captions", "text", "txt", "title", "description", "sentence", "prompt", "alt", "alt_text")
_SAMPLED_LINES = 200  # of a JSON-lines table, searched for column names
_MAX_CELL_BYTES = 1 << 24  # of one CSV cell

Row = dict[str, Any]


class TableColumns(NamedTuple):
    """The columns to use; None means the one with a usual name."""

    image: str | None
    caption: str | None

    def resolve(self, names: Sequence[str], source: str) -> tuple[str, str]:
        """Return the image and caption columns among `names`; CorpusError where there is not exactly one of each."""
        image = _choose("image", self.image, names, IMAGE_NAMES, source)
        caption = _choose("caption", self.caption, names, CAPTION_NAMES, source)
        if image == caption:
            raise CorpusError(f"{source}: column {image!r} cannot be both the image path and the caption")
        return image, caption


def _choose(role: str, column: str | None, names: Sequence[str], usual: Sequence[str], source: str) -> str:
    """Return `column` if it is given and exists, else the only one of `names` that is a usual name for the role."""
    if column is not None:
        if column not in names:
            raise CorpusError(f"{source} has no column {column!r} for the {role}; {nearest(column, names)}")
        return column
    matches = [name for name in names if name.strip().lower().replace(" ", "_").replace("-", "_") in usual]
    columns = ", ".join(names) or "(none)"
    if not matches:
        raise CorpusError(f"{source}: no column looks like the {role}; say --{role}-column NAME. Columns: {columns}")
    if len(matches) > 1:
        raise CorpusError(
            f"{source}: {' and '.join(matches)} could each be the {role}; choose with --{role}-column. "
            f"Columns: {columns}"
        )
    return matches[0]


def read_csv(data: bytes, source: str, columns: TableColumns) -> tuple[Iterator[Row], str]:
    """Read a comma-separated table with a header line, in UTF-8; `.tsv` is separated by tabs."""
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise CorpusError(f"{source} is UTF-16; save it as UTF-8")
    text = io.TextIOWrapper(io.BytesIO(data), "utf-8-sig", errors="surrogateescape", newline="")
    csv.field_size_limit(_MAX_CELL_BYTES)
    lines = csv.reader(text, delimiter="\t" if source.lower().endswith(".tsv") else ",")
    header = next(lines, [])
    image, caption = columns.resolve(header, source)
    return _csv_rows(lines, len(header), header.index(image), header.index(caption), source), caption


def _csv_rows(lines: Any, width: int, image: int, caption: int, source: str) -> Iterator[Row]:
    number = 0
    try:
        for cells in lines:
            if not cells:  # a blank line is no row
                continue
            number += 1
            if len(cells) == width:
                yield {"row": number, "image": _encode(cells[image]), "caption": _encode(cells[caption])}
            else:
                yield _rejected_row(number, "bad_row", f"{len(cells)} cells where the header has {width}")
    except csv.Error as cause:
        raise CorpusError(f"{source}, line {lines.line_num}: {cause}; is it a CSV with balanced quotes?") from cause


def read_json_lines(data: bytes, source: str, columns: TableColumns) -> tuple[Iterator[Row], str]:
    """Read a table of one JSON object a line."""
    lines = data.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    objects = (_parse(line) for line in lines[:_SAMPLED_LINES] if line.strip())
    names = dict.fromkeys(name for item in objects if isinstance(item, dict) for name in item)
    if not names and any(line.strip() for line in lines):
        raise CorpusError(f"{source} is not JSON lines: none of its first lines is an object such as {{...}}")
    image, caption = columns.resolve(list(names), source)
    return _json_rows(lines, image, caption), caption


def _json_rows(lines: list[bytes], image: str, caption: str) -> Iterator[Row]:
    number = 0
    for line in lines:
        if line.strip():
            number += 1
            item = _parse(line)
            if isinstance(item, dict):
                yield _row(number, item.get(image), item.get(caption))
            else:
                yield _rejected_row(number, *(item if isinstance(item, tuple) else ("bad_row", "not a JSON object")))


def _parse(line: bytes) -> object:
    """Return the value of a JSON line, or the tuple (reason, detail) where it has none; an array becomes a list."""
    try:
        return json.loads(line.decode())
    except UnicodeDecodeError as cause:
        return "bad_utf8", str(cause)
    except (ValueError, RecursionError) as cause:
        return "bad_row", f"not JSON: {cause}"


def read_parquet(data: bytes, source: str, columns: TableColumns) -> tuple[Iterator[Row], str]:
    """Read a Parquet table whose image column holds paths; CorpusError if it holds the images themselves."""
    try:
        file = pq.ParquetFile(pa.BufferReader(data))
    except (pa.ArrowException, OSError) as cause:
        raise CorpusError(f"{source} is not a Parquet file that can be read: {cause}") from cause
    image, caption = columns.resolve(file.schema_arrow.names, source)
    for name in (image, caption):
        kind = file.schema_arrow.field(name).type
        kind = kind.value_type if pa.types.is_dictionary(kind) else kind
        if name == image and (pa.types.is_struct(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
            raise CorpusError(
                f"{source}: column {image!r} holds the images themselves; use the file as --corpus as it is"
            )
        if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)):
            raise CorpusError(f"{source}: column {name!r} holds {kind}, not text; choose another column")
    return _parquet_rows(file, image, caption, source), caption


def _parquet_rows(file: pq.ParquetFile, image: str, caption: str, source: str) -> Iterator[Row]:
    number = 0
    try:
        for batch in file.iter_batches(columns=[image, caption]):
            # as bytes, because pyarrow does not check that stored text is UTF-8
            pair = [batch.column(name).cast(pa.large_string()).cast(pa.large_binary()) for name in (image, caption)]
            for path, text in zip(*(column.to_pylist() for column in pair), strict=True):
                number += 1
                yield _row(number, path, text)
    except (pa.ArrowException, OSError) as cause:
        raise CorpusError(f"{source} is damaged after row {number}: {cause}") from cause


def _row(number: int, image: object, caption: object) -> Row:
    if not isinstance(image, str | bytes):
        return _rejected_row(number, "bad_row", f"the image path is {type(image).__name__}, not text")
    if not isinstance(caption, str | bytes):
        rejected = _rejected_row(number, "no_caption", f"the caption is {type(caption).__name__}")
        return {**rejected, "image": _encode(image)}
    return {"row": number, "image": _encode(image), "caption": _encode(caption)}


def _rejected_row(number: int, reason: str, detail: str) -> Row:
    return {"row": number, "reason": reason, "detail": detail}


def _encode(value: str | bytes) -> bytes:
    """Return UTF-8; text that was not UTF-8 becomes its original bytes, so that its row is rejected later."""
    if isinstance(value, bytes):
        return value
    try:
        return value.encode(errors="surrogateescape")
    except UnicodeEncodeError:  # half a surrogate pair from a JSON escape
        return value.encode(errors="surrogatepass")
