"""Batch in, features out: towers for each modality, and the dual encoder of two of them."""

from xmodal.encoders.auto_model import DualEncoderModel
from xmodal.encoders.dual_encoder import DualEncoder

__all__ = ["DualEncoder", "DualEncoderModel"]
