"""Exact DBSCAN over many rows without a distance matrix.

Source: Ester, Kriegel, Sander & Xu, *A density-based algorithm for discovering clusters in large spatial
databases with noise*, KDD 1996. The labels are those of scikit-learn's ``DBSCAN`` on the same rows in
float64, but for cosine rows shorter than about 2e-15, which scikit-learn takes for zeros.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
from numpy import bool_, int32, int64
from numpy.typing import NDArray

from vlitqc.types import Spread
from vlitqc_metrics._algorithms.compiled import suited, suited_to_pairs
from vlitqc_metrics._algorithms.file_rows import FileRows
from vlitqc_metrics._algorithms.tiles import (
    BLOCK,
    Device,
    Metric,
    Pairs,
    PairSource,
    PairTest,
    TiledRows,
    takes_gpu,
    work_on,
)
from vlitqc_metrics._algorithms.union_find import find, flatten, union

NOISE = -1
"""The label of a row that belongs to no cluster."""

EDGE_BUDGET = 1 << 27
"""Bytes of neighbour pairs that may wait (8 each); beyond it the pairs are computed a second time instead."""

_NO_KEYS = np.empty(0, dtype=np.int64)
_LOW_WORD = (1 << 32) - 1


def dbscan(
    x: NDArray[np.float32] | FileRows,
    eps: float,
    min_samples: int,
    *,
    metric: Metric = "cosine",
    block: int = BLOCK,
    edge_budget: int = EDGE_BUDGET,
    threads: int | None = None,
    device: Device = "auto",
    spread: Spread | None = None,
) -> NDArray[int64]:
    """Label the rows of ``x`` by density-based clusters.

    Two rows are neighbours when their distance is ≤ ``eps``; a row with at least ``min_samples``
    neighbours, itself included, is a core row. Clusters are the connected components of the core rows,
    numbered 0, 1, … by their first core row. A row that is not core takes the smallest label among its core
    neighbours, and is noise without one.

    Time is O(n²·d), as float32 matrix products. A row is known to be core as soon as enough neighbours have
    been seen, and two core rows are joined at once; only a pair with an end that is not core yet waits, fewer
    than n·``min_samples`` of them. So memory is O(n + threads·block²) plus the waiting pairs. Where these
    exceed ``edge_budget`` bytes they are dropped, the pairs are computed a second time when all core rows are
    known, and the pairs of other rows with core rows are kept once per row and cluster.

    Args:
        x: float32[n, d], finite; may be memory-mapped. n = 0 is allowed.
        eps: largest distance between neighbours, > 0: Euclidean distance, or 1 − cosine (0 to 2).
        min_samples: neighbours, with itself, that make a core row, ≥ 1.
        metric: ``cosine`` (rows need not have unit length) or ``euclidean``.
        block: rows per tile side.
        edge_budget: bytes of neighbour pairs that may wait, ≥ 0.
        threads: tiles computed at a time, as many as BLAS would use threads by default; labels do not
            depend on it.
        device: ``cpu``, ``cuda``, or ``auto``: a GPU for many rows with the cosine metric where there is one
            (``half_tiles``); labels do not depend on it.
        spread: shares the tiles of ``FileRows`` among machines (``bands``) where no GPU is taken; labels do not
            depend on it.

    Returns:
        int64[n]: cluster number, or −1 for noise. A cosine distance that equals ``eps`` up to the rounding of
        float64 (about 1e-16) is decided by that rounding, as in scikit-learn; Euclidean ties are inclusive.

    Raises:
        TypeError: ``x`` is not float32.
        ValueError: an argument is out of range, ``x`` holds NaN, infinity or (cosine) a row of zeros, or
            ``device`` is ``cuda`` and cannot be used.
    """
    if not (math.isfinite(eps) and eps > 0):
        raise ValueError(f"eps must be a finite number above 0, got {eps}")
    if min_samples < 1:
        raise ValueError(f"min_samples must be at least 1, got {min_samples}")
    if edge_budget < 0:
        raise ValueError(f"edge_budget must be at least 0 bytes, got {edge_budget}")
    rows = TiledRows(x, metric, block, threads)
    test = PairTest.COSINE_DISTANCE if metric == "cosine" else PairTest.EUCLIDEAN
    if spread is not None and isinstance(x, FileRows) and not takes_gpu(rows, device):
        from vlitqc_metrics._algorithms.bands import label_bands

        return label_bands(rows, spread, test, eps, min_samples, edge_budget)
    return work_on(
        rows, device, lambda pairs: label_rows(pairs, len(rows), test, eps, min_samples, edge_budget)
    )


def label_rows(
    source: PairSource, n: int, test: PairTest, eps: float, min_samples: int, edge_budget: int = EDGE_BUDGET
) -> NDArray[int64]:
    """The labels of ``dbscan`` for n rows whose neighbours ``source`` finds."""
    parent, degree, kept = first_pass(source, n, test, eps, min_samples, edge_budget)
    pairs = source.neighbours(test, eps, parent) if kept is None else kept
    return label(parent, degree >= min_samples, pairs, edge_budget)


def first_pass(
    source: PairSource, n: int, test: PairTest, eps: float, min_samples: int, edge_budget: int
) -> tuple[NDArray[int64], NDArray[int64], list[Pairs] | None]:
    """Join what is seen to be core.

    Returns the parents of the disjoint sets; the neighbours of each row, itself included, of which those of a core
    row may be too few, but never under ``min_samples``; and the pairs that wait, None where they are too many.
    """
    parent = np.arange(n, dtype=np.int64)
    degree = np.ones(n, dtype=np.int64)  # a row is its own neighbour
    kept: list[Pairs] = []
    kept_bytes, within_budget = 0, True
    count_ends = suited_to_pairs(_count_ends, n)
    join_or_wait = suited_to_pairs(_join_or_wait, n)
    for left, right in source.neighbours(test, eps, parent):
        count_ends(degree, left, right)
        waiting = join_or_wait(parent, degree, min_samples, left, right)
        if not (waiting and within_budget):
            continue
        kept.append((left[:waiting].copy(), right[:waiting].copy()))
        kept_bytes += 8 * waiting
        if kept_bytes > edge_budget:
            kept = [still_waiting(parent, degree, min_samples, kept)]
            kept_bytes = 8 * len(kept[0][0])
            # Half the budget free again, or none: going through the pairs stays cheap beside finding them.
            within_budget = 2 * kept_bytes <= edge_budget
            if not within_budget:
                kept.clear()
    return parent, degree, kept if within_budget else None


def still_waiting(
    parent: NDArray[int64], degree: NDArray[int64], min_samples: int, kept: Sequence[Pairs]
) -> Pairs:
    """Join those of the waiting pairs whose ends have become core, and return the others."""
    left, right = (np.concatenate(ends) for ends in zip(*kept, strict=True))
    waiting = suited(_join_or_wait, len(left))(parent, degree, min_samples, left, right)
    return left[:waiting].copy(), right[:waiting].copy()


def label(
    parent: NDArray[int64], core: NDArray[bool_], pairs: Iterable[Pairs], edge_budget: int
) -> NDArray[int64]:
    """Join the core rows over ``pairs``, then give each border row to its first cluster."""
    keys = join_cores(parent, core, pairs, edge_budget)
    suited(flatten, len(parent))(parent)
    labels = np.full(core.shape[0], NOISE, dtype=np.int64)
    first_cores, numbers = np.unique(parent[core], return_inverse=True)
    labels[core] = numbers
    # Sorted by border row, then first core row of the cluster: a row's first entry is its smallest label.
    owners, first = np.unique(keys >> 32, return_index=True)
    labels[owners] = np.searchsorted(first_cores, keys[first] & _LOW_WORD)
    return labels


def join_cores(
    parent: NDArray[int64], core: NDArray[bool_], pairs: Iterable[Pairs], edge_budget: int
) -> NDArray[int64]:
    """Join the core rows over ``pairs``; return each border row with each of its clusters, border row << 32 | root,
    ascending."""
    border: list[NDArray[int64]] = []
    border_bytes, border_limit = 0, edge_budget
    join = suited_to_pairs(_join_cores, len(core))
    for left, right in pairs:
        found = join(parent, core, left, right)
        if found.size:
            border.append(found)
            border_bytes += found.nbytes
        if border_bytes > border_limit:
            border = [_one_per_cluster(parent, np.concatenate(border))]
            border_bytes = border[0].nbytes
            # Doubling keeps the cost of thinning out proportional to what is left.
            border_limit = max(edge_budget, 2 * border_bytes)
    return _one_per_cluster(parent, np.concatenate([_NO_KEYS, *border]))


def _one_per_cluster(parent: NDArray[int64], keys: NDArray[int64]) -> NDArray[int64]:
    """Replace the core row in each border row << 32 | core row by its root so far; sort, drop repetitions."""
    suited(_to_roots, len(keys))(parent, keys)
    return np.unique(keys)


def _count_ends(degree: NDArray[int64], left: NDArray[int32], right: NDArray[int32]) -> None:
    """Add one to the degree of both rows of every pair."""
    for k in range(left.shape[0]):
        degree[left[k]] += 1
        degree[right[k]] += 1


def _join_or_wait(
    parent: NDArray[int64],
    degree: NDArray[int64],
    min_samples: int,
    left: NDArray[int32],
    right: NDArray[int32],
) -> int:
    """Join the pairs whose ends are both core by now; move the others to the front and return how many."""
    waiting = 0
    for k in range(left.shape[0]):
        i = left[k]
        j = right[k]
        if degree[i] >= min_samples and degree[j] >= min_samples:
            if parent[i] != parent[j]:
                union(parent, i, j)
        else:
            left[waiting] = i
            right[waiting] = j
            waiting += 1
    return waiting


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


def _to_roots(parent: NDArray[int64], keys: NDArray[int64]) -> None:
    """Replace the low word of every key by its root, in place."""
    for k in range(keys.shape[0]):
        row = keys[k] >> 32
        keys[k] = (row << 32) | find(parent, keys[k] & _LOW_WORD)
