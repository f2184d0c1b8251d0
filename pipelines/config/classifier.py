"""A classifier of clips as a run asks for it: classes, what is seen and heard, and how that is joined."""

from dataclasses import dataclass
from typing import Literal

from xmodal.errors import ConfigError

LETTERS = tuple("abcdefghijklmnopqrstuvxyz")  # GRID has no w
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


@dataclass(frozen=True, kw_only=True)
class Classifier:
    """Two encoders, convolutional ones or transformers, a fusion, and a head for each modality."""

    classes: tuple[str, ...] = ()  # their names, in the order of their numbers
    start_from: str | None = None
    """a run of jobs.pretrain av-tiny, or one of its checkpoints: the encoders begin with its towers' weights"""
    fusion: Literal["concatenation", "summation", "gating", "film", "transformer"] = "concatenation"  # what joins them
    dim: int = 128  # width of what the fusion gives (concatenation has its own)
    encoders: Literal["convolutional", "transformer"] = "convolutional"  # transformer: ViT on frames, AST on sound
    widths: tuple[int, ...] = (32, 64, 128)  # channels of each convolutional encoder's stages
    width: int = 128  # of each transformer
    depth: int = 4  # layers
    heads: int = 4  # of its attention
    patch: int = 16  # pixels, mel bands and frames of sound on a side
    frames: int = 8  # pictures of a clip, evenly over the window
    size: int = 64  # pixels on a side
    rate: int = 16_000  # Hz that sound is brought to
    bands: int = 64  # of the mel scale
    seconds: float = 1.0  # the window that is seen and heard
    margin: float = 0.0  # seconds that an excerpt named by the field map is widened by, on both sides
    level: float = -4.0  # mean of the log-mel over the corpus
    level_spread: float = 2.0  # its standard deviation

    def __post_init__(self) -> None:
        if len(self.classes) == 1 or len(set(self.classes)) < len(self.classes):
            raise ConfigError(f"classes={list(self.classes)}: give at least two names, each once")
        if not self.widths or min(self.widths) < 1:
            raise ConfigError(f"widths={list(self.widths)} must be whole numbers of channels, at least 1")
        for name in ("dim", "frames", "size", "bands", "width", "depth", "heads", "patch"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)} must be at least 1")
        if not self.level_spread > 0:
            raise ConfigError(f"level_spread={self.level_spread} must be positive")
