"""Bootstrap intervals against SciPy's, against formulas, and by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from vlitqc.analysis import bootstrap
from vlitqc.analysis.bootstrap import (
    MOST_RESAMPLED,
    _population,
    bootstrap_counts,
    bootstrap_kinds,
    bootstrap_mean,
    percentile_interval,
)


def test_the_interval_cuts_two_and_a_half_percent_from_each_end() -> None:
    assert percentile_interval(np.arange(1001, dtype=np.float64)[::-1]) == pytest.approx((25.0, 975.0))
    assert percentile_interval(np.array([3.0])) == (3.0, 3.0)


@pytest.mark.parametrize("values", [[], [1.0]])
def test_fewer_than_two_values_have_no_interval(values: list[float]) -> None:
    assert bootstrap_mean(np.array(values, np.float64), seed=0) is None


def test_fewer_than_two_items_have_no_interval() -> None:
    assert bootstrap_counts(np.array([0, 0]), lambda c: 1.0, seed=0) is None
    assert bootstrap_counts(np.array([0, 1]), lambda c: 1.0, seed=0) is None
    assert bootstrap_counts(np.array([1, 1]), lambda c: 1.0, seed=0) == (1.0, 1.0)


def test_equal_values_have_an_interval_of_no_width() -> None:
    assert bootstrap_mean(np.full(9, 0.25), seed=3) == (0.25, 0.25)


@pytest.mark.parametrize("seed", range(3))
def test_the_mean_agrees_with_scipy(seed: int) -> None:
    values = np.random.default_rng(seed).gamma(2.0, 3.0, 400)
    found = bootstrap_mean(values, seed=seed)
    theirs = scipy.stats.bootstrap(
        (values,), np.mean, method="percentile", n_resamples=4000, rng=np.random.default_rng(99)
    ).confidence_interval
    standard_error = values.std() / math.sqrt(len(values))
    assert found == pytest.approx((theirs.low, theirs.high), abs=0.25 * standard_error)


def test_the_mean_agrees_with_the_formula() -> None:
    values = np.random.default_rng(5).normal(10, 2, 2000)
    half = 1.96 * values.std() / math.sqrt(len(values))
    assert bootstrap_mean(values, seed=1) == pytest.approx(
        (values.mean() - half, values.mean() + half), abs=0.15 * half
    )


@pytest.mark.parametrize("share", [0.5, 0.1, 0.01])
def test_of_many_values_the_normal_interval_is_that_of_endless_resampling(share: float) -> None:
    # The mean of a resample of zeros and ones is binomial, so the percentiles of all resamples are known exactly.
    n = MOST_RESAMPLED + 100
    values = (np.arange(n) < share * n).astype(np.float64)
    exact = scipy.stats.binom(n, values.mean()).ppf([0.025, 0.975]) / n
    found = bootstrap_mean(values, seed=0)
    assert found is not None
    assert found == pytest.approx(tuple(exact), abs=0.01 * (exact[1] - exact[0]))


def test_the_two_intervals_meet_where_one_gives_way_to_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(7).gamma(0.5, 3.0, MOST_RESAMPLED + 1)
    normal = bootstrap_mean(values, seed=0)
    resampled = bootstrap_mean(values[:-1], seed=0)
    assert normal is not None
    assert resampled is not None
    width = normal[1] - normal[0]
    assert normal[1] - values.mean() == pytest.approx(values.mean() - normal[0])
    assert resampled == pytest.approx(normal, abs=0.1 * width)
    # It is by the number of values alone that one or the other is taken, and small ones are resampled as ever.
    monkeypatch.setattr(bootstrap, "MOST_RESAMPLED", len(values))
    assert bootstrap_mean(values, seed=0) != normal
    monkeypatch.setattr(bootstrap, "MOST_RESAMPLED", 1)
    assert bootstrap_mean(np.array([0.0, 1.0]), seed=0) == pytest.approx((0.5 - 0.6929519, 0.5 + 0.6929519))


def test_few_values_are_resampled_to_the_same_last_digit() -> None:
    values = np.arange(10, dtype=np.float64) ** 2
    assert bootstrap_mean(values, seed=0) == (12.9, 46.5025)


def test_counts_agree_with_the_binomial() -> None:
    # The share of the first category is binomial, so its interval is that of Binomial(500, 0.3) / 500.
    found = bootstrap_counts(np.array([150, 300, 50]), lambda c: c[0] / c.sum(), seed=2)
    exact = scipy.stats.binom(500, 0.3).ppf([0.025, 0.975]) / 500
    assert found == pytest.approx(tuple(exact), abs=0.006)


def test_the_seed_decides() -> None:
    values = np.random.default_rng(0).normal(size=50)
    assert bootstrap_mean(values, seed=1) == bootstrap_mean(values, seed=1)
    assert bootstrap_mean(values, seed=1) != bootstrap_mean(values, seed=2)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=40),
    st.integers(0, 2**32 - 1),
)
def test_the_interval_lies_within_the_values(values: list[float], seed: int) -> None:
    found = bootstrap_mean(np.array(values), seed=seed)
    assert found is not None
    low, high = found
    slack = 1e-9 * max(1.0, *map(abs, values))
    assert min(values) - slack <= low <= high <= max(values) + slack


def test_about_95_of_100_intervals_hold_the_truth() -> None:
    rng = np.random.default_rng(11)
    hits = 0
    for seed in range(100):
        found = bootstrap_mean(rng.normal(0, 1, 60), seed=seed)
        assert found is not None
        hits += found[0] <= 0 <= found[1]
    assert 88 <= hits <= 99


@pytest.mark.parametrize(
    ("counts", "at_least", "kinds"), [([2] * 16, 2, 16), ([1] * 39, 1, 39), ([1, 1, 1], 2, 0), ([9], 1, 1)]
)
def test_the_interval_of_kinds_always_holds_their_number(
    counts: list[int], at_least: int, kinds: int
) -> None:
    found = bootstrap_kinds(np.array(counts), at_least, seed=0)
    assert found is not None
    assert min(1, kinds) <= found[0] <= kinds <= found[1]
    assert bootstrap_kinds(np.array([1]), seed=0) is None


def test_the_estimated_population_by_hand() -> None:
    # N = 5, f1 = 2, f2 = 0: f0 = 4/5 · 2·1/2 = 0.8, one category with 1 − C = 2·0.8/(5·0.8 + 2) = 4/15. The seen ones
    # lose it in proportion to 0.6·0.4⁵ = 0.006144 and twice 0.2·0.8⁵ = 0.065536.
    rare = 0.065536 / (0.006144 + 2 * 0.065536) * 4 / 15
    common = 0.006144 / (0.006144 + 2 * 0.065536) * 4 / 15
    found = _population(np.array([3, 0, 1, 1]))
    assert found == pytest.approx([0.6 - common, 0.2 - rare, 0.2 - rare, 4 / 15])
    # N = 4, f1 = 2, f2 = 1: f0 = 3/4 · 2²/2 = 1.5, two categories with 2·1.5/(4·1.5 + 2) = 0.375 together.
    assert _population(np.array([2, 1, 1]))[3:] == pytest.approx([0.1875, 0.1875])
    # A single one seen once says of no other; of many Chao1 says more than are drawn apart.
    assert _population(np.array([4, 1])) == pytest.approx([0.8, 0.2])
    assert len(_population(np.ones(50, np.int64))) == 50 + 500
