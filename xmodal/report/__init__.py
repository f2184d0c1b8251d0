"""Self-contained HTML pages: the report of runs, the report of a sweep, and the results of an experiment.

page.py             runs and what was computed from them -> the report page
search_page.py      the trials of a sweep -> its page
experiment_page.py  the arms of an experiment -> its page
sections/           one section of the report page each; templates/ turns them into HTML
charts/             charts as inline SVG in the page's own colours
"""
