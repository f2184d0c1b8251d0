"""Samples come in, tar or Parquet shards go to storage: the same bytes for the same samples, each whole or absent."""

import io
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from xmodal import storage
from xmodal.data.extents import DEFAULT, Format
from xmodal.data.formats.tar_samples import name_fault, split_name
from xmodal.errors import BadSample

ROWS_PER_SHARD = 10_000
BYTES_PER_SHARD = 256 << 20  # encoded; a shard is built in memory
ROWS_PER_GROUP = 256

Members = Mapping[str, Any]


@dataclass(frozen=True)
class WrittenShard:
    """A shard in storage, and the keys of its samples in their order."""

    uri: str
    size: int  # bytes
    keys: tuple[str, ...]


def write_shards(
    samples: Iterable[tuple[str, Members]],
    uri: str,
    *,
    format: Format,
    prefix: str = "",
    first: int = 0,
    rows: int = ROWS_PER_SHARD,
    size: int = BYTES_PER_SHARD,
    files: Sequence[str] = (),
    options: storage.StorageOptions = DEFAULT,
) -> Iterator[WrittenShard]:
    """Write (key, members) as shards `<prefix>00000.tar` or `.parquet` below `uri`, numbered from `first`.

    Each shard holds at most `rows` samples and about `size` bytes, and is yielded when it is stored: a writer that
    was stopped goes on with the samples after those. Raises BadSample as `check_sample`; `files` as in `parquet_shard`.
    """
    for number, chunk in enumerate(_chunks(samples, rows, size), first):
        data = tar_shard(chunk) if format == "tar" else parquet_shard(chunk, files=files)
        ending = "tar" if format == "tar" else "parquet"
        target = storage.join(uri, f"{prefix}{number:05d}.{ending}")
        storage.write(target, data, options=options)
        yield WrittenShard(target, len(data), tuple(key for key, _ in chunk))


def _chunks(samples: Iterable[tuple[str, Members]], rows: int, size: int) -> Iterator[list[tuple[str, Members]]]:
    chunk: list[tuple[str, Members]] = []
    held = 0
    for key, members in samples:
        check_sample(key, members)
        own = sum(len(value) if isinstance(value, bytes | str) else 64 for value in members.values())
        if chunk and (len(chunk) == rows or held + own > size):
            yield chunk
            chunk, held = [], 0
        chunk.append((key, members))
        held += own
    if chunk:
        yield chunk


def check_sample(key: str, members: Members) -> None:
    """BadSample `bad_name` if a reader would refuse the key or an extension, or would split them elsewhere."""
    for extension in members:
        name = f"{key}.{extension}".encode("utf-8", "surrogatepass")
        if fault := name_fault(name):
            raise BadSample("bad_name", f"{key[:80]!r} with {extension!r}: {fault}")
        if split_name(name) != (key, extension):
            raise BadSample(
                "bad_name", f"{key[:80]!r} with {extension!r}: a key has no dot, an extension no upper case"
            )
    if not members:
        raise BadSample("missing_member", f"{key[:80]!r} has no members")


def tar_shard(samples: Iterable[tuple[str, Members]]) -> bytes:
    """A tar of the samples; str members are stored as UTF-8. No time, owner or mode of this machine gets in."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT, encoding="utf-8") as archive:
        for key, members in samples:
            check_sample(key, members)
            for extension, value in members.items():
                data = value.encode() if isinstance(value, str) else value
                info = tarfile.TarInfo(f"{key}.{extension}")
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def parquet_shard(samples: Iterable[tuple[str, Members]], *, files: Sequence[str] = ()) -> bytes:
    """A Parquet file with a `key` column and one column per member name; absent members are null.

    Columns in `files` become `struct<bytes, path>`, the Hugging Face layout of images and sounds. One type per column:
    bytes, str, list of str, int, float, bool or dict.
    """
    rows = list(samples)
    names = list(dict.fromkeys(name for _, members in rows for name in members))
    columns: dict[str, pa.Array] = {"key": pa.array([key for key, _ in rows], pa.string())}
    for name in names:
        values = [members.get(name) for _, members in rows]
        columns[name] = _file_column(values) if name in files else pa.array(values)
    out = io.BytesIO()
    compressed = [name for name in columns if not pa.types.is_binary(columns[name].type) and name not in files]
    pq.write_table(
        pa.table(columns),
        out,
        row_group_size=ROWS_PER_GROUP,
        compression={name: "zstd" if name in compressed else "none" for name in columns},
        use_dictionary=False,
    )
    return out.getvalue()


def _file_column(values: list[bytes | None]) -> pa.Array:
    layout = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    return pa.array([None if value is None else {"bytes": value, "path": None} for value in values], layout)
