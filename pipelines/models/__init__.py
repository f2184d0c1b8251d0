"""Build and load the models of a run."""
