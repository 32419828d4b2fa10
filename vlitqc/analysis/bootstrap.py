"""95% intervals by resampling."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

REPLICATES = 1000
LEVEL = 0.95


def percentile_interval(replicates: NDArray[np.float64]) -> tuple[float, float]:
    """The 2.5% and 97.5% points of the replicates (Efron 1979, percentile method)."""
    tail = 100 * (1 - LEVEL) / 2
    low, high = np.percentile(replicates, [tail, 100 - tail])
    return float(low), float(high)


def bootstrap_mean(values: NDArray[np.float64], *, seed: int) -> tuple[float, float] | None:
    """The 95% percentile-bootstrap interval of the mean of ``values`` (1,000 replicates of the samples).

    None for fewer than two values, where resampling says nothing. Memory is O(n).
    """
    n = len(values)
    if n < 2:
        return None
    rng = np.random.default_rng(seed)
    means = np.array([values[rng.integers(0, n, n)].mean() for _ in range(REPLICATES)])
    return percentile_interval(means)


def bootstrap_counts(
    counts: NDArray[np.int64], statistic: Callable[[NDArray[np.int64]], float], *, seed: int
) -> tuple[float, float] | None:
    """The 95% interval of a statistic of category counts, resampling items: multinomial(N, counts / N).

    None for fewer than two items.
    """
    total = int(counts.sum())
    if total < 2:
        return None
    rng = np.random.default_rng(seed)
    draws = rng.multinomial(total, counts / total, size=REPLICATES)
    return percentile_interval(np.array([statistic(draw) for draw in draws], dtype=np.float64))
