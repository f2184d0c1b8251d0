"""What a run needs of Ray and of its machines: connection, ranks, elastic worker groups, events."""
