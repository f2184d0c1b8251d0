"""Every test runs with xmodal's array shapes checked and one torch thread."""

import contextlib
import importlib
import os
import tempfile

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.25")  # how soon a controller sees that its ranks ended
os.environ.setdefault("REPORTER_UPDATE_INTERVAL_MS", "600000")  # Ray's agents measure processes for nobody
os.environ.setdefault("RAY_enable_metrics_collection", "0")

import beartype.claw  # noqa: F401  (before the hook, as those below)
import pytest
from hypothesis import settings
from jaxtyping import install_import_hook

from support import fork_server
from support.s3 import s3_root, s3_server, short_waits  # noqa: F401  (fixtures for every test)

for module in fork_server.IMPORTED_FROM_OTHERS:  # under the hook, what xmodal imports would be compiled from its source
    importlib.import_module(module)
install_import_hook("xmodal", "beartype.beartype")
settings.register_profile("shared machine", deadline=None)  # a busy neighbour is no failure
settings.load_profile("shared machine")


@pytest.fixture(scope="session")
def forked_workers():
    """Workers of the Rays that are started meanwhile are forked from processes that hold Ray and torch."""
    with tempfile.TemporaryDirectory(prefix="xmodal-") as folder, fork_server.fork_ray_workers(folder):
        yield


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests marked `gpu` are skipped, with the reason, where there is no CUDA device."""
    if not any(item.get_closest_marker("gpu") for item in items):
        return
    import torch

    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@pytest.fixture(scope="session")
def ray_here(request, forked_workers):
    """Start a Ray of our own with two slots for reading and one for the train workers.

    Its processes inherit the address of the S3 server, so that starts first if a test is going to need it.
    """
    import ray

    from pipelines.runtime import cluster

    if any(item.get_closest_marker("s3") for item in request.session.items):
        with contextlib.suppress(pytest.skip.Exception):  # no server: the tests on S3 say so, the others go on
            request.getfixturevalue("s3_server")
    yield cluster.connect(cluster.ResourceConfig(address="local"), cpus=2)
    ray.shutdown()
