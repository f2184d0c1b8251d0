"""Decoders of video and audio, and the time spans they read."""
