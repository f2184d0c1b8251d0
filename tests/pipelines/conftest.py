"""One small Ray for all pipeline tests of a session, and corpora to run on."""

import pytest
import ray

from pipelines import cluster
from xmodal.data import synthetic


@pytest.fixture(scope="session")
def ray_here():
    """A Ray of our own with two slots for reading and one for the train workers."""
    held = cluster.connect(cluster.Resources(address="local"), cpus=2)
    yield held
    ray.shutdown()


@pytest.fixture(scope="session")
def scenes(tmp_path_factory):
    """A tar corpus of 240 captioned scenes of 32 px in shards of 60."""
    folder = tmp_path_factory.mktemp("scenes")
    synthetic.write_corpus(str(folder), "photo", 240, 0, rows_per_shard=60, size=32)
    return str(folder)
