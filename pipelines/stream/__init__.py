"""Read corpora with Ray Data as deterministic streams of batches."""
