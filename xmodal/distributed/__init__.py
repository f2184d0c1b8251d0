"""Collectives over the rows of a batch, and checks that ranks agree."""
