"""Every test runs with xmodal's array shapes checked and one torch thread."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from jaxtyping import install_import_hook
from s3 import s3_root, s3_server, short_waits  # noqa: F401  (fixtures for every test)

install_import_hook("xmodal", "beartype.beartype")
