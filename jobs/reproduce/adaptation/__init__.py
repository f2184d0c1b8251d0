"""Experiments on adapting to a target without labels or pairs; validators choose the strengths, never the oracle."""
