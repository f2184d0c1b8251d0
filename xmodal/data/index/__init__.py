"""Corpora: list shards, index their extents, sample and survey their rows."""
