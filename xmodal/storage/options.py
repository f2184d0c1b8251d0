"""Where S3 is and who asks: the only thing about storage that travels between processes, and it holds no secret."""

from dataclasses import dataclass
from urllib.parse import urlsplit

from xmodal.errors import StorageError


@dataclass(frozen=True, kw_only=True)
class StorageOptions:
    """Where S3 is and who asks, without secrets; what is None comes from the standard AWS environment or profile.

    `endpoint` is `http(s)://host[:port]`; `profile` names a section of the AWS configuration files; `anonymous`
    sends unsigned requests. Local paths ignore all four.
    """

    endpoint: str | None = None
    region: str | None = None
    profile: str | None = None
    anonymous: bool = False

    def __post_init__(self) -> None:
        if self.endpoint is None:
            return
        parts = urlsplit(self.endpoint)
        if parts.username or parts.password:  # do not repeat it
            raise StorageError("the storage endpoint holds credentials; put them in the AWS environment or a profile")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise StorageError(f"the storage endpoint {self.endpoint!r} is not a URL; write http(s)://host[:port]")
