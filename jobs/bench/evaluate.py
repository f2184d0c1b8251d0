"""Exact retrieval both ways over 100,000 pairs: its memory, its time against one matrix product, and its agreement.

The opponent is numpy's float32 product of the same two matrices in chunks, into memory that is there already, with as
many threads; it finds nothing. Both take turns, each in a process of its own, and a ratio is of one round. Agreement
is with the definition, written down word for word in float64, on small random cases full of ties. XMODAL_BENCH_ROWS
takes fewer pairs, to see that it works.
"""

import math
import os
import time
from collections.abc import Iterator
from multiprocessing import get_context
from typing import Any

import numpy as np
import torch

from jobs.bench.measurement import Figure, median_figure
from jobs.bench.memory import rise
from xmodal.metrics.positive_pairs import Ids
from xmodal.metrics.retrieval import retrieve_both_ways
from xmodal.metrics.retrieval_ranks import ranks_both_ways

ROWS, WIDTH, ROUNDS, CASES = 100_000, 256, 3, 1000
NOISE = 5.0  # against a signal of 1: the right answer lies some hundred places down
CHUNK = 1000  # rows of the opponent's product at once


def run() -> Iterator[Figure]:
    rows = int(os.environ.get("XMODAL_BENCH_ROWS") or ROWS)
    detail: dict[str, Any] = {"rows": rows, "width": WIDTH, "threads": torch.get_num_threads()}
    agreed = sum(_agrees(seed) for seed in range(CASES))
    yield Figure(name="evaluate_agreement", value=agreed, unit=f"of {CASES} cases", reach=CASES)
    yield Figure(name="evaluate_memory", value=_alone(memory, rows) / 2**30, unit="GiB", reach=1, at_most=True,
                 detail=detail)  # fmt: skip
    rounds = [(_alone(search, rows), _alone(product, rows)) for _ in range(ROUNDS)]
    ours, theirs = ([pair[i] for pair in rounds] for i in range(2))
    yield median_figure(ours, name="evaluate_search_s", unit="s", at_most=True, detail=detail)
    yield median_figure(theirs, name="evaluate_numpy_product_s", unit="s", at_most=True, detail=detail)
    ratios = [a / b for a, b in rounds]
    yield median_figure(ratios, name="evaluate_search_over_product", unit="ratio", reach=1.5, at_most=True,
                        detail=detail)  # fmt: skip


def _alone(work: Any, rows: int) -> float:
    with get_context("spawn").Pool(1) as pool:
        return pool.apply(work, (rows,))


def memory(rows: int) -> float:
    """Bytes at the peak, the embeddings included; a small search loads before what is loaded once."""
    search(1000)
    return rise(lambda: search(rows))


def search(rows: int) -> float:
    """Seconds of the search both ways with its figures."""
    image, text = map(torch.from_numpy, _embeddings(rows))
    ids = torch.arange(rows)
    began = time.perf_counter()
    retrieve_both_ways(image, text, ids, ids)
    return time.perf_counter() - began


def product(rows: int) -> float:
    """Seconds of the scores alone."""
    image, text = _embeddings(rows)
    into = np.zeros((CHUNK, rows), np.float32)
    began = time.perf_counter()
    for start in range(0, rows, CHUNK):
        part = image[start : start + CHUNK]
        np.matmul(part, text.T, out=into[: len(part)])
    return time.perf_counter() - began


def _embeddings(rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of unit vectors float32 [rows, WIDTH], made a few at a time so that they are all the memory they take."""
    image, text = (np.empty((rows, WIDTH), np.float32) for _ in range(2))
    random = np.random.default_rng(0)
    for start in range(0, rows, CHUNK):
        part = slice(start, min(start + CHUNK, rows))
        one, noise = random.standard_normal((2, part.stop - start, WIDTH), np.float32)
        other = one + NOISE * noise
        image[part] = one / np.linalg.norm(one, axis=1, keepdims=True)
        text[part] = other / np.linalg.norm(other, axis=1, keepdims=True)
    return image, text


def _agrees(seed: int) -> bool:
    """One case: up to 8 images with 1 to 4 captions each, some of one wording; whole numbers, so that many tie."""
    random = np.random.default_rng(seed)
    images, width = random.integers(1, 9), random.integers(1, 4)
    owner = random.permutation(np.repeat(np.arange(images), random.integers(1, 5, images)))
    wording = random.integers(0, random.integers(1, 10), len(owner))
    u = random.integers(-2, 3, (images, width)).astype(np.float32)
    v = random.integers(-2, 3, (len(owner), width)).astype(np.float32)
    forth, back = ranks_both_ways(
        torch.from_numpy(u), torch.from_numpy(v), Ids(owner, wording), torch.from_numpy(wording)
    )
    right = np.array([[w in wording[owner == i] for w in wording] for i in range(images)])
    return forth.tolist() == _by_definition(u, v, right) and back.tolist() == _by_definition(v, u, right.T)


def _by_definition(queries: np.ndarray, items: np.ndarray, right: np.ndarray) -> list[int]:
    """The place of each query's best right answer, behind every better item and every equal one that stands before."""
    found = []
    for query, is_right in zip(queries, right, strict=True):
        scores = [math.fsum(float(a) * float(b) for a, b in zip(query, item, strict=True)) for item in items]
        best = max(score for score, good in zip(scores, is_right, strict=True) if good)
        first = next(i for i, score in enumerate(scores) if is_right[i] and score == best)
        found.append(1 + sum(score > best or (score == best and i < first) for i, score in enumerate(scores)))
    return found
