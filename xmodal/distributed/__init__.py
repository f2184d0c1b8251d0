"""Process groups: rows and values across ranks, and checks that ranks agree."""
