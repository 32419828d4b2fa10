"""95% intervals by resampling."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from vlitqc.analysis.diversity import chao1

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
    counts: NDArray[np.int64],
    statistic: Callable[[NDArray[np.int64]], float],
    *,
    seed: int,
    bounds: tuple[float, float] = (-math.inf, math.inf),
) -> tuple[float, float] | None:
    """The 95% interval of a statistic of category counts: statistic(counts) ± 1.96·se, cut off at ``bounds``.

    The standard error se is that of 1,000 resamples of the items, multinomial(N, counts / N). Percentiles of the
    resamples themselves would be biased: the variance or the Gini coefficient of a resample is on average as much
    above that of the items as theirs is above the population's. Of nearly equal shares such an interval hardly ever
    holds the truth. None for fewer than two items.
    """
    total = int(counts.sum())
    if total < 2:
        return None
    draws = np.random.default_rng(seed).multinomial(total, counts / total, size=REPLICATES)
    replicates = np.array([statistic(draw) for draw in draws], dtype=np.float64)
    value, error = float(statistic(counts)), _TWO_SIDED * float(replicates.std(ddof=1))
    return max(bounds[0], value - error), min(bounds[1], value + error)


def bootstrap_kinds(counts: NDArray[np.int64], at_least: int = 1, *, seed: int) -> tuple[float, float] | None:
    """The 95% interval of the number K of categories with at least so many items: K ± 1.96·se.

    It is for the number that another sample of as many items of the same population would have on average. The
    standard error se is that of 1,000 samples from the estimated population, categories that were not seen included
    (Chao et al., *Ecological Monographs* 84 (2014)). Percentiles of resamples of the items would lie below K, because
    a resample loses categories and never finds a new one. The lower end is 1 at least, where K is. None for fewer
    than two items.
    """
    total = int(counts.sum())
    if total < 2:
        return None
    shares, rng = _population(counts), np.random.default_rng(seed)
    replicates = [np.count_nonzero(rng.multinomial(total, shares) >= at_least) for _ in range(REPLICATES)]
    kinds = float(np.count_nonzero(counts >= at_least))
    error = _TWO_SIDED * float(np.std(replicates, ddof=1))
    return max(min(1.0, kinds), kinds - error), kinds + error


def _population(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """The shares of the categories in the population, first those seen and then as many as Chao1 says are not.

    The f₀ unseen ones have the share 1 − C = f₁·f₀/(N·f₀ + f₁) together, of the coverage C by f₁ and f₂ (Chao and
    Jost, *Ecology* 93 (2012)), which the seen ones lose in proportion to p·(1 − p)ᴺ, p = n/N: the rare ones nearly
    alone.
    """
    seen = counts[counts > 0]
    n, once = int(seen.sum()), int((seen == 1).sum())
    shares: NDArray[np.float64] = seen / n
    unseen = (n - 1) / n * (chao1(seen) - len(seen))
    if not unseen:
        return shares
    missing = once * unseen / (n * unseen + once)
    rarity = shares * (1 - shares) ** n
    shares = shares - missing * rarity / rarity.sum()
    # Ten for each seen once are as good as endlessly many: draws hardly meet. Of 30,000 singles Chao1 says 4.5e8.
    number = math.ceil(min(unseen, 10 * once))
    found: NDArray[np.float64] = np.concatenate([shares, np.full(number, missing / number)])
    found /= found.sum()
    return found
