"""The training loop of one rank: restore, stream, step, save, validate."""
