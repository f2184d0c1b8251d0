"""Encode corpora with trained models and evaluate them."""
