"""Charts of a report: SVG figures, small images as data URIs, contact sheets."""
