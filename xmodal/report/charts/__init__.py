"""Inline SVG charts and images of reports."""
