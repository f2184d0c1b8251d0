"""Batch in, features out: towers for each modality, and the dual encoder of two of them."""

from xmodal.encoders.dual_encoder import DualEncoder
from xmodal.encoders.pretrained import DualEncoderModel

__all__ = ["DualEncoder", "DualEncoderModel"]
