"""How many kinds there are and how evenly they are filled, comparable between data sets of different size.

``counts`` is always a one-dimensional integer array: the number of samples of each kind (task, tag,
cluster). An entry of zero is a kind that was looked for and not found: it takes part in the measures of
balance (``gini``, ``normalised_entropy``, ``percent_variance``, ``imbalance_ratio``) and changes nothing in
the others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy import int64
from numpy.typing import ArrayLike, NDArray

UNTAGGED = "other"
"""What a tagger answers where nothing fits: no kind of its own."""


@dataclass(frozen=True, eq=False)
class Kinds:
    """How often each kind (``what``: "tasks" or "categories") occurs among ``n`` items, those of no kind included.

    A kind counts in the metric that has at least ``at_least`` items.
    """

    what: str
    counts: NDArray[int64]
    n: int
    at_least: int

    def expected(self, m: int) -> float:
        """The metric's expected value over ``m`` random items, 0 to ``n``; at ``n`` it is the metric's own."""
        return expected_clusters(self.counts, self.n, m, self.at_least)


def known_kinds(details: Mapping[str, Any]) -> Kinds | None:
    """The kinds that a metric's details tell of in full: tasks, or categories of objects; None where they do not."""
    for what, key, total in (("tasks", "tasks", None), ("categories", "instances", "n_instances")):
        told = details.get(key)
        if not isinstance(told, Mapping):
            continue
        counts = {kind: n for kind, n in told.items() if isinstance(n, int) and n > 0}
        known = [n for kind, n in counts.items() if kind != UNTAGGED or what != "tasks"]
        n = sum(counts.values())
        # Of very many kinds only the most frequent are told.
        if known and (total is None or details.get(total) == n):
            at_least = details.get("at_least", 1)
            return Kinds(what, np.array(known, np.int64), n, at_least if isinstance(at_least, int) else 1)
    return None


def rarefaction(counts: ArrayLike, m: int) -> float:
    """Return the expected number of kinds among ``m`` samples drawn without replacement.

    E[Sₘ] = Σᵢ [1 − C(N − nᵢ, m)/C(N, m)], N = Σ nᵢ; 0 to min(m, kinds); higher is more diverse.
    Source: Hurlbert, *Ecology* 52 (1971).

    Raises:
        ValueError: ``counts`` is not as described above, or ``m`` lies outside 0..N.
    """
    sizes = _counts(counts)
    return _expected_hits(sizes, int(sizes.sum()), m, 1)


def expected_clusters(sizes: ArrayLike, n_total: int, m: int, min_samples: int) -> float:
    """Return the expected number of clusters that keep ``min_samples`` members in a random part of the data.

    E[Kₘ] = Σᵢ P(X ≥ min_samples), X ~ Hypergeometric(n_total, sizes[i], m); 0 to the number of clusters;
    higher is more diverse. ``min_samples`` = 1 and no noise is ``rarefaction``. It is an approximation of
    clustering the m samples anew, because a thinned cluster may also break into parts.

    Args:
        sizes: members of each cluster, without the noise.
        n_total: number of samples, noise included.
        m: size of the draw, 0 to ``n_total``.
        min_samples: members that make a cluster, ≥ 1.

    Raises:
        ValueError: ``sizes`` is not one-dimensional, of non-negative integers, or holds more than
            ``n_total``; ``m`` or ``min_samples`` is out of range.
    """
    members = _counts(sizes, may_be_empty=True)
    if members.sum() > n_total:
        raise ValueError(f"the clusters hold {int(members.sum())} samples, more than n_total = {n_total}")
    if min_samples < 1:
        raise ValueError(f"min_samples must be at least 1, got {min_samples}")
    return _expected_hits(members, n_total, m, min_samples)


def chao1(counts: ArrayLike) -> float:
    """Return a lower bound of the number of kinds in the population, seen and unseen.

    S + f₁²/(2·f₂), with S kinds seen, f₁ of them once and f₂ twice; S + f₁·(f₁ − 1)/2 if f₂ = 0. At least S.
    Source: Chao, *Scandinavian Journal of Statistics* 11 (1984); the second form is
    bias-corrected (Chao 2005).

    Raises:
        ValueError: ``counts`` is not as described above.
    """
    sizes = _counts(counts)
    seen, once, twice = (int(np.count_nonzero(chosen)) for chosen in (sizes, sizes == 1, sizes == 2))
    unseen = once * once / (2 * twice) if twice else once * (once - 1) / 2
    return seen + unseen


def good_turing_coverage(counts: ArrayLike) -> float:
    """Return the share of the population that belongs to kinds already seen.

    1 − f₁/N, with f₁ kinds seen once; 0 to 1; higher is more complete. Source: Good, *Biometrika* 40 (1953).

    Raises:
        ValueError: ``counts`` is not as described above.
    """
    sizes = _counts(counts)
    return 1.0 - int(np.count_nonzero(sizes == 1)) / int(sizes.sum())


def gini(counts: ArrayLike) -> float:
    """Return the Gini coefficient of ``counts``.

    Σᵢⱼ |nᵢ − nⱼ| / (2·K·N), K kinds; 0 (all equal) to 1 − 1/K (all in one); lower is more balanced.
    Source: Gini, *Variabilità e mutabilità* (1912).

    Raises:
        ValueError: ``counts`` is not as described above.
    """
    sizes = np.sort(_counts(counts)).astype(np.float64)
    kinds = len(sizes)
    weights = 2.0 * np.arange(1, kinds + 1) - kinds - 1
    return float((weights * sizes).sum() / (kinds * sizes.sum()))


def normalised_entropy(counts: ArrayLike) -> float:
    """Return the entropy of the shares as a part of the largest possible one (Pielou's evenness).

    −Σ pₖ·ln pₖ / ln K, pₖ = nₖ/N, K kinds; 0 (all in one) to 1 (all equal); higher is more balanced.
    Source: Pielou, *Journal of Theoretical Biology* 13 (1966).

    Raises:
        ValueError: ``counts`` is not as described above, or has one kind only, whose ln K is 0.
    """
    sizes = _counts(counts)
    if len(sizes) < 2:
        raise ValueError("normalised entropy needs at least two kinds, got 1")
    shares = sizes[sizes > 0] / sizes.sum()
    return float(max(0.0, -(shares * np.log(shares)).sum()) / np.log(len(sizes)))


def percent_variance(counts: ArrayLike) -> float:
    """Return the population variance of the percentage of samples per kind.

    (1/K)·Σ (100·nₖ/N − 100/K)², K kinds; in squared percentage points; 0 (all equal) to 10⁴·(K − 1)/K²;
    lower is more balanced. Source: *Vision-Language Instruction Tuning: A Review and Analysis* (TMLR 2024),
    balance.

    Raises:
        ValueError: ``counts`` is not as described above.
    """
    sizes = _counts(counts)
    return float(np.var(100.0 * sizes / sizes.sum()))


def imbalance_ratio(counts: ArrayLike) -> float:
    """Return the size of the largest kind over that of the smallest.

    max nₖ / min nₖ; 1 (all equal) upwards; lower is more balanced.

    Raises:
        ValueError: ``counts`` is not as described above, or has an empty kind, to which there is no ratio.
    """
    sizes = _counts(counts)
    if sizes.min() == 0:
        raise ValueError(f"kind {int(sizes.argmin())} has no samples; leave empty kinds out of the ratio")
    return int(sizes.max()) / int(sizes.min())


def _counts(counts: ArrayLike, *, may_be_empty: bool = False) -> NDArray[int64]:
    """Return ``counts`` as int64[K] after checking that it is what it says."""
    sizes = np.asarray(counts)
    if sizes.ndim != 1 or (sizes.size and sizes.dtype.kind not in "iu"):
        raise ValueError(f"counts must be one-dimensional and of integers, got {sizes.dtype}{sizes.shape}")
    if sizes.size and sizes.min() < 0:
        raise ValueError(f"counts must not be negative, got {int(sizes.min())} at {int(sizes.argmin())}")
    if not may_be_empty and not sizes.any():
        raise ValueError("counts must hold at least one sample")
    return sizes.astype(np.int64)


def _expected_hits(sizes: NDArray[int64], n_total: int, m: int, at_least: int) -> float:
    """Return Σᵢ P(Hypergeometric(n_total, sizes[i], m) ≥ at_least).

    With (x)ⱼ = x·(x − 1)⋯(x − j + 1), P(X = k) = C(s, k)·(m)ₖ·(N − m)ₛ₋ₖ / (N)ₛ. SciPy has it in scipy.stats alone,
    whose import takes longer than all that is counted here of most data sets.
    """
    if not 0 <= m <= n_total:
        raise ValueError(f"m must lie in 0..{n_total}, got {m}")
    # Most clusters share a few small sizes: one probability per distinct size.
    distinct, times = np.unique(sizes[sizes >= at_least], return_counts=True)
    if not len(distinct) or m < at_least:
        return 0.0
    with np.errstate(divide="ignore"):  # the logarithm of what cannot happen
        # drawn[j] = log (N − m)ⱼ/(N)ⱼ, a sum and not a difference of log-gammas: nothing cancels.
        shares = np.minimum(m / np.arange(n_total, n_total - distinct[-1], -1), 1.0)
        drawn = np.concatenate(([0.0], np.cumsum(np.log1p(-shares))))
        fewer = np.zeros(len(distinct))
        ways = np.zeros(len(distinct))
        for k in range(at_least):
            fewer += np.exp(ways + drawn[distinct - k])
            ways += np.log((distinct - k) / (k + 1) * max(0, m - k) / (n_total - distinct + k + 1))
    return float((times * np.maximum(0.0, 1.0 - fewer)).sum())
