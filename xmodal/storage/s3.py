"""S3 as a store: reads, writes and listings, and errors that say what to do.

Requests go to the client inside s3fs, with bucket and key as two arguments: the path interface of s3fs strips slashes
and parses `?versionId=` in keys. s3fs is used for its event loop, its sessions and its handling of forks.
"""

import asyncio
import os
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from botocore.exceptions import ClientError
from fsspec.asyn import sync
from s3fs import S3FileSystem

from xmodal.errors import StorageError
from xmodal.storage.errors import FileChanged, NotFound
from xmodal.storage.local import PARTIAL, Entry, as_storage_errors, atomic_write, read_all, write_all
from xmodal.storage.options import StorageOptions
from xmodal.storage.retry import CLIENT_ERRORS
from xmodal.storage.s3_errors import cause_and_fix, code, is_missing
from xmodal.storage.s3_session import credential_source, endpoint_in_words, file_system
from xmodal.storage.transfer import Requests, Transfer, run_concurrently

T = TypeVar("T")

CHECK_TIMEOUT_S = 7.0  # the description of the credentials may take two more
KEYS_PER_DELETE = 100  # S3 allows 1000, but a busy server then takes longer than the read timeout


@dataclass(frozen=True, slots=True)
class S3Store:
    """The object or prefix at `key`; `uri` is what the user wrote."""

    uri: str
    bucket: str
    key: str
    options: StorageOptions

    def list_files(self) -> list[Entry]:
        return self._run(self._list_files)

    def stat(self) -> Entry:
        return self._run(self._stat)

    def exists(self) -> bool:
        return self._run(self._exists)

    def read(self, offset: int, length: int | None, etag: str | None) -> bytes:
        if length == 0:
            return b""
        return self._run(lambda requests: self._transfer(requests).read(offset, length, etag))

    def write(self, data: bytes) -> None:
        view = memoryview(data)

        def source(start: int, end: int) -> bytes:
            return bytes(view[start:end])

        self._run(lambda requests: self._transfer(requests).store(source, len(data)))

    def upload(self, local_path: str) -> None:
        with as_storage_errors(local_path):
            descriptor = os.open(local_path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._upload(descriptor, local_path)
        finally:
            os.close(descriptor)

    def _upload(self, descriptor: int, local_path: str) -> None:
        size = os.fstat(descriptor).st_size

        def source(start: int, end: int) -> bytes:
            with as_storage_errors(local_path):
                part = read_all(descriptor, end - start, start)
            if len(part) != end - start or os.fstat(descriptor).st_size != size:
                raise FileChanged(f"{local_path} changed while it was uploaded; upload it when nobody writes to it")
            return part

        self._run(lambda requests: self._transfer(requests).store(source, size))

    def download(self, local_path: str) -> None:
        with as_storage_errors(local_path), atomic_write(local_path) as descriptor:

            def write_part(part: bytes, offset: int) -> None:
                with as_storage_errors(local_path):
                    write_all(descriptor, part, offset)

            self._run(lambda requests: self._transfer(requests).read_into(write_part))

    def delete(self) -> None:
        address = {"Bucket": self.bucket, "Key": self.key}
        self._run(lambda requests: requests(lambda client: client.delete_object(**address)))

    def delete_tree(self) -> None:
        if not self.key.strip("/"):
            raise StorageError(f"{self.uri} is a whole bucket; name a prefix in it")
        self._run(self._delete_tree)

    def check(self, *, writable: bool) -> None:
        async def check(requests: Requests) -> None:
            async with asyncio.timeout(CHECK_TIMEOUT_S):
                await (self._check_writable(requests) if writable else self._check_readable(requests))

        self._run(check, attempts=4)  # a burst of 503s is over in 3 s

    def _run(self, act: Callable[[Requests], Awaitable[T]], attempts: int | None = None) -> T:
        """Return the result of `act` on the event loop of this process's file system; convert the client's errors."""
        system = file_system(self.options)
        result: T = sync(system.loop, self._run_explaining_errors, system, act, attempts)
        return result

    async def _run_explaining_errors(
        self, system: S3FileSystem, act: Callable[[Requests], Awaitable[T]], attempts: int | None
    ) -> T:
        requests = Requests(system, attempts)
        try:
            return await act(requests)
        except CLIENT_ERRORS as error:
            raise await self._explain(error, system, requests) from error
        except NotFound as error:
            raise NotFound(f"{error} ({await self._connection_in_words(system, requests)})") from error.__cause__

    async def _explain(self, error: Exception, system: S3FileSystem, requests: Requests) -> StorageError:
        cause, fix = cause_and_fix(error, anonymous=self.options.anonymous)
        kind = NotFound if is_missing(error) else FileChanged if code(error) == "PreconditionFailed" else StorageError
        return kind(f"{self.uri}: {cause}; {fix} ({await self._connection_in_words(system, requests)})")

    async def _connection_in_words(self, system: S3FileSystem, requests: Requests) -> str:
        source = await credential_source(self.options, system)
        return f"{endpoint_in_words(self.options, requests.client)}, credentials: {source}"

    def _transfer(self, requests: Requests) -> Transfer:
        return Transfer(requests, self.uri, self.bucket, self.key)

    @property
    def _below(self) -> str:
        return f"{self.key.removesuffix('/')}/" if self.key else ""

    async def _objects(self, requests: Requests) -> AsyncIterator[dict[str, Any]]:
        """Yield every object below this key; each page of at most 1000 is one request."""
        query = {"Bucket": self.bucket, "Prefix": self._below}
        while True:
            page = await self._page(requests, query)
            for item in page.get("Contents", ()):
                yield item
            if not page.get("IsTruncated"):
                return
            query["ContinuationToken"] = page["NextContinuationToken"]

    async def _page(self, requests: Requests, query: Mapping[str, object]) -> dict[str, Any]:
        return await requests(lambda client: client.list_objects_v2(**query))

    async def _list_files(self, requests: Requests) -> list[Entry]:
        entries = [
            Entry(f"s3://{self.bucket}/{item['Key']}", item["Size"], item["ETag"].strip('"'))
            async for item in self._objects(requests)
            if item["Size"] or not item["Key"].endswith("/")  # consoles store empty objects as directories
        ]
        return sorted(entries, key=lambda entry: entry.uri) or [await self._stat(requests)]

    async def _stat(self, requests: Requests) -> Entry:
        if not self.key or self.key.endswith("/"):
            raise NotFound(f"{self.uri}: no file is stored there; check the name")
        return await self._transfer(requests).stat()

    async def _exists(self, requests: Requests) -> bool:
        async for _ in self._objects(requests):
            return True
        try:
            await self._stat(requests)
        except NotFound:
            return False
        except ClientError as error:
            if is_missing(error):
                return False
            raise
        return True

    async def _delete_tree(self, requests: Requests) -> None:
        keys = [item["Key"] async for item in self._objects(requests)]
        keys.append(self.key)

        async def delete(start: int) -> None:
            await self._delete_keys(requests, keys[start : start + KEYS_PER_DELETE])

        await run_concurrently(delete, range(0, len(keys), KEYS_PER_DELETE))

    async def _delete_keys(self, requests: Requests, keys: list[str]) -> None:
        query = {"Objects": [{"Key": key} for key in keys], "Quiet": True}
        response = await requests(lambda client: client.delete_objects(Bucket=self.bucket, Delete=query))
        for error in response.get("Errors", ()):
            name = f"s3://{self.bucket}/{error.get('Key')}"
            raise StorageError(f"cannot delete {name}: {error.get('Code')}; check the rights and try again")

    async def _check_readable(self, requests: Requests) -> None:
        if not await self._exists(requests):
            raise NotFound(f"{self.uri}: no file is stored there; check the name")

    async def _check_writable(self, requests: Requests) -> None:
        """Store and delete an empty object; list first, because the error of a listing names its cause best."""
        await self._page(requests, {"Bucket": self.bucket, "Prefix": self._below, "MaxKeys": 1})
        address = {"Bucket": self.bucket, "Key": f"{self._below}.{secrets.token_hex(6)}{PARTIAL}"}
        await requests(lambda client: client.put_object(**address, Body=b""))
        await requests(lambda client: client.delete_object(**address))
