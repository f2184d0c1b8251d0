"""Reads and stores S3 objects in parts of at most 16 MiB, and verifies the length of every part.

A part is one request, which a retry repeats as a whole. One transfer has up to four parts in memory.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from botocore.exceptions import ClientError
from s3fs import S3FileSystem

from xmodal.errors import StorageError
from xmodal.storage.errors import ShortRead
from xmodal.storage.local import Entry
from xmodal.storage.retry import CLIENT_ERRORS, CutBody, InvalidEndpoint, retry
from xmodal.storage.s3_errors import code

T = TypeVar("T")

PART_BYTES = 16 << 20
CONCURRENCY = 4
MAX_PARTS = 10_000  # S3's limit for one multipart upload


class Requests:
    """Sends requests of this process with retries: `await requests(lambda client: client.head_object(...))`."""

    def __init__(self, system: S3FileSystem, attempts: int | None = None) -> None:
        self._system = system
        self._attempts = attempts
        self.client: Any = None  # set by the first request

    async def __call__(self, request: Callable[[Any], Awaitable[T]]) -> T:
        async def send() -> T:
            self.client = await self._connect()
            return await request(self.client)

        return await retry(send, renew_credentials=self._renew, attempts=self._attempts)

    async def _connect(self) -> Any:
        try:
            return await self._system.set_session()
        except ValueError as error:
            raise InvalidEndpoint from error

    async def _renew(self) -> None:
        await self._system.set_session(refresh=True)


@dataclass(frozen=True, slots=True)
class Transfer:
    """Reads or stores the object at `key`; `uri` names it in errors."""

    requests: Requests
    uri: str
    bucket: str
    key: str

    @property
    def _address(self) -> dict[str, object]:
        return {"Bucket": self.bucket, "Key": self.key}

    async def stat(self) -> Entry:
        head = await self.requests(lambda client: client.head_object(**self._address))
        return Entry(f"s3://{self.bucket}/{self.key}", head["ContentLength"], head["ETag"].strip('"'))

    async def read(self, offset: int, length: int | None, etag: str | None) -> bytes:
        """Return bytes of the object; see `xmodal.storage.read`."""
        data, size, etag = await self._read_part(offset, length, etag)
        end = size if length is None else offset + length
        if offset + len(data) == end:
            return data
        whole = bytearray(end - offset)
        whole[: len(data)] = data

        def keep(part: bytes, start: int) -> None:
            whole[start - offset : start - offset + len(part)] = part

        await self._read_parts(offset + len(data), end, etag, keep)
        return bytes(whole)

    async def read_into(self, keep: Callable[[bytes, int], None]) -> None:
        """Call `keep(part, offset)` with all parts of one version of the object, in any order."""
        data, size, etag = await self._read_part(0, None, None)
        keep(data, 0)
        await self._read_parts(len(data), size, etag, keep)

    async def _read_parts(self, start: int, end: int, etag: str, keep: Callable[[bytes, int], None]) -> None:
        async def fetch(offset: int) -> None:
            part, _, _ = await self._read_part(offset, min(PART_BYTES, end - offset), etag)
            keep(part, offset)

        await run_concurrently(fetch, range(start, end, PART_BYTES))

    async def _read_part(self, offset: int, length: int | None, etag: str | None) -> tuple[bytes, int, str]:
        """Return at most PART_BYTES from `offset`, with the size and the etag of the whole object."""
        requested = PART_BYTES if length is None else min(length, PART_BYTES)
        query = {**self._address, "Range": f"bytes={offset}-{offset + requested - 1}"}
        if etag is not None:
            query["IfMatch"] = f'"{etag}"'

        async def get(client: Any) -> tuple[bytes, int, str]:
            response = await client.get_object(**query)
            async with response["Body"] as body:
                data = await body.read()
            size = self._verify(data, response.get("ContentRange", ""), offset, requested, exact=length is not None)
            return data, size, response["ETag"].strip('"')

        try:
            return await self.requests(get)
        except ClientError as error:
            if code(error) not in ("InvalidRange", "416"):
                raise
        entry = await self.stat()  # no byte at `offset`: valid only if the file ends exactly there
        if length is None and entry.size == offset:
            return b"", entry.size, entry.etag
        raise ShortRead(f"{self.uri} ends at byte {entry.size}, before byte {offset + (length or 0)}")

    def _verify(self, data: bytes, content_range: str, offset: int, requested: int, *, exact: bool) -> int:
        """Check the position and the length of `data`; return the size of the whole object.

        `content_range` is the header Content-Range, such as `bytes 0-99/1234`.
        """
        byte_range, _, size_text = content_range.removeprefix("bytes ").partition("/")
        if not size_text.isdigit() or byte_range.partition("-")[0] != str(offset):
            raise StorageError(f"{self.uri}: the server ignores byte ranges; use a server that supports them")
        size = int(size_text)
        if exact and offset + requested > size:
            raise ShortRead(f"{self.uri} ends at byte {size}, before byte {offset + requested}")
        if len(data) != min(requested, size - offset):
            raise CutBody(f"received {len(data)} of {min(requested, size - offset)} bytes")
        return size

    async def store(self, source: Callable[[int, int], bytes], size: int) -> None:
        """Store the `size` bytes that `source(start, end)` returns in parts; the object appears only when complete."""
        if size <= PART_BYTES:
            data = source(0, size)
            await self.requests(lambda client: client.put_object(**self._address, Body=data))
            return
        started = await self.requests(lambda client: client.create_multipart_upload(**self._address))
        upload = {**self._address, "UploadId": started["UploadId"]}
        try:
            await self._store_parts(upload, source, size)
        except BaseException:
            with suppress(*CLIENT_ERRORS):  # the original error says more
                await self.requests(lambda client: client.abort_multipart_upload(**upload))
            raise
        stored = (await self.stat()).size
        if stored != size:
            raise StorageError(f"{self.uri} holds {stored} bytes after {size} were written; write it again")

    async def _store_parts(self, upload: dict[str, Any], source: Callable[[int, int], bytes], size: int) -> None:
        part_bytes = max(PART_BYTES, -(-size // MAX_PARTS))
        etags: dict[int, str] = {}

        async def send(start: int) -> None:
            number, data = start // part_bytes + 1, source(start, min(start + part_bytes, size))
            part = {**upload, "PartNumber": number, "Body": data}
            etags[number] = (await self.requests(lambda client: client.upload_part(**part)))["ETag"]

        await run_concurrently(send, range(0, size, part_bytes))
        await self._complete(upload, [{"PartNumber": n, "ETag": etags[n]} for n in sorted(etags)])

    async def _complete(self, upload: dict[str, Any], parts: list[dict[str, Any]]) -> None:
        whole = {**upload, "MultipartUpload": {"Parts": parts}}
        try:
            await self.requests(lambda client: client.complete_multipart_upload(**whole))
        except ClientError as error:
            # if the response to the first attempt is lost, the second attempt finds the upload completed
            if code(error) != "NoSuchUpload" or not (await self.stat()).etag.endswith(f"-{len(parts)}"):
                raise


async def run_concurrently(act: Callable[[int], Awaitable[None]], items: range) -> None:
    """Run `act` on all items, CONCURRENCY at a time; the first error cancels the others."""
    remaining = iter(items)

    async def work() -> None:
        for item in remaining:
            await act(item)

    workers = [asyncio.ensure_future(work()) for _ in range(min(CONCURRENCY, len(items)))]
    try:
        await asyncio.gather(*workers)
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
