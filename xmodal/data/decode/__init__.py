"""Decoders from encoded images, captions and labels to numpy columns."""
