"""Corpora as deterministic streams of blocks read by Ray Data."""
