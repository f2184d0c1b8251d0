"""Parses storage URIs into a local path, or a bucket and a key.

Names are literal: `%20`, `$HOME`, `~` and `//` stand for themselves, so a URI from a listing can be read as it is.
"""

import os
import re
from dataclasses import dataclass

from xmodal.errors import StorageError

SCHEMES = "s3://bucket/key, file:///path or a plain path"
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")


@dataclass(frozen=True, slots=True)
class LocalAddress:
    """A local file: `prefix` is `""` or `"file://"`, as the user wrote it; `path` is an operating system path."""

    prefix: str
    path: str


@dataclass(frozen=True, slots=True)
class S3Address:
    """An S3 object: `key` is empty for the bucket itself, and does not include the slash that follows the bucket."""

    bucket: str
    key: str


def parse(uri: str) -> LocalAddress | S3Address:
    """Parse a URI; StorageError for any scheme but s3 and file.

    >>> parse("s3://bucket/a/b.txt")
    S3Address(bucket='bucket', key='a/b.txt')
    >>> parse("runs/demo")
    LocalAddress(prefix='', path='runs/demo')
    """
    if not uri or "\0" in uri:
        raise StorageError(f"{uri!r} is not a storage URI; use {SCHEMES}")
    if re.match(r"s3:/?(?!/)", uri):  # what os.path.normpath and pathlib make of an S3 URI
        raise StorageError(f"{uri!r} lacks the two slashes of an S3 URI; write s3://bucket/key")
    match = _SCHEME.match(uri)
    if match is None:
        return LocalAddress("", uri)
    if match[1] == "s3":
        return _parse_s3(uri)
    if match[1] == "file":
        return _parse_file(uri)
    raise StorageError(f"the scheme {match[1]!r} is not supported; use {SCHEMES}")


def _parse_s3(uri: str) -> S3Address:
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    if "@" in bucket:  # do not repeat it: it may be a secret
        raise StorageError(
            "an s3:// URI with '@' before its first slash; credentials belong in the AWS environment or a profile"
        )
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", bucket):
        raise StorageError(f"{uri!r} has no valid bucket name; write s3://bucket/key")
    try:
        key.encode()
    except UnicodeEncodeError as error:
        raise StorageError(f"{uri!r} is not valid Unicode, so S3 cannot store it; rename it") from error
    return S3Address(bucket, key)


def _parse_file(uri: str) -> LocalAddress:
    path = uri.removeprefix("file://")
    if not path.startswith("/"):
        raise StorageError(f"{uri!r} must hold an absolute path: write file:///path, or a plain relative path")
    return LocalAddress("file://", path)


def absolute(uri: str) -> str:
    """Return a URI of the same file that does not depend on the working directory.

    >>> absolute("s3://bucket/key")
    's3://bucket/key'
    """
    address = parse(uri)
    return os.path.abspath(uri) if isinstance(address, LocalAddress) and not address.prefix else uri


def join(uri: str, *parts: str) -> str:
    """Append `parts` to `uri`; empty parts are ignored.

    A part may have slashes. An absolute part, or one with a `..` between slashes, raises StorageError, so that a name
    taken from data never leads out of the directory that it is joined to.

    >>> join("s3://bucket/runs", "demo", "metrics.jsonl")
    's3://bucket/runs/demo/metrics.jsonl'
    """
    parse(uri)
    for part in filter(None, parts):
        if part.startswith("/") or "\0" in part or ".." in part.split("/"):
            raise StorageError(f"{part!r} is not a name below {uri}; use a relative one without '..'")
        uri = f"{uri.removesuffix('/')}/{part}"
    return uri
