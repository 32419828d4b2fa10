"""Near-duplicate rows: the connected components of "cosine at least a threshold"."""

from __future__ import annotations

import numpy as np
from numpy import float32, int64
from numpy.typing import NDArray

from vlitqc_metrics._algorithms.tiles import BLOCK, PairTest, TiledRows
from vlitqc_metrics._algorithms.union_find import flatten, union_pairs


def near_duplicate_groups(x: NDArray[float32], threshold: float, block: int = BLOCK) -> NDArray[int64]:
    """Group the rows of ``x`` that a chain of near-duplicates connects.

    Two rows are near-duplicates when their cosine is ≥ ``threshold``, decided as in float64; equal rows
    have a cosine of exactly 1. A group may hold two rows below the threshold if others lie between them.
    Time is O(n²·d), as float32 matrix products; memory is O(n + block²).

    Args:
        x: float32[n, d], finite, no row of zeros; unit rows, or rows of any length, which are then
            normalised. May be memory-mapped. n = 0 is allowed.
        threshold: smallest cosine of near-duplicates, −1 to 1.
        block: rows per tile side.

    Returns:
        int64[n]: group number 0, 1, …, numbered by first member; a row without near-duplicates is a group
        of its own.

    Raises:
        TypeError: ``x`` is not float32.
        ValueError: ``threshold`` or ``block`` is out of range, or ``x`` holds NaN, infinity or a row of
            zeros.
    """
    if not -1.0 <= threshold <= 1.0:
        raise ValueError(f"threshold is a cosine and must lie in -1..1, got {threshold}")
    rows = TiledRows(x, "cosine", block)
    parent = np.arange(len(rows), dtype=np.int64)
    for left, right in rows.neighbours(PairTest.COSINE_SIMILARITY, threshold):
        union_pairs(parent, left, right)
    flatten(parent)
    groups: NDArray[int64] = np.unique(parent, return_inverse=True)[1].astype(np.int64, copy=False)
    return groups
