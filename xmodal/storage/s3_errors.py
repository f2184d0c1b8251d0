"""Explains errors of the S3 client: the cause, and what to do about it."""

from botocore import exceptions as boto

from xmodal.storage.retry import CutBody, InvalidEndpoint

_FIX_KEY = "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or the profile"
_FIX_RIGHTS = "grant them s3:ListBucket, s3:GetObject and, to write, s3:PutObject and s3:DeleteObject, or use others"
_FIX_REGION = "set AWS_REGION to the region of the bucket"
_FIX_NO_CREDENTIALS = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, name a profile, or ask for anonymous access"

# error code of S3 -> (cause, fix)
_BY_CODE = {
    "NoSuchBucket": ("the bucket does not exist", "create it or correct its name"),
    "InvalidBucketName": ("the bucket name is not valid", "correct it"),
    "NoSuchKey": ("it does not exist", "check the key"),
    "404": ("it does not exist", "check the bucket and the key"),
    "InvalidAccessKeyId": ("the server does not know the access key", _FIX_KEY),
    "SignatureDoesNotMatch": ("the server refuses the secret key", _FIX_KEY),
    "AccessDenied": ("these credentials may not do this", _FIX_RIGHTS),
    "403": ("these credentials may not do this", _FIX_RIGHTS),
    "ExpiredToken": ("the credentials have expired", "renew them"),
    "RequestTimeTooSkewed": ("the clock of this machine is wrong", "set it"),
    "PermanentRedirect": ("the bucket is in another region", _FIX_REGION),
    "AuthorizationHeaderMalformed": ("the bucket is in another region", _FIX_REGION),
    "IllegalLocationConstraintException": ("the bucket is in another region", _FIX_REGION),
    "SlowDown": ("the server asks for fewer requests", "lower the number of readers"),
    "KeyTooLongError": ("the key is longer than S3 allows", "use a shorter one"),
    "PreconditionFailed": ("the object was replaced since it was listed", "index the corpus again"),
}
_REFUSALS = {
    "AccessDenied",
    "401",
    "403",
    "412",
}  # 412: Swift takes an unsigned request for one of its own interface
# exception of the client -> (cause, fix), first match
_BY_EXCEPTION: tuple[tuple[type[BaseException], str, str], ...] = (
    (InvalidEndpoint, "the endpoint is not a URL", "write AWS_ENDPOINT_URL as http(s)://host[:port]"),
    (CutBody, "the server cut its answers short", "check the server and the network"),
    (boto.NoCredentialsError, "there are no credentials", _FIX_NO_CREDENTIALS),
    (boto.PartialCredentialsError, "the credentials are incomplete", _FIX_NO_CREDENTIALS),
    (boto.ProfileNotFound, "the AWS configuration files have no such profile", "add it or name another one"),
    (boto.SSLError, "the TLS certificate is not trusted", "check the endpoint, or set AWS_CA_BUNDLE"),
    (
        boto.EndpointConnectionError,
        "nothing answers at the endpoint",
        "check AWS_ENDPOINT_URL and the server",
    ),
    (boto.ConnectTimeoutError, "the endpoint does not answer", "check AWS_ENDPOINT_URL and the network"),
    (TimeoutError, "the server does not answer in time", "check the server and the network"),
    (boto.ReadTimeoutError, "the server does not answer in time", "check the server and the network"),
    (boto.ConnectionClosedError, "the server closed the connection", "check that the endpoint speaks S3"),
)


def code(error: Exception) -> str:
    """Return the S3 error code of a response (`NoSuchKey`, `404`, ...), or the name of the exception."""
    if isinstance(error, boto.ClientError):
        return error.response.get("Error", {}).get("Code") or "no error code"
    return type(error).__name__


def is_missing(error: Exception) -> bool:
    """Return whether the object or its bucket does not exist."""
    return code(error) in ("NoSuchKey", "404", "NoSuchBucket")


def cause_and_fix(error: Exception, *, anonymous: bool) -> tuple[str, str]:
    """Return cause and fix as parts of a sentence; the server's own text is used for unknown error codes only."""
    if isinstance(error, boto.ClientError):
        if anonymous and code(error) in _REFUSALS:
            return (
                f"the server refuses unsigned requests ({code(error)})",
                "use credentials, or make the bucket public",
            )
        message = error.response.get("Error", {}).get("Message", "")
        cause, fix = _BY_CODE.get(code(error), (f"the server said: {message}", "see the server's log"))
        return f"{cause} ({code(error)})", fix
    for kind, cause, fix in _BY_EXCEPTION:
        if isinstance(error, kind):
            return f"{cause} ({type(error).__name__})", fix
    return f"{type(error).__name__}: {error}", "check the endpoint and the network"
