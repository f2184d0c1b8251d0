"""An index goes to storage as one Parquet object and comes back: extents as rows, everything else as JSON metadata."""

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from xmodal import storage
from xmodal.data.extents import Damage, Extents, Format, Shard, ShardIndex
from xmodal.errors import CorpusError

VERSION = 1
INDEX_NAME = "_xmodal_index"
_METADATA_KEY = b"xmodal_index"
_COLUMNS = {"shard": "int32", "first_row": "int64", "rows": "int32", "offset": "int64", "length": "int64"}
_METADATA_LIMIT = 1 << 30  # bytes of JSON: about four million shards


class DamagedIndex(Exception):
    """A stored index that cannot be used; it is built again."""


@dataclass(frozen=True)
class Index:
    """All of a corpus but its address: shards sorted by path, extents in their order, damage."""

    format: Format
    shards: tuple[Shard, ...]
    extents: Extents
    damage: tuple[Damage, ...]

    @property
    def hashed(self) -> bool:
        return self.extents.sha256 is not None


def merge(format: Format, paths: Sequence[str], kept: Index | None, fresh: Mapping[str, ShardIndex]) -> Index:
    """The index of `paths`: from `fresh` where a shard is there, otherwise from `kept`."""
    old = {shard.path: number for number, shard in enumerate(kept.shards)} if kept else {}
    shards, parts = [], []
    new_number = np.full(len(old), -1, np.int32)
    for number, path in enumerate(paths):
        if path in fresh:
            shards.append(fresh[path].shard)
            extents = fresh[path].extents
            parts.append(replace(extents, shard=np.full(len(extents), number, np.int32)))
        elif kept:
            shards.append(kept.shards[old[path]])
            new_number[old[path]] = number
    if kept:
        renumbered = replace(kept.extents, shard=new_number[kept.extents.shard])
        parts.append(renumbered.take(renumbered.shard >= 0))
    joined = Extents.join(parts)
    wanted = set(paths) - fresh.keys()
    damage = [item for item in kept.damage if item.shard in wanted] if kept else []
    damage += [item for path in paths if path in fresh for item in fresh[path].damage]
    by_shard = np.argsort(joined.shard, kind="stable")
    return Index(format, tuple(shards), joined.take(by_shard), tuple(sorted(damage, key=lambda d: (d.shard, d.offset))))


def dump(index: Index) -> bytes:
    """The stored form."""
    columns: dict[str, Any] = {name: pa.array(getattr(index.extents, name)) for name in _COLUMNS}
    if index.extents.sha256 is not None:
        hashes = pa.py_buffer(np.ascontiguousarray(index.extents.sha256))
        columns["sha256"] = pa.FixedSizeBinaryArray.from_buffers(pa.binary(32), len(index.extents), [None, hashes])
    table, out = pa.table(columns), io.BytesIO()
    # without the Arrow schema, and added later: otherwise the metadata would be repeated in base64
    with pq.ParquetWriter(out, table.schema, compression="zstd", store_schema=False) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata({_METADATA_KEY.decode(): json.dumps(_metadata(index))})
    return out.getvalue()


def _metadata(index: Index) -> dict[str, Any]:
    schemas: dict[tuple, int] = {}
    shards = []
    for shard in index.shards:
        schema = schemas.setdefault((shard.fields, shard.kinds), len(schemas))
        shards.append([shard.path, shard.size, shard.etag, shard.rows, shard.coding, schema])
    damage = [astuple(item) for item in index.damage]
    return {"version": VERSION, "format": index.format, "schemas": list(schemas), "shards": shards, "damage": damage}


def parse(data: bytes, where: str) -> Index:
    """The index in `data`, checked; DamagedIndex if it is none, CorpusError if a newer xmodal wrote it."""
    try:
        limit = _METADATA_LIMIT
        file = pq.ParquetFile(io.BytesIO(data), thrift_string_size_limit=limit, thrift_container_size_limit=limit)
        stored = json.loads((file.metadata.metadata or {})[_METADATA_KEY])
        version = int(stored["version"])
        if version <= VERSION:
            return _checked(_index(stored, file.read()))
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise DamagedIndex(f"{type(error).__name__}: {error}") from error
    raise CorpusError(
        f"{where} was written by a newer xmodal (index format {version}, this one reads up to {VERSION}); "
        "upgrade xmodal, or open the corpus with rebuild=True to replace the index"
    )


def _index(stored: dict[str, Any], table: pa.Table) -> Index:
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
    return Index(stored["format"], shards, Extents(**columns), damage)


def _checked(index: Index) -> Index:
    """The index, if its numbers can be true."""
    e = index.extents
    if index.format not in ("tar", "parquet"):
        raise ValueError(f"unknown format {index.format!r}")
    if len(e) and not 0 <= e.shard.min() <= e.shard.max() < len(index.shards):
        raise ValueError("an extent of no shard")
    if (e.rows < 1).any() or (e.offset < 0).any() or (e.length < 1).any() or (np.diff(e.shard) < 0).any():
        raise ValueError("an extent with impossible numbers")
    plain = np.array([not shard.coding for shard in index.shards], bool)
    sizes = np.array([shard.size for shard in index.shards], np.int64)
    if len(e) and (plain[e.shard] & (e.offset + e.length > sizes[e.shard])).any():
        raise ValueError("an extent that leads past the end of its shard")
    return index


def load(where: str, options: storage.StorageOptions) -> Index | None:
    """The stored index, None if there is none; errors as `parse`."""
    try:
        data = storage.read(where, options=options)
    except storage.NotFound:
        return None
    return parse(data, where)
