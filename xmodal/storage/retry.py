"""One request to an object store comes in as a coroutine; its result, or the error no retry can mend, goes out.

The client's own retries are off, so this loop is the only one: it decides by the kind of error, starts the request
from the beginning each time, and counts what it did.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

import aiohttp
from botocore import exceptions as boto
from botocore.parsers import ResponseParserError

from xmodal.storage.retry_counts import retries

T = TypeVar("T")

ATTEMPTS = 10  # with the delays below, an outage of 60 s is always survived
BACKOFF_S = 0.5  # first delay; doubles after each attempt
LONGEST_BACKOFF_S = 32.0
ATTEMPT_LIMIT_S = 60.0  # for one request of at most 16 MiB, however slowly its bytes drip in


class CutBody(Exception):
    """A response that ended before the length it announced."""


class InvalidEndpoint(Exception):
    """An endpoint of which no client can be made; botocore says so with a bare ValueError."""


CLIENT_ERRORS = (
    boto.BotoCoreError,
    boto.ClientError,
    aiohttp.ClientError,
    OSError,
    CutBody,
    InvalidEndpoint,
    ResponseParserError,
)
_BUSY = {"SlowDown", "ServiceUnavailable", "Throttling", "TooManyRequests", "RequestLimitExceeded"}
_BROKEN_ON_THE_WAY = {
    "BadDigest",
    "IncompleteBody",
    "XAmzContentSHA256Mismatch",
    "RequestTimeout",
    "InternalError",
}
_EXPIRED = {"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired"}


def cause_for_retry(error: Exception) -> str | None:
    """Why the same request may succeed when it is sent again; None when it cannot."""
    if isinstance(error, boto.ClientError):
        return _cause_in_answer(error)
    if isinstance(error, boto.SSLError | boto.ParamValidationError):
        return None
    if isinstance(error, CutBody | boto.IncompleteReadError | boto.ResponseStreamingError | aiohttp.ClientPayloadError):
        return "cut body"
    if isinstance(error, boto.FlexibleChecksumError | ResponseParserError):
        return "cut body"
    if isinstance(error, boto.ConnectTimeoutError | boto.ReadTimeoutError | TimeoutError):
        return "timeout"
    if isinstance(error, boto.HTTPClientError | boto.ConnectionError | aiohttp.ClientError | ConnectionError):
        return "connection"
    return None


def _cause_in_answer(error: boto.ClientError) -> str | None:
    code = error.response.get("Error", {}).get("Code", "")
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    if code in _EXPIRED:
        return "expired credentials"
    if code in _BUSY or status in (429, 503):
        return "busy"
    if code in _BROKEN_ON_THE_WAY or status in (500, 502, 504):
        return "server error"
    return None


def backoff_s(attempt: int) -> float:
    """Seconds to wait after attempt 1, 2, ...: exponential, capped, with the upper half drawn at random.

    A full-range draw could be near 0 several times in a row; the lower half keeps the sum above a minute.
    """
    longest = min(LONGEST_BACKOFF_S, BACKOFF_S * 2.0 ** (attempt - 1))
    return longest * random.uniform(0.5, 1.0)


async def persist(
    request: Callable[[], Awaitable[T]],
    *,
    renew_credentials: Callable[[], Awaitable[object]],
    attempts: int | None = None,
) -> T:
    """The result of `request`, sent up to `attempts` times (default ATTEMPTS); the last error when all fail."""
    attempts = attempts or ATTEMPTS
    for attempt in range(1, attempts + 1):
        try:
            async with asyncio.timeout(ATTEMPT_LIMIT_S):
                return await request()
        except CLIENT_ERRORS as error:
            cause = cause_for_retry(error)
            if cause is None or attempt == attempts:
                raise
        retries.add(cause)
        if cause == "expired credentials":
            await renew_credentials()
        await asyncio.sleep(backoff_s(attempt))
    raise AssertionError("unreachable: the last attempt returns or raises")
