"""The storage errors that a caller may want to distinguish; all are subclasses of StorageError."""

from xmodal.errors import StorageError


class NotFound(StorageError):
    """Nothing is stored under the URI."""


class ShortRead(StorageError):
    """The file ends before the bytes that were asked for."""


class FileChanged(StorageError):
    """The file is no longer the one with the expected etag."""
