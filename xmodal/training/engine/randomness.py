"""Random numbers of a training step as a function of its coordinates: seed, step, rank and chunk."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def derive_seed(*coordinates: int) -> int:
    """Return a 63-bit seed: a hash, so that different coordinates give unrelated random streams.

    >>> derive_seed(0, 1) == derive_seed(0, 1), derive_seed(0, 1) == derive_seed(1, 0)
    (True, False)
    """
    text = "/".join(str(c) for c in coordinates)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


@contextmanager
def seeded_rng(device: torch.device, *coordinates: int) -> Iterator[None]:
    """Make torch's random numbers depend on `coordinates` alone; the global generators are restored afterwards.

    A resumed run therefore repeats the dropout and patch dropout of the uninterrupted one, and the second forward of a
    chunk (cached embeddings) draws the same numbers as the first.
    """
    on_gpu = device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if on_gpu else []):
        seed = derive_seed(*coordinates)
        torch.default_generator.manual_seed(seed)
        if on_gpu:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield
