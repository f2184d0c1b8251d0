"""Sections of a run's report: each turns records into figures and tables."""
