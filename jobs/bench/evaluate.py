"""Exact retrieval both ways over 100,000 pairs: its memory, its time against one matrix product, and its agreement.

The opponent is numpy's float32 product of the same two matrices in chunks, into allocated memory, with as many threads;
it searches nothing. Both take turns, each in a process of its own, and a ratio is of one round. Agreement is with the
definition, written down literally in float64, on small random cases full of ties. XMODAL_BENCH_ROWS takes fewer pairs,
to see that it works.
"""

import math
import os
import time
from collections.abc import Iterator
from multiprocessing import get_context
from typing import Any

import numpy as np
import torch

from jobs.bench.measurement import Measurement, median_measurement
from jobs.bench.memory import peak_increase
from xmodal.metrics.positive_pairs import RowIds
from xmodal.metrics.retrieval import retrieve_both_ways
from xmodal.metrics.retrieval_ranks import ranks_both_ways

ROWS, WIDTH, ROUNDS, CASES = 100_000, 256, 3, 1000
NOISE = 5.0  # in units of the signal: the positive is then ranked in the hundreds
CHUNK = 1000  # rows of the opponent's product at once


def run() -> Iterator[Measurement]:
    """Yield agreement, memory, the seconds of the search and of the product, and their ratio."""
    rows = int(os.environ.get("XMODAL_BENCH_ROWS") or ROWS)
    detail: dict[str, object] = {"rows": rows, "width": WIDTH, "threads": torch.get_num_threads()}
    agreements = sum(_agrees_with_definition(seed) for seed in range(CASES))
    yield Measurement(name="evaluate_agreement", value=agreements, unit=f"of {CASES} cases", target=CASES)
    gib = _in_new_process(memory, rows) / 2**30
    yield Measurement(name="evaluate_memory", value=gib, unit="GiB", target=1, lower_is_better=True, detail=detail)
    rounds = [(_in_new_process(search, rows), _in_new_process(matrix_product, rows)) for _ in range(ROUNDS)]
    ours, theirs = ([pair[i] for pair in rounds] for i in range(2))
    yield median_measurement(ours, name="evaluate_search_s", unit="s", lower_is_better=True, detail=detail)
    yield median_measurement(theirs, name="evaluate_numpy_product_s", unit="s", lower_is_better=True, detail=detail)
    ratios = [a / b for a, b in rounds]
    yield median_measurement(
        ratios, name="evaluate_search_over_product", unit="ratio", target=1.5, lower_is_better=True, detail=detail
    )


def _in_new_process(work: Any, rows: int) -> float:
    with get_context("spawn").Pool(1) as pool:
        return pool.apply(work, (rows,))


def memory(rows: int) -> float:
    """Return the rise of memory in bytes, embeddings included, after a small search as a warm-up."""
    search(1000)
    return peak_increase(lambda: search(rows))


def search(rows: int) -> float:
    """Return seconds of the search both ways with its metrics."""
    image, text = map(torch.from_numpy, _embeddings(rows))
    ids = torch.arange(rows)
    began = time.perf_counter()
    retrieve_both_ways(image, text, ids, ids)
    return time.perf_counter() - began


def matrix_product(rows: int) -> float:
    """Return seconds of the matrix product alone."""
    image, text = _embeddings(rows)
    into = np.zeros((CHUNK, rows), np.float32)
    began = time.perf_counter()
    for start in range(0, rows, CHUNK):
        part = image[start : start + CHUNK]
        np.matmul(part, text.T, out=into[: len(part)])
    return time.perf_counter() - began


def _embeddings(rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Return pairs of unit vectors float32 [rows, WIDTH], made in chunks so that they are all the memory they take."""
    image, text = (np.empty((rows, WIDTH), np.float32) for _ in range(2))
    rng = np.random.default_rng(0)
    for start in range(0, rows, CHUNK):
        rows_of_chunk = slice(start, min(start + CHUNK, rows))
        signal, noise = rng.standard_normal((2, rows_of_chunk.stop - start, WIDTH), np.float32)
        noisy = signal + NOISE * noise
        image[rows_of_chunk] = signal / np.linalg.norm(signal, axis=1, keepdims=True)
        text[rows_of_chunk] = noisy / np.linalg.norm(noisy, axis=1, keepdims=True)
    return image, text


def _agrees_with_definition(seed: int) -> bool:
    """Check one random case: up to 8 images with 1 to 4 captions each, some of one wording, with many ties."""
    rng = np.random.default_rng(seed)
    images, width = rng.integers(1, 9), rng.integers(1, 4)
    owner = rng.permutation(np.repeat(np.arange(images), rng.integers(1, 5, images)))
    wording = rng.integers(0, rng.integers(1, 10), len(owner))
    u = rng.integers(-2, 3, (images, width)).astype(np.float32)
    v = rng.integers(-2, 3, (len(owner), width)).astype(np.float32)
    image_ranks, text_ranks = ranks_both_ways(
        torch.from_numpy(u), torch.from_numpy(v), RowIds(owner, wording), torch.from_numpy(wording)
    )
    positives = np.array([[w in wording[owner == i] for w in wording] for i in range(images)])
    images_agree = image_ranks.tolist() == _ranks_by_definition(u, v, positives)
    return images_agree and text_ranks.tolist() == _ranks_by_definition(v, u, positives.T)


def _ranks_by_definition(queries: np.ndarray, items: np.ndarray, positives: np.ndarray) -> list[int]:
    """Return the rank of each query's best positive, behind every better item and every equal one that comes first."""
    ranks = []
    for query, is_right in zip(queries, positives, strict=True):
        scores = [math.fsum(float(a) * float(b) for a, b in zip(query, item, strict=True)) for item in items]
        best = max(score for score, positive in zip(scores, is_right, strict=True) if positive)
        first = next(i for i, score in enumerate(scores) if is_right[i] and score == best)
        ranks.append(1 + sum(score > best or (score == best and i < first) for i, score in enumerate(scores)))
    return ranks
