"""An error of the S3 client comes in, one sentence for a person goes out: what failed, why, and the mend."""

from botocore import exceptions as boto

from xmodal.storage.retry import CutBody, InvalidEndpoint

_KEY = "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or the profile"
_RIGHTS = "grant them s3:ListBucket, s3:GetObject and, to write, s3:PutObject and s3:DeleteObject, or use others"
_REGION = "set AWS_REGION to the region of the bucket"
_WITHOUT = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, name a profile, or ask for anonymous access"

# error code of S3 -> (cause, mend)
_ANSWERS = {
    "NoSuchBucket": ("the bucket does not exist", "create it or correct its name"),
    "InvalidBucketName": ("the bucket name is not valid", "correct it"),
    "NoSuchKey": ("it does not exist", "check the key"),
    "404": ("it does not exist", "check the bucket and the key"),
    "InvalidAccessKeyId": ("the server does not know the access key", _KEY),
    "SignatureDoesNotMatch": ("the server refuses the secret key", _KEY),
    "AccessDenied": ("these credentials may not do this", _RIGHTS),
    "403": ("these credentials may not do this", _RIGHTS),
    "ExpiredToken": ("the credentials have expired", "renew them"),
    "RequestTimeTooSkewed": ("the clock of this machine is wrong", "set it"),
    "PermanentRedirect": ("the bucket is in another region", _REGION),
    "AuthorizationHeaderMalformed": ("the bucket is in another region", _REGION),
    "IllegalLocationConstraintException": ("the bucket is in another region", _REGION),
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
# exception of the client -> (cause, mend), first match
_FAILURES: tuple[tuple[type[BaseException], str, str], ...] = (
    (InvalidEndpoint, "the endpoint is not a URL", "write AWS_ENDPOINT_URL as http(s)://host[:port]"),
    (CutBody, "the server cut its answers short", "check the server and the network"),
    (boto.NoCredentialsError, "there are no credentials", _WITHOUT),
    (boto.PartialCredentialsError, "the credentials are incomplete", _WITHOUT),
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
    """The S3 error code of an answer (`NoSuchKey`, `404`, ...), or the name of the exception."""
    if isinstance(error, boto.ClientError):
        return error.response.get("Error", {}).get("Code") or "no error code"
    return type(error).__name__


def is_missing(error: Exception) -> bool:
    """Whether the server said that the object, or its bucket, does not exist."""
    return code(error) in ("NoSuchKey", "404", "NoSuchBucket")


def cause_and_mend(error: Exception, *, anonymous: bool) -> tuple[str, str]:
    """Both as parts of a sentence. The text of the server is used only for codes that this module does not know."""
    if isinstance(error, boto.ClientError):
        if anonymous and code(error) in _REFUSALS:
            return (
                f"the server refuses unsigned requests ({code(error)})",
                "use credentials, or make the bucket public",
            )
        said = error.response.get("Error", {}).get("Message", "")
        cause, mend = _ANSWERS.get(code(error), (f"the server said: {said}", "see the server's log"))
        return f"{cause} ({code(error)})", mend
    for kind, cause, mend in _FAILURES:
        if isinstance(error, kind):
            return f"{cause} ({type(error).__name__})", mend
    return f"{type(error).__name__}: {error}", "check the endpoint and the network"
