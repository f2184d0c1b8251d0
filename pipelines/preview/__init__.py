"""A configuration in; what a run of it will be and what it will ask for out, as plain JSON, without a cluster."""
