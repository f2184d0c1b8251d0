"""Retries: which errors are temporary, and how long the waits are."""

import aiohttp
import pytest
from botocore import exceptions as boto

from xmodal.storage import retry


def error_response(code: str, status: int) -> boto.ClientError:
    return boto.ClientError({"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}, "GetObject")


@pytest.mark.parametrize(
    ("code", "status", "cause"),
    [
        ("SlowDown", 503, "busy"),
        ("503", 503, "busy"),  # a HEAD has no body to name a code
        ("SlowDown", 200, "busy"),  # an error after the status was sent
        ("429", 429, "busy"),
        ("InternalError", 500, "server error"),
        ("502", 502, "server error"),
        ("RequestTimeout", 400, "server error"),
        ("BadDigest", 400, "server error"),
        ("ExpiredToken", 400, "expired credentials"),
        ("AccessDenied", 403, None),
        ("403", 403, None),
        ("404", 404, None),
        ("NoSuchKey", 404, None),
        ("NoSuchBucket", 404, None),
        ("SignatureDoesNotMatch", 403, None),
        ("InvalidRange", 416, None),
    ],
)
def test_cause_for_retry_of_error_codes(code: str, status: int, cause: str | None) -> None:
    assert retry.cause_for_retry(error_response(code, status)) == cause


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (boto.ConnectTimeoutError(endpoint_url="x"), "timeout"),
        (boto.ReadTimeoutError(endpoint_url="x"), "timeout"),
        (TimeoutError(), "timeout"),
        (boto.EndpointConnectionError(endpoint_url="x"), "connection"),
        (boto.ConnectionClosedError(endpoint_url="x"), "connection"),
        (ConnectionResetError(), "connection"),
        (aiohttp.ServerDisconnectedError(), "connection"),
        (aiohttp.ClientPayloadError(), "cut body"),
        (boto.IncompleteReadError(actual_bytes=1, expected_bytes=2), "cut body"),
        (retry.CutBody(), "cut body"),
        (boto.SSLError(endpoint_url="x", error="certificate"), None),
        (boto.NoCredentialsError(), None),
        (boto.ProfileNotFound(profile="x"), None),
        (retry.InvalidEndpoint(), None),
        (OSError(28, "No space left on device"), None),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_cause_for_retry_of_client_exceptions(error: Exception, cause: str | None) -> None:
    assert retry.cause_for_retry(error) == cause


@pytest.mark.parametrize("draw", [0.0, 1.0])
def test_waits_add_up_to_more_than_a_minute(monkeypatch: pytest.MonkeyPatch, draw: float) -> None:
    monkeypatch.setattr(retry.random, "uniform", lambda low, high: low + draw * (high - low))
    waits = [retry.backoff_s(attempt) for attempt in range(1, retry.MAX_ATTEMPTS)]
    assert sum(waits) > 60 and max(waits) <= 32
