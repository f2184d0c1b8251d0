"""The S3 file system of this process, and descriptions of its endpoint and credentials for error messages.

Credentials come from the standard AWS chain (environment, profile, role) in each process. Nothing here is pickled:
only `StorageOptions` is sent between processes, and it contains no secret.
"""

import asyncio
import os
import threading
from typing import Any
from urllib.parse import urlsplit

from s3fs import S3FileSystem

from xmodal.storage.options import StorageOptions
from xmodal.storage.retry import CLIENT_ERRORS

CONNECT_TIMEOUT_S = 3.0
READ_TIMEOUT_S = 10.0  # longest wait for the next bytes of a response
CONNECTIONS = 32  # per process


_systems: dict[tuple[object, ...], S3FileSystem] = {}
_lock = threading.Lock()


def _unlock_after_fork() -> None:
    global _lock
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_unlock_after_fork)


def file_system(options: StorageOptions) -> S3FileSystem:
    """Return the file system of this process for `options` and the current AWS environment, created at the first call.

    The process number is part of the cache key because a forked child must not use its parent's sockets. The parent's
    entries stay in the cache: closing them in the child would wait for an event loop that does not run there.
    """
    environment = hash(frozenset((name, value) for name, value in os.environ.items() if name.startswith("AWS_")))
    key = (os.getpid(), options, environment, CONNECT_TIMEOUT_S, READ_TIMEOUT_S)
    with _lock:
        if key not in _systems:
            _systems[key] = _connect(options)
        return _systems[key]


def _connect(options: StorageOptions) -> S3FileSystem:
    profile = {"profile": options.profile} if options.profile else {}
    region = options.region or os.environ.get("AWS_REGION")  # botocore itself reads only AWS_DEFAULT_REGION
    return S3FileSystem(
        anon=options.anonymous,
        endpoint_url=options.endpoint,
        client_kwargs={"region_name": region} if region else None,
        config_kwargs={
            "connect_timeout": CONNECT_TIMEOUT_S,
            "read_timeout": READ_TIMEOUT_S,
            "retries": {"total_max_attempts": 1},
            "max_pool_connections": CONNECTIONS,
        },
        use_listings_cache=False,
        skip_instance_cache=True,
        **profile,
    )


def endpoint_in_words(options: StorageOptions, client: Any = None) -> str:
    """Return `endpoint http://..., region ...` as the client resolved them; without a client, as configured."""
    meta = getattr(client, "meta", None)
    endpoint = getattr(meta, "endpoint_url", None) or options.endpoint or os.environ.get("AWS_ENDPOINT_URL")
    region = getattr(meta, "region_name", None) or options.region or os.environ.get("AWS_REGION")
    return f"endpoint {_without_credentials(endpoint) or 'of AWS'}, region {region or 'not set'}"


def _without_credentials(url: str | None) -> str | None:
    return url and url.replace(urlsplit(url).netloc, urlsplit(url).netloc.rpartition("@")[2])


async def credential_source(options: StorageOptions, system: S3FileSystem) -> str:
    """Describe where the credentials came from, without the credentials themselves."""
    if options.anonymous:
        return "anonymous"
    try:
        async with asyncio.timeout(2):  # asks the machine's metadata service when it finds nothing else
            credentials = await system.session.get_credentials()
    except (*CLIENT_ERRORS, AttributeError):  # AttributeError: the session could not be made
        credentials = None
    profile = options.profile or os.environ.get("AWS_PROFILE")
    if credentials is None:
        return f"profile {profile!r}" if profile else "none found"
    profile = profile or "default"
    return {
        "env": "environment variable AWS_ACCESS_KEY_ID",
        "shared-credentials-file": f"profile {profile!r}",
        "config-file": f"profile {profile!r}",
        "iam-role": "role of this machine",
        "container-role": "role of this container",
    }.get(credentials.method, f"profile {profile!r} ({credentials.method})")
