"""Numbers in bins of equal width, whatever the numbers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_LARGEST = float(np.finfo(np.float64).max)


def histogram(values: NDArray[np.float64], bins: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """How many of the finite ``values``, one at least, are in each of ``bins`` bins of equal width, and their edges.

    The edges are finite and reach from the smallest value to the largest. Of values that are equal up to rounding
    they reach half a unit further on both sides, or as far as leaves room for distinct edges.
    """
    # The width of a range may be beyond the largest number; that of half the range is not.
    scale = 0.25 if np.abs(values).max() > _LARGEST / 4 else 1.0
    scaled = values * scale
    low, high = float(scaled.min()), float(scaled.max())
    room = bins * float(np.spacing(max(abs(low), abs(high))))
    if not high - low > room:
        low, high = low - max(0.5, room), high + max(0.5, room)
    counts, edges = np.histogram(scaled, bins=bins, range=(low, high))
    limit = _LARGEST * scale
    return counts.astype(np.int64), np.clip(edges, -limit, limit) / scale


def percentiles(values: NDArray[np.float64], shares: tuple[float, ...]) -> NDArray[np.float64]:
    """The percentiles of finite ``values``, one at least, at ``shares`` of 0 to 100, interpolated linearly."""
    # Halves, because the difference of two values may be beyond the largest number.
    found: NDArray[np.float64] = np.percentile(values / 2, shares) * 2
    return found
