"""Training state, one optimisation step, accumulation, schedules and saved state."""
