"""What a search over configurations decides, without a cluster: spaces, proposals, rungs, guards, the choice."""
