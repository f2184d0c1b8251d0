"""Commands: one module, one `python -m jobs.NAME`."""

import pipelines  # noqa: F401  (before Ray: it sets what Ray reads when it is imported)
