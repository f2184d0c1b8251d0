"""Write samples as tar or Parquet shards; equal samples give equal bytes, and a shard is stored whole or not at all."""

import io
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from xmodal import storage
from xmodal.data.extents import DEFAULT_STORAGE, ShardFormat
from xmodal.data.formats.tar_samples import name_fault, split_name
from xmodal.errors import BadSample

ROWS_PER_SHARD = 10_000
BYTES_PER_SHARD = 256 << 20  # encoded; a shard is built in memory
ROWS_PER_GROUP = 256

Members = Mapping[str, Any]


@dataclass(frozen=True)
class WrittenShard:
    """A shard that was stored, and the keys of its samples in their order."""

    uri: str
    size: int  # bytes
    keys: tuple[str, ...]


def write_shards(
    samples: Iterable[tuple[str, Members]],
    uri: str,
    *,
    format: ShardFormat,
    prefix: str = "",
    first_number: int = 0,
    rows_per_shard: int = ROWS_PER_SHARD,
    bytes_per_shard: int = BYTES_PER_SHARD,
    file_columns: Sequence[str] = (),
    options: storage.StorageOptions = DEFAULT_STORAGE,
) -> Iterator[WrittenShard]:
    """Write (key, members) as shards `<prefix>00000.tar` or `.parquet` below `uri`, numbered from `first_number`.

    Each shard holds at most `rows_per_shard` samples and about `bytes_per_shard` bytes. It is yielded when it is
    stored, so that an interrupted writer can continue with the samples after it. `file_columns` as in `parquet_shard`.
    Raises BadSample as `check_sample`.
    """
    for number, chunk in enumerate(_chunks(samples, rows_per_shard, bytes_per_shard), first_number):
        data = tar_shard(chunk) if format == "tar" else parquet_shard(chunk, file_columns=file_columns)
        ending = "tar" if format == "tar" else "parquet"
        target = storage.join(uri, f"{prefix}{number:05d}.{ending}")
        storage.write(target, data, options=options)
        yield WrittenShard(target, len(data), tuple(key for key, _ in chunk))


def _chunks(
    samples: Iterable[tuple[str, Members]], max_rows: int, max_bytes: int
) -> Iterator[list[tuple[str, Members]]]:
    chunk: list[tuple[str, Members]] = []
    chunk_bytes = 0
    for key, members in samples:
        check_sample(key, members)
        sample_bytes = sum(len(value) if isinstance(value, bytes | str) else 64 for value in members.values())
        if chunk and (len(chunk) == max_rows or chunk_bytes + sample_bytes > max_bytes):
            yield chunk
            chunk, chunk_bytes = [], 0
        chunk.append((key, members))
        chunk_bytes += sample_bytes
    if chunk:
        yield chunk


def check_sample(key: str, members: Members) -> None:
    """Raise BadSample `bad_name` if a reader would reject the key or an extension, or would split them elsewhere.

    `missing_member` if there are no members.
    """
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
    """Return a tar of the samples, without times, owners or modes of this machine; str members become UTF-8.

    >>> len(tar_shard([("0001", {"txt": "a red boat"})])) % 512
    0
    """
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


def parquet_shard(samples: Iterable[tuple[str, Members]], *, file_columns: Sequence[str] = ()) -> bytes:
    """Return a Parquet file with a `key` column and one column per member name; absent members are null.

    `file_columns` become `struct<bytes, path>`, Hugging Face's layout of image and audio files. One type per column:
    bytes, str, list of str, int, float, bool or dict.
    """
    rows = list(samples)
    names = list(dict.fromkeys(name for _, members in rows for name in members))
    columns: dict[str, pa.Array] = {"key": pa.array([key for key, _ in rows], pa.string())}
    for name in names:
        values = [members.get(name) for _, members in rows]
        columns[name] = _file_column(values) if name in file_columns else pa.array(values)
    out = io.BytesIO()
    compressed = [name for name in columns if not pa.types.is_binary(columns[name].type) and name not in file_columns]
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
