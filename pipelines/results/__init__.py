"""Reports, comparisons and exports of finished runs."""
