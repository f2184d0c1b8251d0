"""A spot notice becomes a drain: with a metadata service that behaves as AWS's, and on a real cluster of two nodes."""

import threading
import time
from datetime import UTC, datetime

import pytest

from pipelines.ops import spot
from support.spot_metadata import metadata_service, notice_in
from xmodal.errors import ConfigError


@pytest.fixture
def drained(monkeypatch):
    """The drains that were requested, instead of a cluster."""
    asked = []
    monkeypatch.setattr(spot, "local_node_id", lambda address: "this-node")
    monkeypatch.setattr(spot, "drain", lambda address, node, notice, notify: asked.append((address, node, notice)))
    return asked


def test_without_a_notice_it_keeps_asking_and_then_drains_once(drained):
    with metadata_service() as service:
        config = spot.SpotConfig(address="head:6379", every_s=0.02, metadata=service.url)
        watcher = threading.Thread(target=spot.run, args=(config,), kwargs={"notify": lambda text: None})
        watcher.start()
        while len(service.asked) < 5:
            time.sleep(0.01)
        assert not drained and service.tokens == 1
        service.notice = notice_in(120)
        watcher.join(10)
    ((address, node, notice),) = drained
    assert (address, node, notice.action) == ("head:6379", "this-node", "terminate")
    assert 115 < (notice.at - datetime.now(UTC)).total_seconds() <= 120


def test_an_expired_token_and_a_service_that_fails_do_not_end_the_watch(drained):
    notes = []
    with metadata_service() as service:
        service.failures, service.notice = 3, notice_in(60)
        questions = spot.Metadata(service.url)
        for _ in range(3):
            with pytest.raises(OSError, match="503"):
                questions.notice()
        service.valid = set()
        assert questions.notice().action == "terminate" and service.tokens == 2
        service.failures = 2
        spot.run(spot.SpotConfig(address="head:6379", every_s=0.01, metadata=service.url), notify=notes.append)
    assert len(drained) == 1
    assert sum("does not answer" in text for text in notes) == 1  # said once, not every five seconds


def test_hibernation_and_times_as_aws_writes_them():
    with metadata_service() as service:
        service.notice = {"action": "hibernate", "time": "2017-09-18T08:22:00Z"}
        assert spot.Metadata(service.url).notice() == spot.SpotNotice(
            "hibernate", datetime(2017, 9, 18, 8, 22, tzinfo=UTC)
        )


def test_a_drain_at_a_known_time_needs_no_metadata(drained):
    spot.run(spot.SpotConfig(address="head:6379", now_s=30, metadata="http://127.0.0.1:1"), notify=print)
    ((_, _, notice),) = drained
    assert 25 < (notice.at - datetime.now(UTC)).total_seconds() <= 30


def test_an_interval_that_would_miss_a_notice_is_rejected():
    with pytest.raises(ConfigError, match="every_s=120"):
        spot.SpotConfig(address="head:6379", every_s=120)


def nodes(gcs):
    return {node.hex(): info for node, info in gcs.get_all_node_info().items()}


@pytest.mark.ray
@pytest.mark.timeout(240)
def test_a_real_node_is_drained_as_preempted(monkeypatch):
    """Ray counts the drain as a preemption, and the node is removed; the other one stays."""
    from ray._raylet import GcsClient
    from ray.cluster_utils import Cluster

    monkeypatch.setattr(spot, "MARGIN_S", 1.0)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        going = cluster.add_node(num_cpus=1)
        cluster.wait_for_nodes()
        gcs = GcsClient(address=cluster.address)
        with metadata_service() as service:
            service.notice = notice_in(6)
            config = spot.SpotConfig(address=cluster.address, node_id=going.node_id, metadata=service.url)
            spot.run(config, notify=print)
        deadline = time.monotonic() + 60
        while (gone := nodes(gcs)[going.node_id]).state == gone.ALIVE:  # with work on it, until the deadline
            assert time.monotonic() < deadline
            time.sleep(0.2)
        reasons = gone.death_info.DESCRIPTOR.enum_types_by_name["Reason"].values_by_number
        assert "PREEMPT" in reasons[gone.death_info.reason].name
        assert spot.local_node_id(cluster.address) == cluster.head_node.node_id
    finally:
        cluster.shutdown()
