"""Shard formats: tar, gzip and Parquet readers, shard writers, and byte sources."""
