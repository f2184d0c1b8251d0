"""One listed file comes in, its `ShardIndex` goes out: the unit of parallel work when a corpus is indexed."""

import hashlib
import tempfile
from collections.abc import Iterable
from contextlib import closing
from dataclasses import replace
from typing import IO

import numpy as np

from xmodal import storage
from xmodal.data.extents import DEFAULT, Contents, Damage, Extents, Shard, ShardIndex, Span
from xmodal.data.formats import gzip_stream
from xmodal.data.formats.byte_source import WINDOW, FileSource, RangeFile, Source, StoredSource
from xmodal.data.formats.parquet import index_parquet
from xmodal.data.formats.tar import index_tar
from xmodal.errors import BadSample

HASH_BYTES = 32  # SHA-256
SPOOL_IN_MEMORY = 64 << 20  # bytes of a decompressed shard; the rest goes to a temporary file


def index_shard(
    uri: str, entry: storage.Entry, options: storage.StorageOptions = DEFAULT, *, hash_extents: bool = False
) -> ShardIndex:
    """Index one file of the corpus at `uri`. Reads a tar once, in windows; of a Parquet file only the footer.

    `hash_extents` stores the SHA-256 of every extent, for which all bytes are read (again). What is wrong with the
    file is part of the result; StorageError is raised only when storage itself fails.
    """
    path = relative(uri, entry.uri)
    source = StoredSource(entry.uri, entry.size, options, etag=entry.etag)
    coding, hashes = "", None
    try:
        if path.lower().endswith(".parquet"):
            found = index_parquet(RangeFile(source), entry.size, path)
        elif source.read(0, len(gzip_stream.MAGIC)) == gzip_stream.MAGIC:
            coding, (found, hashes) = "gzip", _gzip(source, path, hash_extents)
        else:
            found = _other_coding(source, path) or index_tar(source, path)
        if hash_extents and hashes is None:
            hashes = _hashes(source, found.spans)
    except storage.NotFound:
        found = Contents(damage=(Damage(path, 0, "shard_missing", "listed, but not there"),))
    except (storage.Changed, storage.ShortRead):
        detail = "it changed while it was indexed; open the corpus again"
        found = Contents(damage=(Damage(path, 0, "shard_changed", detail),))
    if hash_extents and not found.spans:
        hashes = np.empty((0, HASH_BYTES), np.uint8)
    shard = Shard(path, entry.size, entry.etag, found.rows, coding, found.fields, found.kinds)
    return ShardIndex(shard, Extents.of(((0, *span) for span in found.spans), hashes), found.damage)


def relative(uri: str, file: str) -> str:
    """The path of a listed file below the folder `uri`."""
    return file.removeprefix(uri.removesuffix("/") + "/")


def _other_coding(source: Source, path: str) -> Contents | None:
    start = source.read(0, 8)
    for magic, coding in gzip_stream.OTHER_CODINGS.items():
        if start.startswith(magic):
            detail = f"{coding} is not read; decompress the shard (images and videos are compressed already)"
            return Contents(damage=(Damage(path, 0, "compressed", detail),))
    return None


def _gzip(source: Source, path: str, hash_extents: bool) -> tuple[Contents, np.ndarray | None]:
    """A compressed tar: neighbours form one extent, for whose sake the whole shard is decompressed each time."""
    with closing(tempfile.SpooledTemporaryFile(SPOOL_IN_MEMORY)) as spool:
        fault = _inflate_into(spool, source)
        damage = (Damage(path, source.size, fault.reason, fault.detail),) if fault else ()
        if fault and fault.reason in ("gzip_corrupt", "gzip_too_large"):
            return Contents(damage=damage), None
        inflated = FileSource(spool, spool.tell())
        found = index_tar(inflated, path, one_extent=True)
        hashes = _hashes(inflated, found.spans) if hash_extents else None
        return replace(found, damage=(*damage, *found.damage)), hashes


def _inflate_into(spool: IO[bytes], source: Source) -> BadSample | None:
    """Write all that can be decompressed; why it ended too early, if it did."""
    try:
        for piece in gzip_stream.inflate(source):
            spool.write(piece)
    except BadSample as fault:
        return fault
    return None


def _hashes(source: Source, spans: Iterable[Span]) -> np.ndarray:
    """SHA-256 of every span, uint8 [E, 32]; each byte range is read once, in windows."""
    known: dict[tuple[int, int], bytes] = {}
    for _, _, offset, length in spans:
        if (offset, length) not in known:
            known[offset, length] = _sha256(source, offset, length)
    digests = b"".join(known[offset, length] for _, _, offset, length in spans)
    return np.frombuffer(digests, np.uint8).reshape(-1, HASH_BYTES)


def _sha256(source: Source, offset: int, length: int) -> bytes:
    digest = hashlib.sha256()
    for at in range(offset, offset + length, WINDOW):
        digest.update(source.read(at, min(WINDOW, offset + length - at)))
    return digest.digest()
