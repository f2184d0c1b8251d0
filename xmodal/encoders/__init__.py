"""Models: towers for each modality, the dual encoder of two towers, and classifiers on several modalities."""

from xmodal.encoders.auto_model import DualEncoderModel
from xmodal.encoders.dual_encoder import DualEncoder

__all__ = ["DualEncoder", "DualEncoderModel"]
