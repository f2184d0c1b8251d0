"""What runs wrote down and what their models see in held-out pairs -> one self-contained HTML page.

recorded.py   the URI of a run -> everything in its directory
sections.py   runs and what was computed of them -> the page's sections; templates/ -> HTML
svg.py, charts.py   figures as inline SVG, drawn in the page's own colours
"""
