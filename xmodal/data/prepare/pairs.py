"""List the image-caption pairs of a table or a folder, without reading the images.

Tables are CSV, TSV, JSON lines or Parquet with a column of image paths and a column of captions. In a folder, the
caption of `a/b.jpg` is in `a/b.txt`, `a/b.caption` or `a/b.json`.
"""

import hashlib
import posixpath
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import pyarrow as pa

from xmodal import storage
from xmodal.data.prepare import tables
from xmodal.errors import CorpusError, nearest
from xmodal.storage import StorageOptions

IMAGE_EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")
CAPTION_EXTENSIONS = (".txt", ".caption", ".json")  # in order of preference
TABLE_READERS = {
    ".csv": tables.read_csv, ".tsv": tables.read_csv, ".jsonl": tables.read_json_lines,
    ".ndjson": tables.read_json_lines, ".parquet": tables.read_parquet,
}  # fmt: skip
LISTING_SCHEMA = pa.schema([
    ("row", pa.int64()),  # number in the source, from 1
    ("image", pa.large_binary()),  # path as in the source
    ("caption", pa.large_binary()),  # null where it is in a file of its own
    ("sidecar", pa.string()),  # path, below the base, of the file with the caption
    ("size", pa.int64()),  # bytes of the image, 0 where unknown
    ("reason", pa.string()),  # why the row cannot be used; null otherwise
    ("detail", pa.string()),
])  # fmt: skip


@dataclass(frozen=True, eq=False)
class PairListing:
    """The pairs of a source in its order; paths are relative to `base`, a folder in storage."""

    base: str
    table: pa.Table  # with the columns of LISTING_SCHEMA
    caption_column: str | None = None  # also the key of the caption in JSON files

    @property
    def fingerprint(self) -> str:
        """16 hex digits that change when a path, a caption or the order of rows changes."""
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
) -> PairListing:
    """List `source`, a folder or a table (by its file name); CorpusError where it is missing, empty or neither.

    Without `image_column` and `caption_column` the columns are found by their usual names. `base` is the folder that
    the paths of a table are relative to; by default, the table's own folder.
    """
    options = options or StorageOptions()
    ending = posixpath.splitext(source)[1].lower()
    files = storage.list_files(source, options=options)
    if ending in TABLE_READERS and [entry.uri for entry in files] == [source]:
        columns = tables.TableColumns(image_column, caption_column)
        rows, caption = TABLE_READERS[ending](storage.read(source, options=options), source, columns)
        return PairListing(base or posixpath.dirname(source) or ".", _table(rows, source), caption)
    if len(files) == 1 and files[0].uri == source:
        raise CorpusError(
            f"{source} is neither a folder nor a table that can be read (its name ends in {ending or 'nothing'!r}); "
            f"{nearest(ending, TABLE_READERS)}"
        )
    if base or image_column:
        raise CorpusError(f"{source} is a folder: --base and --image-column are for tables; leave them out")
    return PairListing(source, _table(_list_folder(source, files), source), caption_column)


def _table(rows: Iterable[Mapping[str, object]], source: str) -> pa.Table:
    """Convert rows to a table, 64k at a time, so that millions of rows are never in memory as Python objects."""
    batches, pending = [], []
    for row in rows:
        pending.append(row)
        if len(pending) == 1 << 16:
            batches.append(pa.RecordBatch.from_pylist(pending, schema=LISTING_SCHEMA))
            pending = []
    batches.append(pa.RecordBatch.from_pylist(pending, schema=LISTING_SCHEMA))
    table = pa.Table.from_batches(batches, schema=LISTING_SCHEMA).combine_chunks()
    if not table.num_rows:
        raise CorpusError(f"{source} lists no images: there is nothing to prepare")
    return table


def _list_folder(source: str, files: list[storage.Entry]) -> Iterable[dict[str, object]]:
    """Yield a row for each image file; CorpusError where there is none."""
    prefix = source.removesuffix("/") + "/"
    sizes = {entry.uri.removeprefix(prefix): entry.size for entry in files}
    images = [path for path in sizes if _ending(path) in IMAGE_EXTENSIONS and not _is_hidden(path)]
    for number, path in enumerate(images, 1):
        stem = posixpath.splitext(path)[0]
        sidecar = next((stem + ending for ending in CAPTION_EXTENSIONS if stem + ending in sizes), None)
        row = {"row": number, "image": path.encode(errors="surrogateescape"), "size": sizes[path], "sidecar": sidecar}
        if sidecar is None:
            row |= {
                "reason": "no_caption",
                "detail": f"none of {posixpath.basename(stem)}{{{','.join(CAPTION_EXTENSIONS)}}}",
            }
        yield row
    if not images:
        raise CorpusError(f"{source} holds no image files ({', '.join(IMAGE_EXTENSIONS)}) among {len(sizes)} files")


def _ending(path: str) -> str:
    return posixpath.splitext(path)[1].lower()


def _is_hidden(path: str) -> bool:
    return any(part.startswith(".") for part in path.split("/"))
