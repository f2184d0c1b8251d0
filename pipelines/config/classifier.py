"""Configuration of a multimodal classifier: its classes, its encoders, what they see and hear, and their fusion."""

from dataclasses import dataclass
from typing import Literal

from xmodal.errors import ConfigError

Modality = Literal["audio", "video", "image", "text"]
MODALITIES = (("audio", "video"), ("image", "text"))
LETTERS = tuple("abcdefghijklmnopqrstuvxyz")  # GRID has no w
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


@dataclass(frozen=True, kw_only=True)
class ClassifierConfig:
    """A classifier of clips, or of images with texts: an encoder and a head for each modality, and a head on their
    fusion."""

    modalities: tuple[Modality, Modality] = ("audio", "video")
    """what a row has: audio and video of a clip, or image and text of a pair"""
    classes: tuple[str, ...] = ()  # names of the classes, in the order of their numbers
    start_from: str | None = None
    """a run of jobs.pretrain av-tiny, or one of its checkpoints, whose encoders' weights the
    training of a clip classifier starts from; None: random weights"""
    fusion: Literal["concatenation", "summation", "gating", "film", "transformer"] = "concatenation"
    """how the features of the modalities are joined for the multimodal head"""
    dim: int = 128  # width of the joined features; concatenation has the sum of the encoders' widths
    encoders: Literal["convolutional", "transformer"] = "convolutional"
    """convolutional: small residual networks; transformer: a ViT on images or frames and an
    AST on the spectrogram; a text encoder is a BERT in both cases"""
    widths: tuple[int, ...] = (32, 64, 128)  # number of channels of each stage of a convolutional encoder
    width: int = 128  # width of a transformer's hidden states
    depth: int = 4  # number of layers of a transformer
    heads: int = 4  # number of attention heads of a transformer; they must divide its width
    patch: int = 16
    """side of a transformer's patches: in pixels of a frame, and in mel bands and time steps
    of a spectrogram"""
    tokenizer: str | None = None
    """directory or Hugging Face Hub name of a text encoder's tokenizer; None: a new one that
    is trained on the texts of the corpus"""
    vocab_size: int = 8192  # number of tokens of a tokenizer that is trained on the corpus
    context: int = 64  # number of tokens that a text is cut or padded to
    frames: int = 8  # number of frames of a clip, spread evenly over --seconds
    size: int = 64  # pixels on each side of the square that every frame is cropped and resized to
    rate: int = 16_000  # sample rate in Hz that audio is converted to
    bands: int = 64  # number of bands of the mel spectrogram
    seconds: float = 1.0  # seconds of a clip that are seen and heard
    margin: float = 0.0  # seconds by which a time span that the field map names is widened on both sides
    level: float = -4.0  # mean of the log-mel spectrogram over the corpus, which is subtracted
    level_spread: float = 2.0  # standard deviation of the log-mel spectrogram over the corpus, by which it is divided

    @property
    def fields(self) -> tuple[str, ...]:
        """What is decoded of a labelled row: both modalities, and the label."""
        return (*self.modalities, "label")

    @property
    def reads_text(self) -> bool:
        return "text" in self.modalities

    def __post_init__(self) -> None:
        if self.modalities not in MODALITIES:
            pairs = " or ".join(" ".join(pair) for pair in MODALITIES)
            raise ConfigError(f"modalities={' '.join(self.modalities)}: a classifier takes {pairs}")
        if self.tokenizer is not None and not self.reads_text:
            raise ConfigError(f"tokenizer={self.tokenizer}: clips have no text; leave the tokenizer out")
        if len(self.classes) == 1 or len(set(self.classes)) < len(self.classes):
            raise ConfigError(f"classes={list(self.classes)}: give at least two names, each once")
        if not self.widths or min(self.widths) < 1:
            raise ConfigError(f"widths={list(self.widths)} must be whole numbers of channels, at least 1")
        for name in ("dim", "frames", "size", "bands", "width", "depth", "heads", "patch", "context"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)} must be at least 1")
        if not self.level_spread > 0:
            raise ConfigError(f"level_spread={self.level_spread} must be positive")
