"""Correlation over few data sets, what so few can show at all, and agreement of raters."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import integrate, special
from scipy.stats import false_discovery_control, norm, pearsonr, rankdata, spearmanr, t

LEVEL = 0.95
ALPHA = 0.05
MOST_PERMUTED = 9
"""Up to so many data sets Spearman's p is exact: 9! orders are seconds for none, 10! for everybody."""

FEWEST = 3
"""Two points always lie on a line."""

TRUE_CORRELATIONS = (0.5, 0.8)
"""What the power is told of: Cohen's large effect, and one that nobody would overlook."""

FEWEST_RATINGS = 5
"""With fewer pingouin refuses an analysis of variance."""

_PERFECT = 1e-12
"""Rounding of a coefficient; closer to 1 it is 1."""


@dataclass(frozen=True, slots=True)
class Coefficient:
    """A correlation coefficient, −1 to 1, or the reason why there is none.

    ``interval`` is that of 95%, ``p`` the two-sided probability of one as far from 0 where there is no correlation, and
    ``q`` that after Benjamini and Hochberg's correction for all pairs that were tested. A value without an interval has
    the ``reason`` for that.
    """

    value: float | None = None
    interval: tuple[float, float] | None = None
    p: float | None = None
    q: float | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Correlation:
    """Pearson's r and Spearman's rho of ``n`` pairs of values."""

    n: int
    pearson: Coefficient
    spearman: Coefficient


@dataclass(frozen=True, slots=True)
class Limits:
    """What ``n`` data sets can show at all.

    ``smallest_r``: the smallest |r| with p ≤ 0.05. ``smallest_r_alone``: that of a pair which survives Benjamini and
    Hochberg's correction as the only one of ``pairs``. ``power``: true correlation → the probability of p ≤ 0.05.
    ``smallest_spearman_p``: the p of equal orders without ties, below which no exact p can be. All are None, and power
    is empty, for fewer than three data sets.
    """

    n: int
    pairs: int
    smallest_r: float | None
    smallest_r_alone: float | None
    power: dict[float, float]
    smallest_spearman_p: float | None


@dataclass(frozen=True, slots=True)
class Agreement:
    """ICC(1,1), of a single rater, and ICC(1,k), of the mean of all, each at most 1 and with its 95% interval.

    None, with the ``reason``, where no rating differs from another.
    """

    targets: int
    raters: int
    single: float | None = None
    single_interval: tuple[float, float] | None = None
    average: float | None = None
    average_interval: tuple[float, float] | None = None
    reason: str | None = None


# ---------------------------------------------------------------- correlation


def correlation(x: ArrayLike, y: ArrayLike, names: tuple[str, str] = ("x", "y")) -> Correlation:
    """Pearson's r and Spearman's rho of two columns of the same length; pairs with a NaN are left out.

    ``names`` are what a reason calls the columns.

    Pearson's p is that of t = r·√((n−2)/(1−r²)) with n−2 degrees of freedom, exact where both are normal. Spearman's is
    exact up to nine pairs, the share of all n! orders whose rho is as far from 0, ties as they are; beyond that it is
    that of t, but never below 2/n!, that of equal orders. The intervals are Fisher's: tanh(atanh r ± 1.96·s) with
    s² = 1/(n−3), for Spearman (1 + rho²/2)/(n−3) (Bonett and Wright, *Psychometrika* 65 (2000)). There is none for
    n < 4 or |r| = 1.

    Raises ValueError for columns of different lengths or with infinite values.
    """
    a, b = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if a.shape != b.shape or a.ndim != 1:
        raise ValueError(f"expected two columns of one length, got the shapes {a.shape} and {b.shape}")
    known = ~(np.isnan(a) | np.isnan(b))
    a, b = a[known], b[known]
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError("expected finite values or NaN, got an infinite one")
    n = len(a)
    if n < FEWEST:
        nothing = Coefficient(reason=f"{n} of at least {FEWEST} data sets have both")
        return Correlation(n, nothing, nothing)
    for values, name in zip((a, b), names, strict=True):
        if is_constant(values):
            nothing = Coefficient(reason=f"all values of {name} are equal")
            return Correlation(n, nothing, nothing)
    # Neither coefficient knows a scale, and sums of the largest floats would overflow.
    r, p = pearsonr(a / np.abs(a).max(), b / np.abs(b).max())
    pearson = _coefficient(float(r), float(p), n, 1.0)
    rho, p = spearmanr(a, b)
    p = exact_spearman_p(a, b) if n <= MOST_PERMUTED else max(float(p), smallest_spearman_p(n))
    return Correlation(n, pearson, _coefficient(float(rho), float(p), n, 1 + float(rho) ** 2 / 2))


def is_constant(values: NDArray[np.float64]) -> bool:
    """Whether the values differ by no more than rounding."""
    largest = float(np.abs(values).max())
    return largest == 0 or float(np.ptp(values / largest)) <= 1e-12


def _coefficient(value: float, p: float, n: int, factor: float) -> Coefficient:
    if 1 - abs(value) < _PERFECT:
        told = "no interval: the correlation is perfect" if n > FEWEST else _TOO_FEW
        return Coefficient(math.copysign(1.0, value), p=p, reason=told)
    if n <= FEWEST:
        return Coefficient(value, p=p, reason=_TOO_FEW)
    reach = float(norm.ppf((1 + LEVEL) / 2)) * math.sqrt(factor / (n - 3))
    middle = math.atanh(value)
    return Coefficient(value, (math.tanh(middle - reach), math.tanh(middle + reach)), p)


_TOO_FEW = f"no interval: {FEWEST} of at least {FEWEST + 1} data sets"


def exact_spearman_p(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """The share of all orders of ``y`` whose |rho| with ``x`` is at least the one found; for at most nine pairs."""
    n = len(x)
    if n > MOST_PERMUTED:
        raise ValueError(f"{n} pairs: {n}! orders are too many; expected at most {MOST_PERMUTED}")
    # Twice a rank is whole, so that equal distances are equal.
    a, b = (np.rint(2 * rankdata(values)).astype(np.int64) for values in (x, y))
    null = _null(tuple(np.sort(a).tolist()), tuple(np.sort(b).tolist()))
    found = abs(n * int(a @ b) - int(a.sum()) * int(b.sum()))
    return float((len(null) - np.searchsorted(null, found, "left")) / len(null))


@lru_cache(maxsize=16)
def _null(a: tuple[int, ...], b: tuple[int, ...]) -> NDArray[np.int64]:
    """|n·Σab − Σa·Σb| of every order of ``b``, ascending. Ranks without ties are the same for every pair."""
    products = np.array(b, np.int64)[_orders(len(b))] @ np.array(a, np.int64)
    found: NDArray[np.int64] = np.sort(np.abs(len(a) * products - sum(a) * sum(b)))
    return found


@lru_cache(maxsize=1)
def _orders(n: int) -> NDArray[np.int8]:
    return np.array(list(itertools.permutations(range(n))), np.int8)


def corrected(found: Iterable[Correlation]) -> list[Correlation]:
    """The correlations of one family with ``q`` (Benjamini and Hochberg 1995), for each coefficient by itself."""
    family = list(found)
    pearson = _with_q([one.pearson for one in family])
    spearman = _with_q([one.spearman for one in family])
    return [
        replace(one, pearson=r, spearman=rho) for one, r, rho in zip(family, pearson, spearman, strict=True)
    ]


def _with_q(family: Sequence[Coefficient]) -> list[Coefficient]:
    qs = iter(benjamini_hochberg([one.p for one in family if one.p is not None]))
    return [one if one.p is None else replace(one, q=next(qs)) for one in family]


def benjamini_hochberg(p: Sequence[float]) -> list[float]:
    """q of each p: the smallest share of false discoveries at which it is one of the discoveries."""
    return [float(q) for q in false_discovery_control(p)] if len(p) else []


# ---------------------------------------------------------------- limits


def limits(n: int, pairs: int = 1) -> Limits:
    """What ``n`` data sets can show where ``pairs`` correlations are tested."""
    if n < FEWEST:
        return Limits(n, pairs, None, None, {}, None)
    return Limits(
        n,
        pairs,
        smallest_r=smallest_r(n, ALPHA),
        smallest_r_alone=smallest_r(n, ALPHA / max(1, pairs)),
        power={rho: power(rho, n) for rho in TRUE_CORRELATIONS},
        smallest_spearman_p=smallest_spearman_p(n),
    )


def smallest_spearman_p(n: int) -> float:
    """The p of equal orders without ties: they and the reverse are two of n! orders."""
    return 2 / math.factorial(n)


def smallest_r(n: int, alpha: float) -> float:
    """The |r| whose two-sided p is ``alpha``: t/√(n−2+t²) with the quantile t of n−2 degrees of freedom."""
    quantile = float(t.isf(alpha / 2, n - 2))
    return quantile / math.sqrt(n - 2 + quantile**2)


def power(rho: float, n: int, alpha: float = ALPHA) -> float:
    """The probability of p ≤ ``alpha`` for Pearson's r of ``n`` draws from a normal distribution correlated by ``rho``.

    Integral of the density of r over |r| ≥ ``smallest_r`` (Hotelling, *J. R. Stat. Soc. B* 15 (1953), eq. 25), which at
    few data sets Fisher's approximation is not good enough for.
    """
    scale = special.gammaln(n - 1) - special.gammaln(n - 0.5) + math.log(n - 2) - math.log(2 * math.pi) / 2
    scale += (n - 1) / 2 * math.log1p(-(rho**2))

    def density(angle: float) -> float:
        # r = sin(angle) takes away the pole that (1 − r²)^((n−4)/2) has at ±1 for three data sets.
        r = math.sin(angle)
        series = float(special.hyp2f1(0.5, 0.5, n - 0.5, (1 + rho * r) / 2))
        power = special.xlogy(n - 3, math.cos(angle)) + (1.5 - n) * math.log1p(-rho * r)
        return math.exp(scale + power) * series

    least = math.asin(smallest_r(n, alpha))
    # Where most of it lies, so that a narrow peak is not stepped over.
    middle = min(max(math.asin(rho), -least), least)
    missed = (integrate.quad(density, *ends)[0] for ends in ((-least, middle), (middle, least)))
    return min(1.0, max(0.0, 1 - sum(map(float, missed))))


# ---------------------------------------------------------------- agreement


def intraclass(ratings: ArrayLike) -> Agreement:
    """ICC(1,1) and ICC(1,k) of ratings, targets × raters, by a one-way analysis of variance (Shrout and Fleiss 1979).

    With the mean squares B between and W within targets and k raters: (B − W)/(B + (k−1)·W) and (B − W)/B.

    Raises ValueError for fewer than two targets, two raters or five ratings, or one that is not finite, and
    ModuleNotFoundError without pingouin, which comes with ``vlitqc[evidence]``.
    """
    table = np.asarray(ratings, np.float64)
    if table.ndim != 2 or min(table.shape) < 2:
        raise ValueError(f"expected ratings of two or more targets by two or more raters, got {table.shape}")
    if table.size < FEWEST_RATINGS:
        raise ValueError(f"expected {FEWEST_RATINGS} ratings or more, got {table.size}")
    if not np.isfinite(table).all():
        raise ValueError("expected a rating of every target by every rater, got one that is not finite")
    targets, raters = table.shape
    if is_constant(table.ravel()):
        return Agreement(targets, raters, reason="all ratings are equal")
    try:
        import pingouin
    except ModuleNotFoundError as error:
        if error.name != "pingouin":
            raise
        raise ModuleNotFoundError(
            "the library pingouin, which ICC is computed by, is not installed; run: pip install 'vlitqc[evidence]'",
            name="pingouin",
        ) from error
    import pandas as pd

    long = pd.DataFrame(
        {
            "target": np.repeat(np.arange(targets), raters),
            "rater": np.tile(np.arange(raters), targets),
            "rating": table.ravel(),
        }
    )
    rounding = dict(pingouin.options)
    # By default it rounds intervals to two decimals.
    pingouin.options.update({key: None for key in rounding if key.startswith("round")})
    try:
        with warnings.catch_warnings():
            # pingouin 0.7 calls pandas 3 in a way that pandas 4 will not know.
            warnings.filterwarnings("ignore", "The inplace keyword", category=Warning, module="pingouin")
            found = pingouin.intraclass_corr(long, targets="target", raters="rater", ratings="rating")
    finally:
        pingouin.options.update(rounding)
    single, average = (found[found["Type"] == name].iloc[0] for name in ("ICC(1,1)", "ICC(1,k)"))
    return Agreement(
        targets,
        raters,
        float(single["ICC"]),
        _ends(single["CI95"]),
        float(average["ICC"]),
        _ends(average["CI95"]),
    )


def _ends(interval: NDArray[np.float64]) -> tuple[float, float]:
    low, high = interval
    return float(low), float(high)
