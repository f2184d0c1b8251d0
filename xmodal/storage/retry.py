"""Repeats requests to an object store that fail for a temporary reason, with exponential backoff.

The client's own retries are off, so this is the only retry loop. It decides by the kind of error, sends the whole
request again each time, and counts retries.
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

MAX_ATTEMPTS = 10  # with the delays below enough for any outage of 60 s
BACKOFF_S = 0.5  # first delay; doubles after each attempt
MAX_BACKOFF_S = 32.0
REQUEST_TIMEOUT_S = 60.0  # for one request of at most 16 MiB, even if bytes keep arriving slowly


class CutBody(Exception):
    """The error of a response that ended before its announced length."""


class InvalidEndpoint(Exception):
    """The error of an endpoint that is not a URL; botocore raises a bare ValueError."""


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
_TRANSMISSION_ERRORS = {
    "BadDigest",
    "IncompleteBody",
    "XAmzContentSHA256Mismatch",
    "RequestTimeout",
    "InternalError",
}
_EXPIRED = {"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired"}


def cause_for_retry(error: Exception) -> str | None:
    """Return why the same request may succeed if it is sent again, or None if it cannot."""
    if isinstance(error, boto.ClientError):
        return _cause_of_response(error)
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


def _cause_of_response(error: boto.ClientError) -> str | None:
    code = error.response.get("Error", {}).get("Code", "")
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    if code in _EXPIRED:
        return "expired credentials"
    if code in _BUSY or status in (429, 503):
        return "busy"
    if code in _TRANSMISSION_ERRORS or status in (500, 502, 504):
        return "server error"
    return None


def backoff_s(attempt: int) -> float:
    """Return the seconds to wait after attempt 1, 2, ...: exponential, limited, times a random factor in [0.5, 1].

    With a factor in [0, 1] several waits in a row could be near 0; this way their sum is more than a minute.
    """
    longest = min(MAX_BACKOFF_S, BACKOFF_S * 2.0 ** (attempt - 1))
    return longest * random.uniform(0.5, 1.0)


async def retry(
    request: Callable[[], Awaitable[T]],
    *,
    renew_credentials: Callable[[], Awaitable[object]],
    attempts: int | None = None,
) -> T:
    """Return the result of `request`, sent up to `attempts` times (default MAX_ATTEMPTS); raise the last error."""
    attempts = attempts or MAX_ATTEMPTS
    for attempt in range(1, attempts + 1):
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT_S):
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
