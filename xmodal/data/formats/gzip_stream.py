"""A gzip file in storage comes in, its decompressed bytes go out in pieces, or where and why they end too early."""

import zlib
from collections.abc import Iterator
from typing import Any

from xmodal.data.formats.byte_source import WINDOW, Source
from xmodal.errors import BadSample

MAGIC = b"\x1f\x8b"
LARGEST_INFLATED = 512 << 20  # bytes; a whole shard is held in memory while it is read
OTHER_CODINGS = {b"\x28\xb5\x2f\xfd": "zstd", b"BZh": "bzip2", b"\xfd7zXZ\x00": "xz", b"\x04\x22\x4d\x18": "lz4"}


def inflate(source: Source) -> Iterator[bytes]:
    """Decompressed pieces of all gzip members, one after the other.

    Raises BadSample `gzip_truncated` or `gzip_trailing` (all pieces so far are right), `gzip_corrupt` (none can be
    trusted), or `gzip_too_large`.
    """
    at = total = 0
    stream, left, between = zlib.decompressobj(wbits=31), b"", False
    while True:
        if not left:
            left = source.read(at, min(WINDOW, source.size - at))
            at += len(left)
        if between:  # zero padding may follow a gzip member
            left = left.lstrip(b"\0")
            if not left and at >= source.size:
                return
            if not MAGIC.startswith(left[:2]):
                raise BadSample("gzip_trailing", f"bytes that are no gzip stream before byte {at}")
            between = not left
        had_input = bool(left)
        piece, left = _next_piece(stream, left, at)
        total += len(piece)
        if total > LARGEST_INFLATED:
            raise BadSample("gzip_too_large", f"more than {LARGEST_INFLATED >> 20} MiB decompressed; gunzip the shard")
        if piece:
            yield piece
        if stream.eof:
            stream, left, between = zlib.decompressobj(wbits=31), stream.unused_data, True
        elif not (had_input or piece):
            raise BadSample("gzip_truncated", f"the file ends after {at} bytes inside a gzip stream")


def _next_piece(stream: Any, chunk: bytes, at: int) -> tuple[bytes, bytes]:
    """At most one window of output, and the input that is left."""
    try:
        return stream.decompress(chunk, WINDOW), stream.unconsumed_tail
    except zlib.error as error:
        raise BadSample("gzip_corrupt", f"near byte {at}: {error}") from error


def inflated_range(source: Source, begin: int, end: int) -> bytes:
    """Decompressed bytes `begin` to `end`; BadSample when the stream breaks before its end."""
    kept, at = bytearray(), 0
    for piece in inflate(source):
        kept += piece[max(0, begin - at) : max(0, end - at)]
        at += len(piece)
        if at >= end:
            break
    if len(kept) < end - begin:
        raise BadSample("extent_short", f"{len(kept)} of {end - begin} decompressed bytes")
    return bytes(kept)
