"""The cluster as a run sees it: connection, ranks, elastic worker groups, machines."""
