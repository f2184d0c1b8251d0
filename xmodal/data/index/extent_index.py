"""Store and load the index of a corpus as one Parquet file: extents as rows, everything else as JSON metadata."""

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from xmodal import storage
from xmodal.data.extents import Damage, Extents, Shard, ShardFormat, ShardIndex
from xmodal.errors import CorpusError

VERSION = 1
INDEX_NAME = "_xmodal_index"
_METADATA_KEY = b"xmodal_index"
_COLUMNS = {"shard": "int32", "first_row": "int64", "rows": "int32", "offset": "int64", "length": "int64"}
_METADATA_LIMIT = 1 << 30  # bytes of JSON: about four million shards


class DamagedIndexError(Exception):
    """Raised for a stored index that cannot be used; the corpus must be indexed again."""


@dataclass(frozen=True)
class CorpusIndex:
    """A corpus without its URI: shards sorted by path, extents in the order of shards and rows, and damage."""

    format: ShardFormat
    shards: tuple[Shard, ...]
    extents: Extents
    damage: tuple[Damage, ...]

    @property
    def has_hashes(self) -> bool:
        """Whether there is a SHA-256 of each extent."""
        return self.extents.sha256 is not None


def merge_index(
    format: ShardFormat, paths: Sequence[str], stored: CorpusIndex | None, fresh: Mapping[str, ShardIndex]
) -> CorpusIndex:
    """Return the index of the shards `paths`: from `fresh` where a shard is there, otherwise from `stored`."""
    old_number = {shard.path: number for number, shard in enumerate(stored.shards)} if stored else {}
    shards, parts = [], []
    new_number = np.full(len(old_number), -1, np.int32)
    for number, path in enumerate(paths):
        if path in fresh:
            shards.append(fresh[path].shard)
            extents = fresh[path].extents
            parts.append(replace(extents, shard=np.full(len(extents), number, np.int32)))
        elif stored:
            shards.append(stored.shards[old_number[path]])
            new_number[old_number[path]] = number
    if stored:
        renumbered = replace(stored.extents, shard=new_number[stored.extents.shard])
        parts.append(renumbered.take(renumbered.shard >= 0))
    extents_of_all = Extents.concatenate(parts)
    unchanged = set(paths) - fresh.keys()
    damage = [item for item in stored.damage if item.shard in unchanged] if stored else []
    damage += [item for path in paths if path in fresh for item in fresh[path].damage]
    order = np.argsort(extents_of_all.shard, kind="stable")
    return CorpusIndex(
        format, tuple(shards), extents_of_all.take(order), tuple(sorted(damage, key=lambda d: (d.shard, d.offset)))
    )


def dump_index(index: CorpusIndex) -> bytes:
    """Return the index as the bytes of a Parquet file."""
    columns: dict[str, Any] = {name: pa.array(getattr(index.extents, name)) for name in _COLUMNS}
    if index.extents.sha256 is not None:
        hashes = pa.py_buffer(np.ascontiguousarray(index.extents.sha256))
        columns["sha256"] = pa.FixedSizeBinaryArray.from_buffers(pa.binary(32), len(index.extents), [None, hashes])
    table, out = pa.table(columns), io.BytesIO()
    # the Arrow schema, or metadata added before the table, would repeat the metadata in base64
    with pq.ParquetWriter(out, table.schema, compression="zstd", store_schema=False) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata({_METADATA_KEY.decode(): json.dumps(_metadata(index))})
    return out.getvalue()


def _metadata(index: CorpusIndex) -> dict[str, object]:
    schemas: dict[tuple[tuple[str, ...], tuple[str, ...]], int] = {}
    shards = []
    for shard in index.shards:
        schema = schemas.setdefault((shard.fields, shard.kinds), len(schemas))
        shards.append([shard.path, shard.size, shard.etag, shard.rows, shard.coding, schema])
    damage = [astuple(item) for item in index.damage]
    return {"version": VERSION, "format": index.format, "schemas": list(schemas), "shards": shards, "damage": damage}


def parse_index(data: bytes, path: str) -> CorpusIndex:
    """Return the index in `data`; DamagedIndexError if it is none, CorpusError if a newer xmodal wrote it.

    `path` is where the data were read, for the error.
    """
    try:
        limit = _METADATA_LIMIT
        file = pq.ParquetFile(io.BytesIO(data), thrift_string_size_limit=limit, thrift_container_size_limit=limit)
        stored = json.loads((file.metadata.metadata or {})[_METADATA_KEY])
        version = int(stored["version"])
        if version <= VERSION:
            return _check_numbers(_build_index(stored, file.read()))
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise DamagedIndexError(f"{type(error).__name__}: {error}") from error
    raise CorpusError(
        f"{path} was written by a newer xmodal (index format {version}, this one reads up to {VERSION}); "
        "upgrade xmodal, or open the corpus with rebuild=True to replace the index"
    )


def _build_index(stored: dict[str, Any], table: pa.Table) -> CorpusIndex:
    schemas = [(tuple(names), tuple(kinds)) for names, kinds in stored["schemas"]]
    shards = tuple(
        Shard(path, size, etag, rows, coding, *schemas[schema])
        for path, size, etag, rows, coding, schema in stored["shards"]
    )
    columns: dict[str, Any] = {name: table.column(name).to_numpy().astype(kind) for name, kind in _COLUMNS.items()}
    if "sha256" in table.column_names:
        hashes = table.column("sha256").combine_chunks().cast(pa.binary(32))
        begin = hashes.offset * 32
        data = np.frombuffer(hashes.buffers()[1] or b"", np.uint8)[begin : begin + 32 * len(hashes)]
        columns["sha256"] = data.reshape(-1, 32)
    damage = tuple(Damage(*item) for item in stored["damage"])
    return CorpusIndex(stored["format"], shards, Extents(**columns), damage)


def _check_numbers(index: CorpusIndex) -> CorpusIndex:
    """Return the index; ValueError if its numbers are impossible."""
    e = index.extents
    if index.format not in ("tar", "parquet"):
        raise ValueError(f"unknown format {index.format!r}")
    if len(e) and not 0 <= e.shard.min() <= e.shard.max() < len(index.shards):
        raise ValueError("an extent of no shard")
    if (e.rows < 1).any() or (e.offset < 0).any() or (e.length < 1).any() or (np.diff(e.shard) < 0).any():
        raise ValueError("an extent with impossible numbers")
    uncompressed = np.array([not shard.coding for shard in index.shards], bool)
    sizes = np.array([shard.size for shard in index.shards], np.int64)
    if len(e) and (uncompressed[e.shard] & (e.offset + e.length > sizes[e.shard])).any():
        raise ValueError("an extent that leads past the end of its shard")
    return index


def load_index(path: str, options: storage.StorageOptions) -> CorpusIndex | None:
    """Return the stored index; None if there is none. Errors as `parse_index`."""
    try:
        data = storage.read(path, options=options)
    except storage.NotFound:
        return None
    return parse_index(data, path)
