"""The deterministic order of rows, decoded blocks of rows, and their cache."""
