"""Experiments on public data that test the claims of a method: several seeds and arms, a table and a page."""
