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


def nearest_similarity(x: NDArray[float32], block: int = BLOCK) -> NDArray[float32]:
    """Return each row's largest cosine to any other row: a score to which a threshold can be put later.

    Computed in float32: off by at most (d + 16)·2⁻²⁴ (2.4e-5 at d = 384), so a threshold on it may decide a
    pair within that distance otherwise than ``near_duplicate_groups`` does.

    Args:
        x: as for ``near_duplicate_groups``.
        block: rows per tile side.

    Returns:
        float32[n] in −1..1; higher is closer. NaN if n = 1, where there is no other row.

    Raises:
        TypeError: ``x`` is not float32.
        ValueError: ``block`` is out of range, or ``x`` holds NaN, infinity or a row of zeros.
    """
    tiled = TiledRows(x, "cosine", block)
    nearest = np.full(len(tiled), -np.inf, dtype=np.float32)
    for rows, cols, products in tiled.tiles():
        if rows is cols:
            np.fill_diagonal(products, -np.inf)
        row_part = nearest[rows.start : rows.start + len(rows.raw)]
        col_part = nearest[cols.start : cols.start + len(cols.raw)]
        np.maximum(row_part, products.max(axis=1), out=row_part)
        np.maximum(col_part, products.max(axis=0), out=col_part)
    if len(tiled) == 1:
        nearest[:] = np.nan
    return np.clip(nearest, -1.0, 1.0)
