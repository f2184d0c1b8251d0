"""Build, save and load the models of a run."""
