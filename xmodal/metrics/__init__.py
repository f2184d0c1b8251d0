"""Evaluation: retrieval, zero-shot and probes, gaps between domains and modalities, flatness, label-free validators."""
