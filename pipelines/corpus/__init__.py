"""Prepare and inspect corpora."""
