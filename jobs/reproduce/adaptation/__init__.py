"""Experiments on adapting to a target without labels or pairs: strengths chosen by validators, oracles kept sealed."""
