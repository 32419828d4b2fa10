"""How many records each stratum gives: shares of a whole number that add up exactly."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]


def shares(n: int, weight: Counts, low: Counts, high: Counts) -> Counts:
    """``n`` divided in proportion to ``weight`` (1 or more each) with ``low`` ≤ share ≤ ``high``; whole numbers.

    The exact share is ``clip(λ·weight, low, high)`` with the λ for which they add up to ``n``; with equal weights
    this is water-filling. Shares are rounded down and what is left goes to the largest remainders (Hamilton's
    method), ties to the larger weight, then to the first. An ``n`` outside Σ ``low`` to Σ ``high`` gives those.
    """
    share = low.copy()
    n = int(min(max(n, low.sum()), high.sum()))
    free = low < high
    while free.any():
        left, whole = n - int(share[~free].sum()), int(weight[free].sum())
        # λ = left / whole; everything is multiplied by ``whole`` and stays exact.
        under = np.where(free, low * whole - weight * left, 0).clip(0)
        over = np.where(free, weight * left - high * whole, 0).clip(0)
        if not (under.any() or over.any()):
            parts, rest = np.divmod(weight[free] * left, whole)
            first = np.lexsort((-weight[free], -rest))
            parts[first[: left - int(parts.sum())]] += 1
            share[free] = parts
            break
        # The side that is violated more stays violated, whatever becomes of the other.
        if under.sum() >= over.sum():
            free &= under == 0
        if over.sum() >= under.sum():
            share[over > 0] = high[over > 0]
            free &= over == 0
    return share


def quotas(
    n: int, size: Counts, group: Counts, low: Counts, high: Counts, most: Counts, *, balanced: bool
) -> Counts:
    """What each stratum gives of ``n``: first the groups' totals, then each group's strata; never above ``high``.

    A group's total is proportional to the records it holds, with at least one if ``n`` is enough for all groups; if
    ``balanced`` it is the same for each group. It is at most ``most`` (but never below what ``low`` already takes),
    and what a group cannot give the others give. Inside a group the strata give in proportion to their ``size``, a
    small one perhaps nothing: what is best in a handful is often weak.
    """
    groups = len(most)
    least = _sums(low, group, groups)
    most = np.minimum(np.maximum(most, least), _sums(high, group, groups))
    n = min(n, int(most.sum()))
    weight = np.ones_like(most) if balanced else _sums(size, group, groups)
    if not balanced and (some := np.maximum(least, most > 0)).sum() <= n:
        least = some
    totals = shares(n, weight, least, most)
    share = np.zeros_like(size)
    for g in range(groups):
        inside = group == g
        share[inside] = shares(int(totals[g]), size[inside], low[inside], high[inside])
    return share


def _sums(values: Counts, group: Counts, groups: int) -> Counts:
    sums = np.zeros(groups, np.int64)
    np.add.at(sums, group, values)
    return sums
