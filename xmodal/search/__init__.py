"""Hyper-parameter search without a cluster: spaces, suggestions, rungs, guards and the choice of a configuration."""
