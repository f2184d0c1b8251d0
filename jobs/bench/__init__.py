"""Benchmarks: `python -m jobs.bench NAME` runs one and prints one JSON object a line for each measurement.

A benchmark is a module of this package with a function `run() -> Iterator[Measurement]`, which yields each measurement
as soon as it is taken. Its opponents run in the same process group on the same data, so that a figure is a ratio. A
benchmark that reads public data sets names their files in a constant NEEDS, and its `run` takes the folder of data.
"""
