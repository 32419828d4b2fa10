"""How well a score tells clean records from the same records corrupted. Pure functions of numbers.

Clean and corrupted scores are paired: place i is the same record on both sides. Every interval is the 95% percentile
interval of 1,000 bootstrap replicates, which resample records and so take both scores of a record together.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vlitqc.analysis.bootstrap import REPLICATES, percentile_interval

Floats = NDArray[np.float64]
Interval = tuple[float, float]

CHANCE = 0.5


@dataclass(frozen=True, slots=True)
class Estimate:
    """A statistic of ``n`` records with its interval."""

    value: float
    interval: Interval
    n: int


def auc(higher: ArrayLike, lower: ArrayLike, *, seed: int) -> Estimate:
    """P(H > L) + ½·P(H = L) for H of one record and L of another, drawn at random: 0 to 1, 0.5 is chance.

    That is the area under the ROC curve, the Mann–Whitney statistic U (Hanley & McNeil, *Radiology* 143 (1982)), over
    the n(n − 1) pairs of different records. A record's own two scores are no pair: they are not independent, and in a
    bootstrap, which draws some records several times, they would count for more than the others. Both are ``float[n]``,
    finite, of the same n records, at least two. Time and memory are O(n log n + B·n) for B replicates: pairs are
    counted by running sums over the sorted values, never one by one.
    """
    one, other = np.asarray(higher, np.float64), np.asarray(lower, np.float64)
    n = len(one)
    if np.array_equal(one, other):
        # Most metrics under most corruptions; whatever is drawn, it beats itself in half of the pairs.
        return Estimate(CHANCE, (CHANCE, CHANCE), n)
    order = np.argsort(other, kind="stable")
    ends = [np.searchsorted(other[order], one, side) for side in ("left", "right")]
    own = (one > other).astype(np.float64) + (one >= other)
    value = float(sum(end.sum() for end in ends) - own.sum()) / (2 * n * (n - 1))
    times = _draws(n, seed)
    below = np.zeros((n + 1, REPLICATES), times.dtype)
    # Row by row, since NumPy's cumsum along the first axis takes ten times as long.
    for k, i in enumerate(order.tolist()):
        np.add(below[k], times[i], out=below[k + 1])
    won = sum(np.einsum("ib,ib->b", times, below[end], dtype=np.float64) for end in ends)
    won -= np.einsum("ib,ib,i->b", times, times, own)
    pairs = n * n - np.einsum("ib,ib->b", times, times, dtype=np.float64)
    several = pairs > 0  # a replicate of one record alone has no pair
    return Estimate(value, percentile_interval(won[several] / (2.0 * pairs[several])), n)


def movement(clean: ArrayLike, corrupted: ArrayLike, *, seed: int) -> Estimate:
    """max(AUC, 1 − AUC), 0.5 to 1: how far the scores move, whichever way.

    The interval is that of the AUC folded at 0.5 likewise. The value is above 0.5 by chance alone: where the second
    scores of n records were independent of the first and distributed alike, by 0.8/√n at most in 19 of 20 cases
    (the AUC's standard error is then 1/√(6n)), and by less the more alike the two scores of a record are.
    """
    found = auc(clean, corrupted, seed=seed)
    low, high = found.interval
    far = max(abs(low - CHANCE), abs(high - CHANCE)) + CHANCE
    near = CHANCE if low <= CHANCE <= high else min(abs(low - CHANCE), abs(high - CHANCE)) + CHANCE
    return Estimate(max(found.value, 1 - found.value), (near, far), found.n)


def trend(strengths: ArrayLike, scores: ArrayLike, *, seed: int) -> Estimate:
    """The mean over records of the record's own Spearman correlation of strength and score, −1 to 1.

    ``strengths`` is ``float[s]``, two at least, ascending; ``scores`` is ``float[n, s]``, finite, a record a row. A
    record whose score never changes counts as 0: it has no order to tell the strength by.
    """
    from scipy.stats import rankdata

    ranks = rankdata(np.asarray(scores, np.float64), axis=1)
    steps = rankdata(np.asarray(strengths, np.float64))
    ranks -= ranks.mean(axis=1, keepdims=True)
    steps -= steps.mean()
    size = np.sqrt((ranks**2).sum(axis=1) * (steps**2).sum())
    own = np.divide(ranks @ steps, size, out=np.zeros(len(ranks)), where=size > 0)
    n = len(own)
    return Estimate(float(own.mean()), percentile_interval(own @ _draws(n, seed) / n), n)


def beyond(
    clean: ArrayLike, corrupted: ArrayLike, *, share: float, direction: Literal["falls", "rises"]
) -> float:
    """The share of the corrupted scores beyond the point beyond which ``share`` of the clean ones lie.

    For a fault under which the score falls that is below the clean quantile ``share``, for one under which it rises
    above the quantile 1 − ``share``: what a floor (or a ceiling) that costs so much clean data would catch.
    ``clean`` is finite; a corrupted score of NaN (null) is not caught, and counts.
    """
    after = np.asarray(corrupted, np.float64)
    if direction == "falls":
        return float(np.mean(after < quantile(clean, share)))
    return float(np.mean(after > quantile(clean, 1 - share)))


def quantile(values: ArrayLike, share: float) -> float:
    """A value of ``values`` (finite, not empty), of which at most ``share`` lie strictly below, or in the upper half at
    most 1 − ``share`` strictly above: between two values it is the outer one."""
    method: Literal["lower", "higher", "linear"] = (
        "lower" if share < CHANCE else "higher" if share > CHANCE else "linear"
    )
    return float(np.quantile(np.asarray(values, np.float64), share, method=method))


@lru_cache(maxsize=4)
def _draws(n: int, seed: int) -> NDArray[np.int32]:
    """``int32[n, B]``: how often each replicate draws each of ``n`` records; the same for every statistic."""
    drawn = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=REPLICATES)
    times = np.ascontiguousarray(drawn.T, np.int32)
    times.flags.writeable = False
    return times
