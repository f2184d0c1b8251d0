"""Configuration of jobs.export: which run, where to, and whether ONNX files are written."""

from dataclasses import dataclass, field

import tyro

from xmodal.errors import ConfigError
from xmodal.storage import StorageOptions


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """What is exported, and where to."""

    checkpoint: tyro.conf.Positional[str]  # a run, whose newest valid checkpoint is taken, or one of its checkpoints
    to: str  # directory or s3:// URI that is made
    onnx: bool = False  # write both encoders as ONNX as well; needs pip install 'xmodal[onnx]'
    overwrite: bool = False  # replace the files of an earlier export; other files in the directory stay
    storage: StorageOptions = field(default_factory=StorageOptions)

    def __post_init__(self) -> None:
        if not self.to.strip("/ "):
            raise ConfigError("name the directory to make, e.g. --to model/")
