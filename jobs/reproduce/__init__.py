"""Experiments on public data that test what a method claims: seeds, arms, a table and a page."""
