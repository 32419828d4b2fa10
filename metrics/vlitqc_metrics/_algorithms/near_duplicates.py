"""Near-duplicate rows: the connected components of "cosine at least a threshold"."""

from __future__ import annotations

import numpy as np
from numpy import float32, int64
from numpy.typing import NDArray

from vlitqc.types import Spread
from vlitqc_metrics._algorithms.compiled import suited, suited_to_pairs
from vlitqc_metrics._algorithms.file_rows import FileRows
from vlitqc_metrics._algorithms.tiles import (
    BLOCK,
    Device,
    PairSource,
    PairTest,
    TiledRows,
    takes_gpu,
    work_on,
)
from vlitqc_metrics._algorithms.union_find import flatten, union_pairs


def near_duplicate_groups(
    x: NDArray[float32] | FileRows,
    threshold: float,
    block: int = BLOCK,
    *,
    device: Device = "auto",
    spread: Spread | None = None,
) -> NDArray[int64]:
    """Group the rows of ``x`` that a chain of near-duplicates connects.

    Two rows are near-duplicates when their cosine is ≥ ``threshold``, decided as in float64; equal rows
    have a cosine of exactly 1. A group may hold two rows below the threshold if others lie between them.
    Time is O(n²·d), as float32 matrix products; memory is O(n + threads·block²).

    Args:
        x: float32[n, d], finite, no row of zeros; unit rows, or rows of any length, which are then
            normalised. May be memory-mapped. n = 0 is allowed.
        threshold: smallest cosine of near-duplicates, −1 to 1.
        block: rows per tile side.
        device: ``cpu``, ``cuda``, or ``auto``: a GPU for many rows where there is one (``half_tiles``); the
            groups do not depend on it.
        spread: shares the tiles of ``FileRows`` among machines (``bands``) where no GPU is taken; the groups do not
            depend on it.

    Returns:
        int64[n]: group number 0, 1, …, numbered by first member; a row without near-duplicates is a group
        of its own.

    Raises:
        TypeError: ``x`` is not float32.
        ValueError: an argument is out of range, or ``x`` holds NaN, infinity or a row of
            zeros.
    """
    if not -1.0 <= threshold <= 1.0:
        raise ValueError(f"threshold is a cosine and must lie in -1..1, got {threshold}")

    rows = TiledRows(x, "cosine", block)
    if spread is not None and isinstance(x, FileRows) and not takes_gpu(rows, device):
        from vlitqc_metrics._algorithms.bands import join_bands

        roots = join_bands(rows, spread, threshold)
    else:
        roots = work_on(rows, device, lambda source: joined(source, len(x), threshold))
    return np.unique(roots, return_inverse=True)[1].astype(np.int64, copy=False)


def joined(source: PairSource, n: int, threshold: float) -> NDArray[int64]:
    """The first member of each row's group, as far as ``source`` connects n rows."""
    parent = np.arange(n, dtype=np.int64)
    join = suited_to_pairs(union_pairs, n)
    for left, right in source.neighbours(PairTest.COSINE_SIMILARITY, threshold, parent):
        join(parent, left, right)
    suited(flatten, n)(parent)
    return parent
