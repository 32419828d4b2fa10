"""Differences between data sets, with intervals, and which of many are clear."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.stats import false_discovery_control, t

LEVEL = 0.95


@dataclass(frozen=True, slots=True)
class Difference:
    """How much higher a metric is in a data set than in the first one, or the reason why that cannot be said.

    ``interval`` is that of the difference (95%) and ``p`` the matching two-sided probability; a value without them has
    the reason for that. A difference is ``clear`` where the interval excludes 0. ``q`` is ``p`` after Benjamini and
    Hochberg's correction for all metrics of the two data sets, and ``holds`` tells whether the difference is clear
    after it, too (q at most 0.05). ``method`` says what the interval is of.
    """

    value: float | None = None
    interval: tuple[float, float] | None = None
    p: float | None = None
    q: float | None = None
    clear: bool | None = None
    holds: bool | None = None
    method: str | None = None
    reason: str | None = None


def nothing(method: str) -> Difference:
    """The difference of what is known to be the same: 0 without doubt."""
    return Difference(0.0, (0.0, 0.0), 1.0, clear=False, method=method)


def with_interval(
    first: float, other: float, variance: float, df: float, *, method: str, still: str
) -> Difference:
    """``other - first`` with its interval, from the variance of the estimate and the degrees of freedom of that.

    Without any variance there is no interval, for the reason ``still``: what does not vary in the records at hand may
    in others.
    """
    value, error = other - first, float(np.sqrt(variance))
    # Rounding of equal sums is no spread.
    if error <= 1e-12 * max(abs(first), abs(other)):
        return Difference(value, reason=still)
    reach = float(t.ppf((1 + LEVEL) / 2, df)) * error
    low, high = value - reach, value + reach
    p = float(2 * t.sf(abs(value) / error, df))
    return Difference(value, (low, high), p, clear=low > 0 or high < 0, method=method)


def of_means(first: NDArray[np.float64], other: NDArray[np.float64], *, same_records: bool) -> Difference:
    """``mean(other) - mean(first)`` of finite values, NaN where a record has none or is not in the data set.

    Of different records it is Welch's interval. With ``same_records`` place k of both is one record: what counts is how
    much each record moves the difference (the infinitesimal jackknife, to which resampling records and computing both
    means again tends), so a part is held against its whole, two parts against each other, and a data set against
    itself, where the difference is 0 without doubt.

    Time and memory are O(records). Without two values on each side there is a reason and no difference.
    """
    if same_records and np.array_equal(first, other, equal_nan=True) and np.isfinite(first).any():
        return nothing("the same records")
    in_first, in_other = np.isfinite(first), np.isfinite(other)
    n_first, n_other = int(in_first.sum()), int(in_other.sum())
    if min(n_first, n_other) < 2:
        return Difference(reason="fewer than two scores")
    mean_first, mean_other = float(first[in_first].mean()), float(other[in_other].mean())
    pushes = [
        np.where(in_first, mean_first - first, 0.0) / n_first,
        np.where(in_other, other - mean_other, 0.0) / n_other,
    ]
    if same_records:
        pieces = [(pushes[0] + pushes[1], int((in_first | in_other).sum()))]
    else:
        pieces = list(zip(pushes, (n_first, n_other), strict=True))
    variances = [float(np.square(push).sum()) * n / (n - 1) for push, n in pieces]
    total = sum(variances)
    # Welch and Satterthwaite.
    shares = sum(variance**2 / (n - 1) for variance, (_, n) in zip(variances, pieces, strict=True))
    df = total**2 / shares if shares else 1.0
    method = "the same records, resampled together" if same_records else "Welch"
    return with_interval(mean_first, mean_other, total, df, method=method, still="the scores do not vary")


def corrected(found: Iterable[Difference]) -> list[Difference]:
    """The differences of one family, each with ``q`` and ``holds`` (Benjamini and Hochberg 1995)."""
    family = list(found)
    tested = [i for i, difference in enumerate(family) if difference.p is not None]
    if tested:
        adjusted = false_discovery_control([family[i].p for i in tested])
        for i, q in zip(tested, adjusted.tolist(), strict=True):
            holds = bool(family[i].clear) and q <= 1 - LEVEL + 1e-12
            family[i] = replace(family[i], q=float(q), holds=holds)
    return family
