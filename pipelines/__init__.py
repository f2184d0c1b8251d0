"""The stages as functions of a configuration: what the commands of `jobs` run, on Ray."""

import os

# Ray reads it when it is imported. Fractions of a CPU make more processes than Ray expects, on purpose.
os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", "worker processes have been started on node")
