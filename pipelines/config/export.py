"""What jobs.export is asked: which run, where to, and whether ONNX files come with it."""

from dataclasses import dataclass

import tyro

from xmodal.errors import ConfigError
from xmodal.storage import StorageOptions


@dataclass(frozen=True, kw_only=True)
class Config:
    """What to export, and where to."""

    checkpoint: tyro.conf.Positional[str]  # a run, or one of its checkpoints; the newest that verifies is taken
    to: str  # the directory to make: a local path or s3://
    onnx: bool = False  # also write both towers as ONNX; needs pip install 'xmodal[onnx]'
    overwrite: bool = False  # replace the files of an earlier export; others in the directory stay
    endpoint: str | None = None  # of an S3-compatible store; None: AWS_ENDPOINT_URL or AWS itself
    region: str | None = None
    profile: str | None = None
    anonymous: bool = False  # public buckets

    def __post_init__(self) -> None:
        if not self.to.strip("/ "):
            raise ConfigError("name the directory to make, e.g. --to model/")

    @property
    def storage(self) -> StorageOptions:
        return StorageOptions(
            endpoint=self.endpoint, region=self.region, profile=self.profile, anonymous=self.anonymous
        )
