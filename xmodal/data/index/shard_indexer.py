"""Index one shard file: the unit of parallel work when a corpus is indexed."""

import hashlib
import tempfile
from collections.abc import Iterable
from contextlib import closing
from dataclasses import replace
from typing import IO

import numpy as np

from xmodal import storage
from xmodal.data.extents import DEFAULT_STORAGE, Damage, Extents, RowSpan, Shard, ShardContents, ShardIndex
from xmodal.data.formats import gzip_stream
from xmodal.data.formats.byte_source import WINDOW_BYTES, ByteSource, FileSource, RangeFile, StorageSource
from xmodal.data.formats.parquet import index_parquet
from xmodal.data.formats.tar import index_tar
from xmodal.errors import BadSample

HASH_BYTES = 32  # SHA-256
SPOOL_BYTES = 64 << 20  # of a decompressed shard in memory; a larger one goes to a temporary file


def index_shard(
    uri: str, entry: storage.Entry, options: storage.StorageOptions = DEFAULT_STORAGE, *, hash_extents: bool = False
) -> ShardIndex:
    """Index one file of the corpus at `uri`: a tar is read once, in windows; of a Parquet file only the footer.

    `hash_extents` stores the SHA-256 of every extent, for which all bytes are read (again). Damage of the file is part
    of the result; StorageError is raised only when storage itself fails.
    """
    path = relative_path(uri, entry.uri)
    source = StorageSource(entry.uri, entry.size, options, etag=entry.etag)
    coding, hashes = "", None
    try:
        if path.lower().endswith(".parquet"):
            contents = index_parquet(RangeFile(source), entry.size, path)
        elif source.read(0, len(gzip_stream.GZIP_MAGIC)) == gzip_stream.GZIP_MAGIC:
            coding, (contents, hashes) = "gzip", _gzip(source, path, hash_extents)
        else:
            contents = _unsupported_coding(source, path) or index_tar(source, path)
        if hash_extents and hashes is None:
            hashes = _hashes(source, contents.spans)
    except storage.NotFound:
        contents = ShardContents(damage=(Damage(path, 0, "shard_missing", "listed, but not there"),))
    except (storage.FileChanged, storage.ShortRead):
        detail = "it changed while it was indexed; open the corpus again"
        contents = ShardContents(damage=(Damage(path, 0, "shard_changed", detail),))
    if hash_extents and not contents.spans:
        hashes = np.empty((0, HASH_BYTES), np.uint8)
    shard = Shard(path, entry.size, entry.etag, contents.rows, coding, contents.fields, contents.kinds)
    return ShardIndex(shard, Extents.from_spans(((0, *span) for span in contents.spans), hashes), contents.damage)


def relative_path(uri: str, file: str) -> str:
    """Return the path of a listed file below the folder `uri`.

    >>> relative_path("s3://bucket/train/", "s3://bucket/train/part/000.tar")
    'part/000.tar'
    """
    return file.removeprefix(uri.removesuffix("/") + "/")


def _unsupported_coding(source: ByteSource, path: str) -> ShardContents | None:
    start = source.read(0, 8)
    for magic, coding in gzip_stream.UNSUPPORTED_CODINGS.items():
        if start.startswith(magic):
            detail = f"{coding} is not read; decompress the shard (images and videos are compressed already)"
            return ShardContents(damage=(Damage(path, 0, "compressed", detail),))
    return None


def _gzip(source: ByteSource, path: str, hash_extents: bool) -> tuple[ShardContents, np.ndarray | None]:
    """Index a compressed tar; since every read decompresses the whole shard, neighbours form one large extent."""
    with closing(tempfile.SpooledTemporaryFile(SPOOL_BYTES)) as spool:
        fault = _inflate_into(spool, source)
        damage = (Damage(path, source.size, fault.reason, fault.detail),) if fault else ()
        if fault and fault.reason in ("gzip_corrupt", "gzip_too_large"):
            return ShardContents(damage=damage), None
        inflated = FileSource(spool, spool.tell())
        contents = index_tar(inflated, path, one_extent=True)
        hashes = _hashes(inflated, contents.spans) if hash_extents else None
        return replace(contents, damage=(*damage, *contents.damage)), hashes


def _inflate_into(spool: IO[bytes], source: ByteSource) -> BadSample | None:
    """Write all bytes that can be decompressed; return why they ended too early, if they did."""
    try:
        for piece in gzip_stream.inflate(source):
            spool.write(piece)
    except BadSample as fault:
        return fault
    return None


def _hashes(source: ByteSource, spans: Iterable[RowSpan]) -> np.ndarray:
    """Return the SHA-256 of every span, uint8 [E, 32]; each byte range is read once, in windows."""
    digest_of: dict[tuple[int, int], bytes] = {}
    for _, _, offset, length in spans:
        if (offset, length) not in digest_of:
            digest_of[offset, length] = _sha256(source, offset, length)
    digests = b"".join(digest_of[offset, length] for _, _, offset, length in spans)
    return np.frombuffer(digests, np.uint8).reshape(-1, HASH_BYTES)


def _sha256(source: ByteSource, offset: int, length: int) -> bytes:
    digest = hashlib.sha256()
    for position in range(offset, offset + length, WINDOW_BYTES):
        digest.update(source.read(position, min(WINDOW_BYTES, offset + length - position)))
    return digest.digest()
