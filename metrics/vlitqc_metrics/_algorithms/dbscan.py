"""Exact DBSCAN over many rows without a distance matrix.

Source: Ester, Kriegel, Sander & Xu, *A density-based algorithm for discovering clusters in large spatial
databases with noise*, KDD 1996. The labels are those of scikit-learn's ``DBSCAN`` on the same rows in
float64.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from numba import njit
from numpy import bool_, int32, int64
from numpy.typing import NDArray

from vlitqc_metrics._algorithms.tiles import BLOCK, Metric, PairTest, TiledRows
from vlitqc_metrics._algorithms.union_find import find, flatten, union

NOISE = -1
"""The label of a row that belongs to no cluster."""

EDGE_BUDGET = 1 << 30
"""Bytes of neighbour pairs that are kept (8 each); beyond it the pairs are computed a second time instead."""

_LOW_WORD = (1 << 32) - 1


def dbscan(
    x: NDArray[np.float32],
    eps: float,
    min_samples: int,
    *,
    metric: Metric = "cosine",
    block: int = BLOCK,
    edge_budget: int = EDGE_BUDGET,
) -> NDArray[int64]:
    """Label the rows of ``x`` by density-based clusters.

    Two rows are neighbours when their distance is ≤ ``eps``; a row with at least ``min_samples``
    neighbours, itself included, is a core row. Clusters are the connected components of the core rows,
    numbered 0, 1, … by their first core row. A row that is not core takes the smallest label among its core
    neighbours, and is noise without one.

    Time is O(n²·d), as float32 matrix products. Memory is O(n + block²) plus at most ``edge_budget`` bytes
    of neighbour pairs, plus the pairs of non-core with core rows (fewer than n·``min_samples``, kept once
    per row and cluster when they exceed the budget).

    Args:
        x: float32[n, d], finite; may be memory-mapped. n = 0 is allowed.
        eps: largest distance between neighbours, > 0: Euclidean distance, or 1 − cosine (0 to 2).
        min_samples: neighbours, with itself, that make a core row, ≥ 1.
        metric: ``cosine`` (rows need not have unit length) or ``euclidean``.
        block: rows per tile side.
        edge_budget: bytes of neighbour pairs that may be kept, ≥ 0.

    Returns:
        int64[n]: cluster number, or −1 for noise. A cosine distance that equals ``eps`` up to the rounding of
        float64 (about 1e-16) is decided by that rounding, as in scikit-learn; Euclidean ties are inclusive.

    Raises:
        TypeError: ``x`` is not float32.
        ValueError: an argument is out of range, or ``x`` holds NaN, infinity or (cosine) a row of zeros.
    """
    if not (math.isfinite(eps) and eps > 0):
        raise ValueError(f"eps must be a finite number above 0, got {eps}")
    if min_samples < 1:
        raise ValueError(f"min_samples must be at least 1, got {min_samples}")
    if edge_budget < 0:
        raise ValueError(f"edge_budget must be at least 0 bytes, got {edge_budget}")
    rows = TiledRows(x, metric, block)
    test = PairTest.COSINE_DISTANCE if metric == "cosine" else PairTest.EUCLIDEAN
    n = len(rows)

    degree = np.ones(n, dtype=np.int64)  # a row is its own neighbour
    kept: list[tuple[NDArray[int32], NDArray[int32]]] = []
    kept_bytes = 0
    for left, right in rows.neighbours(test, eps):
        _count_ends(degree, left, right)
        kept_bytes += left.nbytes + right.nbytes
        if kept_bytes <= edge_budget:
            kept.append((left.copy(), right.copy()))
        else:
            kept.clear()
    core = degree >= min_samples
    pairs = kept if kept_bytes <= edge_budget else rows.neighbours(test, eps)
    return _label(core, pairs, edge_budget)


def _label(
    core: NDArray[bool_], pairs: Iterable[tuple[NDArray[int32], NDArray[int32]]], edge_budget: int
) -> NDArray[int64]:
    """Join the core rows over ``pairs``, then give each border row to its first cluster."""
    n = core.shape[0]
    parent = np.arange(n, dtype=np.int64)
    border: list[NDArray[int64]] = []
    border_bytes, border_limit = 0, edge_budget
    for left, right in pairs:
        found = _join_cores(parent, core, left, right)
        if found.size:
            border.append(found)
            border_bytes += found.nbytes
        if border_bytes > border_limit:
            border = [_one_per_cluster(parent, np.concatenate(border))]
            border_bytes = border[0].nbytes
            # Doubling keeps the cost of thinning out proportional to what is left.
            border_limit = max(edge_budget, 2 * border_bytes)
    flatten(parent)

    labels = np.full(n, NOISE, dtype=np.int64)
    first_cores, numbers = np.unique(parent[core], return_inverse=True)
    labels[core] = numbers
    if border:
        keys = _one_per_cluster(parent, np.concatenate(border))
        # Sorted by border row, then first core row of the cluster: a row's first entry is its smallest label.
        owners, first = np.unique(keys >> 32, return_index=True)
        labels[owners] = np.searchsorted(first_cores, keys[first] & _LOW_WORD)
    return labels


def _one_per_cluster(parent: NDArray[int64], keys: NDArray[int64]) -> NDArray[int64]:
    """Replace the core row in each border row << 32 | core row by its root so far; sort, drop repetitions."""
    _to_roots(parent, keys)
    return np.unique(keys)


@njit(cache=True)
def _count_ends(degree: NDArray[int64], left: NDArray[int32], right: NDArray[int32]) -> None:
    """Add one to the degree of both rows of every pair."""
    for k in range(left.shape[0]):
        degree[left[k]] += 1
        degree[right[k]] += 1


@njit(cache=True)
def _join_cores(
    parent: NDArray[int64], core: NDArray[bool_], left: NDArray[int32], right: NDArray[int32]
) -> NDArray[int64]:
    """Join the core–core pairs; return the border–core pairs as border row << 32 | core row."""
    count = 0
    for k in range(left.shape[0]):
        if core[left[k]] != core[right[k]]:
            count += 1
    border = np.empty(count, dtype=np.int64)
    count = 0
    for k in range(left.shape[0]):
        i = int(left[k])
        j = int(right[k])
        if core[i] and core[j]:
            union(parent, i, j)
        elif core[i]:
            border[count] = (j << 32) | i
            count += 1
        elif core[j]:
            border[count] = (i << 32) | j
            count += 1
    return border


@njit(cache=True)
def _to_roots(parent: NDArray[int64], keys: NDArray[int64]) -> None:
    """Replace the low word of every key by its root, in place."""
    for k in range(keys.shape[0]):
        row = keys[k] >> 32
        keys[k] = (row << 32) | find(parent, keys[k] & _LOW_WORD)
