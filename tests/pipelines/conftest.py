"""One small Ray for all pipeline tests of a session, and corpora to run on."""

import contextlib

import pytest
import ray

from pipelines import cluster
from xmodal.data import synthetic


@pytest.fixture(scope="session")
def ray_here(request):
    """A Ray of our own with two slots for reading and one for the train workers.

    Its processes inherit the address of the S3 server, so that starts first if a test is going to need it.
    """
    if any(item.get_closest_marker("s3") for item in request.session.items):
        with contextlib.suppress(pytest.skip.Exception):  # no server: the tests on S3 say so, the others go on
            request.getfixturevalue("s3_server")
    held = cluster.connect(cluster.Resources(address="local"), cpus=2)
    yield held
    ray.shutdown()


@pytest.fixture(scope="session")
def scenes(tmp_path_factory):
    """A tar corpus of 240 captioned scenes of 32 px in shards of 60."""
    folder = tmp_path_factory.mktemp("scenes")
    synthetic.write_corpus(str(folder), "photo", 240, 0, rows_per_shard=60, size=32)
    return str(folder)
