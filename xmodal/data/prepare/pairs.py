"""A table or a folder of images and captions comes in, its `Pairs` go out: one row for each, no image read yet.

Tables are CSV, TSV, JSON lines or Parquet with a column of image paths and a column of captions. In a folder, the
caption of `a/b.jpg` stands in `a/b.txt`, `a/b.caption` or `a/b.json`.
"""

import hashlib
import posixpath
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from xmodal import storage
from xmodal.data.prepare import tables
from xmodal.errors import CorpusError, nearest
from xmodal.storage import StorageOptions

IMAGE_EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")
SIDECARS = (".txt", ".caption", ".json")  # in order of preference
TABLES = {
    ".csv": tables.read_csv, ".tsv": tables.read_csv, ".jsonl": tables.read_json_lines,
    ".ndjson": tables.read_json_lines, ".parquet": tables.read_parquet,
}  # fmt: skip
SCHEMA = pa.schema([
    ("row", pa.int64()),  # of the source, from 1
    ("image", pa.large_binary()),  # the path as the source writes it
    ("caption", pa.large_binary()),  # null where a sidecar holds it
    ("sidecar", pa.string()),  # path below the base
    ("size", pa.int64()),  # bytes of the image, 0 where nobody has looked
    ("reason", pa.string()),  # why the row cannot be used; null otherwise
    ("detail", pa.string()),
])  # fmt: skip


@dataclass(frozen=True, eq=False)
class Pairs:
    """R rows in the order of the source; paths are relative to `base`, a folder in storage."""

    base: str
    table: pa.Table  # of SCHEMA
    caption_column: str | None = None  # also the key of a JSON sidecar

    @property
    def fingerprint(self) -> str:
        """16 hex digits that change when a path, a caption or the order of rows does."""
        digest = hashlib.sha256()
        for batch in self.table.select(["row", "image", "caption", "sidecar"]).to_batches(max_chunksize=1 << 16):
            digest.update(batch.serialize())
        return digest.hexdigest()[:16]


def read_pairs(
    source: str,
    *,
    image_column: str | None = None,
    caption_column: str | None = None,
    base: str | None = None,
    options: StorageOptions | None = None,
) -> Pairs:
    """List `source`, a folder or a table by its ending; CorpusError where it is missing, empty or neither.

    Without `image_column` and `caption_column` the columns are recognised by their usual names. `base` is where
    relative paths of a table begin; by default, the table's own folder.
    """
    options = options or StorageOptions()
    ending = posixpath.splitext(source)[1].lower()
    files = storage.list_files(source, options=options)
    if ending in TABLES and [entry.uri for entry in files] == [source]:
        columns = tables.Columns(image_column, caption_column)
        rows, caption = TABLES[ending](storage.read(source, options=options), source, columns)
        return Pairs(base or posixpath.dirname(source) or ".", _table(rows, source), caption)
    if len(files) == 1 and files[0].uri == source:
        raise CorpusError(
            f"{source} is neither a folder nor a table that can be read (its name ends in {ending or 'nothing'!r}); "
            f"{nearest(ending, TABLES)}"
        )
    if base or image_column:
        raise CorpusError(f"{source} is a folder: --base and --image-column are for tables; leave them out")
    return Pairs(source, _table(_folder(source, files), source), caption_column)


def _table(rows: Iterable[dict[str, Any]], source: str) -> pa.Table:
    """Rows in pieces of 64k, so that tables of many millions of rows never stand in memory as Python objects."""
    batches, held = [], []
    for row in rows:
        held.append(row)
        if len(held) == 1 << 16:
            batches.append(pa.RecordBatch.from_pylist(held, schema=SCHEMA))
            held = []
    batches.append(pa.RecordBatch.from_pylist(held, schema=SCHEMA))
    table = pa.Table.from_batches(batches, schema=SCHEMA).combine_chunks()
    if not table.num_rows:
        raise CorpusError(f"{source} lists no images: there is nothing to prepare")
    return table


def _folder(source: str, files: list[storage.Entry]) -> Iterable[dict[str, Any]]:
    prefix = source.removesuffix("/") + "/"
    sizes = {entry.uri.removeprefix(prefix): entry.size for entry in files}
    images = [path for path in sizes if _ending(path) in IMAGE_EXTENSIONS and not _hidden(path)]
    for number, path in enumerate(images, 1):
        stem = posixpath.splitext(path)[0]
        sidecar = next((stem + ending for ending in SIDECARS if stem + ending in sizes), None)
        row = {"row": number, "image": path.encode(errors="surrogateescape"), "size": sizes[path], "sidecar": sidecar}
        if sidecar is None:
            row |= {"reason": "no_caption", "detail": f"none of {posixpath.basename(stem)}{{{','.join(SIDECARS)}}}"}
        yield row
    if not images:
        raise CorpusError(f"{source} holds no image files ({', '.join(IMAGE_EXTENSIONS)}) among {len(sizes)} files")


def _ending(path: str) -> str:
    return posixpath.splitext(path)[1].lower()


def _hidden(path: str) -> bool:
    return any(part.startswith(".") for part in path.split("/"))
