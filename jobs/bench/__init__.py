"""`python -m jobs.bench NAME` runs one benchmark and prints one JSON object a line for each of its figures.

A benchmark is a module of this package with a function `run() -> Iterator[Figure]`; it yields each figure as soon as
it is measured. Its opponents run in the same process group on the same data, so that a figure is a ratio.
"""
