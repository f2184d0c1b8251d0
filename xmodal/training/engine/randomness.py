"""Randomness of a step as a function of its coordinates: (seed, step, rank, chunk) in, a seeded region out."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def seed_of(*coordinates: int) -> int:
    """A 63-bit seed; different coordinates give unrelated streams (a hash, so that no two of them overlap)."""
    text = "/".join(str(c) for c in coordinates)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


@contextmanager
def repeatable(device: torch.device, *coordinates: int) -> Iterator[None]:
    """Everything torch draws inside depends on `coordinates` alone; the global generators are as before afterwards.

    A resumed run therefore repeats dropout and patch dropout of the uninterrupted one, and a second forward of the
    same chunk (cached embeddings) draws what the first one drew.
    """
    on_gpu = device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if on_gpu else []):
        seed = seed_of(*coordinates)
        torch.random.default_generator.manual_seed(seed)
        if on_gpu:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield
