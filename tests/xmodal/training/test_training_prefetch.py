"""Prefetching keeps the order of items and errors; the device receives the same bytes."""

import threading
import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from support.toy_encoder import toy_batch
from xmodal.training.engine.prefetch import prefetch, to_device


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(), max_size=20), st.integers(1, 5))
def test_prefetch_equals_map(items, depth):
    assert list(prefetch(items, lambda x: x + 1, depth=depth)) == [x + 1 for x in items]


def test_error_is_raised_after_the_items_before_it():
    def items():
        yield 1
        yield 2
        raise OSError("the disk is gone")

    received = []
    with pytest.raises(OSError, match="the disk is gone"):
        for x in prefetch(items(), str, depth=4):
            received.append(x)  # noqa: PERF402
    assert received == ["1", "2"]


def test_at_most_depth_results_wait():
    prepared = []
    results = prefetch(range(100), lambda i: prepared.append(i), depth=2)
    next(results)
    time.sleep(0.3)
    assert len(prepared) <= 4  # one taken, two in the queue, one in the thread
    results.close()


def test_closing_the_generator_ends_the_thread():
    earlier = set(threading.enumerate())  # those of other tests may still be ending
    results = prefetch(iter(int, 1), lambda x: x, depth=1)
    next(results)
    [thread] = [thread for thread in set(threading.enumerate()) - earlier if thread.name == "prefetch"]
    results.close()
    thread.join(timeout=60)
    assert not thread.is_alive()


def test_to_device_on_cpu_yields_the_same_batches():
    batches = [toy_batch(4, seed=i) for i in range(3)]
    for sent, received in zip(batches, to_device(batches, "cpu"), strict=True):
        assert torch.equal(sent.row, received.row)
        assert all(torch.equal(sent.fields[name], received.fields[name]) for name in sent.fields)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_gpu_receives_the_same_bytes_while_it_computes():
    batches = [toy_batch(64, seed=i) for i in range(8)]
    for sent, received in zip(batches, to_device(batches, "cuda"), strict=True):
        assert received.fields["image"].is_cuda
        busy = torch.rand(2000, 2000, device="cuda")
        for _ in range(5):
            busy = busy @ busy
        assert torch.equal(received.fields["image"].cpu(), sent.fields["image"])
        assert torch.equal(received.row.cpu(), sent.row)
