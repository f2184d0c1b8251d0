"""One bucket and key come in; bytes, the entry, or the keys below it go out, or an error that a person can act on.

Requests go to the client inside s3fs, with bucket and key as two arguments: the path interface of s3fs strips slashes
and reads `?versionId=` out of keys. Its event loop, sessions and handling of forks are what it is used for.
"""

import asyncio
import os
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from botocore.exceptions import ClientError
from fsspec.asyn import sync
from s3fs import S3FileSystem

from xmodal.errors import StorageError
from xmodal.storage.errors import Changed, NotFound
from xmodal.storage.local import PARTIAL, Entry, named_errors, read_all, replacing, write_all
from xmodal.storage.options import StorageOptions
from xmodal.storage.retry import CLIENT_ERRORS
from xmodal.storage.s3_errors import cause_and_mend, code, is_missing
from xmodal.storage.s3_session import credential_source, file_system, place
from xmodal.storage.transfer import Requests, Transfer, some_at_once

T = TypeVar("T")

CHECK_LIMIT_S = 7.0  # the words about credentials may take two more
KEYS_PER_DELETE = 100  # S3 allows 1000, but a busy server is silent for longer than the read timeout then


@dataclass(frozen=True, slots=True)
class S3Store:
    """The object or prefix at `key`; `uri` is how the user wrote it."""

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
        with named_errors(local_path):
            descriptor = os.open(local_path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._upload(descriptor, local_path)
        finally:
            os.close(descriptor)

    def _upload(self, descriptor: int, local_path: str) -> None:
        size = os.fstat(descriptor).st_size

        def source(start: int, end: int) -> bytes:
            with named_errors(local_path):
                part = read_all(descriptor, end - start, start)
            if len(part) != end - start or os.fstat(descriptor).st_size != size:
                raise Changed(f"{local_path} changed while it was uploaded; upload it when nobody writes to it")
            return part

        self._run(lambda requests: self._transfer(requests).store(source, size))

    def download(self, local_path: str) -> None:
        with named_errors(local_path), replacing(local_path) as descriptor:

            def keep(part: bytes, offset: int) -> None:
                with named_errors(local_path):
                    write_all(descriptor, part, offset)

            self._run(lambda requests: self._transfer(requests).read_into(keep))

    def delete(self) -> None:
        where = {"Bucket": self.bucket, "Key": self.key}
        self._run(lambda requests: requests(lambda client: client.delete_object(**where)))

    def delete_tree(self) -> None:
        if not self.key.strip("/"):
            raise StorageError(f"{self.uri} is a whole bucket; name a prefix in it")
        self._run(self._delete_tree)

    def check(self, *, writable: bool) -> None:
        async def check(requests: Requests) -> None:
            async with asyncio.timeout(CHECK_LIMIT_S):
                await (self._probe(requests) if writable else self._look(requests))

        self._run(check, attempts=4)  # a burst of 503s is over in 3 s

    def _run(self, act: Callable[[Requests], Awaitable[T]], attempts: int | None = None) -> T:
        """The result of `act` on the loop of this process's file system; the client's errors become sentences."""
        system = file_system(self.options)
        result: T = sync(system.loop, self._explained, system, act, attempts)
        return result

    async def _explained(
        self, system: S3FileSystem, act: Callable[[Requests], Awaitable[T]], attempts: int | None
    ) -> T:
        requests = Requests(system, attempts)
        try:
            return await act(requests)
        except CLIENT_ERRORS as error:
            raise await self._explain(error, system, requests) from error
        except NotFound as error:
            raise NotFound(f"{error} ({await self._whereabouts(system, requests)})") from error.__cause__

    async def _explain(self, error: Exception, system: S3FileSystem, requests: Requests) -> StorageError:
        cause, mend = cause_and_mend(error, anonymous=self.options.anonymous)
        kind = NotFound if is_missing(error) else Changed if code(error) == "PreconditionFailed" else StorageError
        return kind(f"{self.uri}: {cause}; {mend} ({await self._whereabouts(system, requests)})")

    async def _whereabouts(self, system: S3FileSystem, requests: Requests) -> str:
        source = await credential_source(self.options, system)
        return f"{place(self.options, requests.client)}, credentials: {source}"

    def _transfer(self, requests: Requests) -> Transfer:
        return Transfer(requests, self.uri, self.bucket, self.key)

    @property
    def _below(self) -> str:
        return f"{self.key.removesuffix('/')}/" if self.key else ""

    async def _objects(self, requests: Requests) -> AsyncIterator[dict[str, Any]]:
        """Every object below this key; each page of at most 1000 is a request of its own."""
        query = {"Bucket": self.bucket, "Prefix": self._below}
        while True:
            page = await self._page(requests, query)
            for found in page.get("Contents", ()):
                yield found
            if not page.get("IsTruncated"):
                return
            query["ContinuationToken"] = page["NextContinuationToken"]

    async def _page(self, requests: Requests, query: dict[str, Any]) -> dict[str, Any]:
        return await requests(lambda client: client.list_objects_v2(**query))

    async def _list_files(self, requests: Requests) -> list[Entry]:
        found = [
            Entry(f"s3://{self.bucket}/{each['Key']}", each["Size"], each["ETag"].strip('"'))
            async for each in self._objects(requests)
            if each["Size"] or not each["Key"].endswith("/")  # consoles store empty objects as directories
        ]
        return sorted(found, key=lambda entry: entry.uri) or [await self._stat(requests)]

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
        keys = [found["Key"] async for found in self._objects(requests)]
        keys.append(self.key)

        async def delete(start: int) -> None:
            await self._delete_some(requests, keys[start : start + KEYS_PER_DELETE])

        await some_at_once(delete, range(0, len(keys), KEYS_PER_DELETE))

    async def _delete_some(self, requests: Requests, keys: list[str]) -> None:
        listed = {"Objects": [{"Key": key} for key in keys], "Quiet": True}
        answer = await requests(lambda client: client.delete_objects(Bucket=self.bucket, Delete=listed))
        for failed in answer.get("Errors", ()):
            name = f"s3://{self.bucket}/{failed.get('Key')}"
            raise StorageError(f"cannot delete {name}: {failed.get('Code')}; check the rights and try again")

    async def _look(self, requests: Requests) -> None:
        if not await self._exists(requests):
            raise NotFound(f"{self.uri}: no file is stored there; check the name")

    async def _probe(self, requests: Requests) -> None:
        """Store and delete an empty object. Listing comes first: it names the cause of a refusal best."""
        await self._page(requests, {"Bucket": self.bucket, "Prefix": self._below, "MaxKeys": 1})
        where = {"Bucket": self.bucket, "Key": f"{self._below}.{secrets.token_hex(6)}{PARTIAL}"}
        await requests(lambda client: client.put_object(**where, Body=b""))
        await requests(lambda client: client.delete_object(**where))
