"""Disjoint sets over 0..n-1 in one int64 array, where a set's root is always its smallest member.

The smallest member as root costs nothing against union by size here (path halving alone keeps a find at
O(log n) amortised) and makes every numbering that follows from the roots independent of the order of unions.
"""

from __future__ import annotations

from numpy import int32, int64
from numpy.typing import NDArray

from vlitqc_metrics._algorithms.compiled import called_by_kernels


@called_by_kernels
def find(parent: NDArray[int64], item: int) -> int:
    """Return the root of ``item``'s set, halving the path to it on the way."""
    while parent[item] != item:
        parent[item] = parent[parent[item]]
        item = parent[item]
    return item


@called_by_kernels
def union(parent: NDArray[int64], a: int, b: int) -> None:
    """Join the sets of ``a`` and ``b``; the smaller of the two roots stays root."""
    root_a = find(parent, a)
    root_b = find(parent, b)
    if root_a < root_b:
        parent[root_b] = root_a
    elif root_b < root_a:
        parent[root_a] = root_b


def union_pairs(parent: NDArray[int64], rows: NDArray[int32], cols: NDArray[int32]) -> None:
    """Join ``rows[k]`` with ``cols[k]`` for every k. A kernel, see ``compiled``."""
    for k in range(rows.shape[0]):
        if parent[rows[k]] != parent[cols[k]]:
            union(parent, rows[k], cols[k])


def flatten(parent: NDArray[int64]) -> None:
    """Point every item straight at its root, so that ``parent`` itself is the array of roots. A kernel."""
    for item in range(parent.shape[0]):
        # A parent is never larger than its child, so the parent of ``item`` is flat already.
        parent[item] = parent[parent[item]]
