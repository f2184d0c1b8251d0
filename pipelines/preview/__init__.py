"""Describe what a job would do and what it would need, as plain JSON, without a cluster (`--dry-run`)."""
