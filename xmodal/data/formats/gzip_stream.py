"""Decompress a gzip file in pieces, and say where and why it ends too early."""

import zlib
from collections.abc import Iterator
from typing import Any

from xmodal.data.formats.byte_source import WINDOW_BYTES, ByteSource
from xmodal.errors import BadSample

GZIP_MAGIC = b"\x1f\x8b"
MAX_INFLATED_BYTES = 512 << 20  # of a whole shard, which is in memory while it is read
UNSUPPORTED_CODINGS = {b"\x28\xb5\x2f\xfd": "zstd", b"BZh": "bzip2", b"\xfd7zXZ\x00": "xz", b"\x04\x22\x4d\x18": "lz4"}


def inflate(source: ByteSource) -> Iterator[bytes]:
    """Yield the decompressed bytes of all gzip members, one after the other, in pieces of at most one window.

    Raises BadSample `gzip_truncated` or `gzip_trailing` (all pieces so far are right), `gzip_corrupt` (none can be
    trusted), or `gzip_too_large`.

    >>> import gzip
    >>> from xmodal.data.formats.byte_source import MemorySource
    >>> list(inflate(MemorySource(gzip.compress(b"two") + gzip.compress(b" members"))))
    [b'two', b' members']
    """
    position = total = 0
    stream, pending, between_members = zlib.decompressobj(wbits=31), b"", False
    while True:
        if not pending:
            pending = source.read(position, min(WINDOW_BYTES, source.size - position))
            position += len(pending)
        if between_members:  # zero padding may follow a gzip member
            pending = pending.lstrip(b"\0")
            if not pending and position >= source.size:
                return
            if not GZIP_MAGIC.startswith(pending[:2]):
                raise BadSample("gzip_trailing", f"bytes that are no gzip stream before byte {position}")
            between_members = not pending
        had_input = bool(pending)
        piece, pending = _next_piece(stream, pending, position)
        total += len(piece)
        if total > MAX_INFLATED_BYTES:
            raise BadSample(
                "gzip_too_large", f"more than {MAX_INFLATED_BYTES >> 20} MiB decompressed; gunzip the shard"
            )
        if piece:
            yield piece
        if stream.eof:
            stream, pending, between_members = zlib.decompressobj(wbits=31), stream.unused_data, True
        elif not (had_input or piece):
            raise BadSample("gzip_truncated", f"the file ends after {position} bytes inside a gzip stream")


def _next_piece(stream: Any, chunk: bytes, position: int) -> tuple[bytes, bytes]:
    """Return at most one window of output, and the input that is not consumed yet."""
    try:
        return stream.decompress(chunk, WINDOW_BYTES), stream.unconsumed_tail
    except zlib.error as error:
        raise BadSample("gzip_corrupt", f"near byte {position}: {error}") from error


def inflate_range(source: ByteSource, begin: int, end: int) -> bytes:
    """Return the decompressed bytes `begin` to `end`; BadSample when the stream breaks before its end."""
    data, position = bytearray(), 0
    for piece in inflate(source):
        data += piece[max(0, begin - position) : max(0, end - position)]
        position += len(piece)
        if position >= end:
            break
    if len(data) < end - begin:
        raise BadSample("extent_short", f"{len(data)} of {end - begin} decompressed bytes")
    return bytes(data)
