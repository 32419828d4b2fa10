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


def one_each(n: int, size: Counts, low: Counts, high: Counts, group: Counts, most: Counts) -> Counts:
    """``low`` with at least one for every stratum, the largest first, while ``n`` and its group's ``most`` allow."""
    low = low.copy()
    room = most - _sums(low, group, len(most))
    left = n - int(low.sum())
    for i in np.argsort(-size, kind="stable"):
        if left > 0 and low[i] == 0 and high[i] > 0 and room[group[i]] > 0:
            low[i] = 1
            room[group[i]] -= 1
            left -= 1
    return low


def quotas(
    n: int, size: Counts, group: Counts, low: Counts, high: Counts, most: Counts, *, balanced: bool
) -> Counts:
    """What each stratum gives of ``n``: first the groups' totals, then each group's strata; never above ``high``.

    A group's total is proportional to the records it holds, or the same for each group if ``balanced``, and at most
    ``most`` (but never below what ``low`` already takes); what a group cannot give the others give. Inside a group the
    strata give in proportion to their ``size``, at least one each while the total allows, the largest first.
    """
    groups = len(most)
    most = np.maximum(most, _sums(low, group, groups))
    most = np.minimum(most, _sums(high, group, groups))
    n = min(n, int(most.sum()))
    least = low if balanced else one_each(n, size, low, high, group, most)
    weight = np.ones(groups, np.int64) if balanced else _sums(size, group, groups)
    totals = shares(n, weight, _sums(least, group, groups), most)
    least = one_each(n, size, low, high, group, totals)
    share = np.zeros_like(size)
    for g in range(groups):
        inside = group == g
        share[inside] = shares(int(totals[g]), size[inside], least[inside], high[inside])
    return share


def _sums(values: Counts, group: Counts, groups: int) -> Counts:
    sums = np.zeros(groups, np.int64)
    np.add.at(sums, group, values)
    return sums
