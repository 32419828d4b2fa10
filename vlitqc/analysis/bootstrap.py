"""95% intervals by resampling."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

REPLICATES = 1000
LEVEL = 0.95

MOST_RESAMPLED = 100_000
"""Values from which an interval of the mean is the normal one: 1,000 passes over millions would take minutes."""

_TWO_SIDED = 1.959963984540054
"""The normal distribution's point for LEVEL."""


def percentile_interval(replicates: NDArray[np.float64]) -> tuple[float, float]:
    """The 2.5% and 97.5% points of the replicates (Efron 1979, percentile method)."""
    tail = 100 * (1 - LEVEL) / 2
    low, high = np.percentile(replicates, [tail, 100 - tail])
    return float(low), float(high)


def bootstrap_mean(values: NDArray[np.float64], *, seed: int) -> tuple[float, float] | None:
    """The 95% percentile-bootstrap interval of the mean of ``values`` (1,000 replicates of the samples).

    Of more than 100,000 values it is the normal interval, mean ± 1.96·s/√n, s with the divisor n, to which the
    bootstrap's tends: its ends lie there within 1% of the width of those of infinitely many replicates (of 1,000
    the width itself varies by 3% from seed to seed), unless hardly any value differs from the others. None for
    fewer than two values, where resampling says nothing. Memory is O(n).
    """
    n = len(values)
    if n < 2:
        return None
    if n > MOST_RESAMPLED:
        mean, error = float(values.mean()), _TWO_SIDED * float(values.std()) / math.sqrt(n)
        return mean - error, mean + error
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


def bootstrap_kinds(counts: NDArray[np.int64], at_least: int = 1, *, seed: int) -> tuple[float, float] | None:
    """The 95% interval of the number K of categories with at least so many items: K ± 1.96·se.

    The standard error se is that of 1,000 resamples of the items (Chao et al., *Ecological Monographs* 84 (2014)).
    Percentiles of the resamples themselves would lie below K, because a resample loses categories and never finds
    a new one. The lower end is 1 at least, where K is. None for fewer than two items.
    """
    total = int(counts.sum())
    if total < 2:
        return None
    draws = np.random.default_rng(seed).multinomial(total, counts / total, size=REPLICATES)
    kinds = float(np.count_nonzero(counts >= at_least))
    error = _TWO_SIDED * float(np.count_nonzero(draws >= at_least, axis=1).std(ddof=1))
    return max(min(1.0, kinds), kinds - error), kinds + error
