"""The storage options that are sent between processes; they contain no secret."""

from dataclasses import dataclass
from urllib.parse import urlsplit

from xmodal.errors import StorageError


@dataclass(frozen=True, kw_only=True)
class StorageOptions:
    """How s3:// URIs are reached; local paths ignore all of it."""

    endpoint: str | None = None
    """URL of an S3-compatible store for s3:// URIs, http(s)://host[:port]; None:
    AWS_ENDPOINT_URL, else AWS itself"""
    region: str | None = None  # AWS region used for s3:// URIs; None: that of the AWS environment or profile
    profile: str | None = None  # AWS profile used for s3:// URIs, a section of ~/.aws; None: the AWS environment
    anonymous: bool = False  # send unsigned requests for s3:// URIs, as public buckets allow

    def __post_init__(self) -> None:
        if self.endpoint is None:
            return
        parts = urlsplit(self.endpoint)
        if parts.username or parts.password:  # do not repeat it
            raise StorageError("the storage endpoint holds credentials; put them in the AWS environment or a profile")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise StorageError(f"the storage endpoint {self.endpoint!r} is not a URL; write http(s)://host[:port]")
