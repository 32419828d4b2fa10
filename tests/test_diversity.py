from __future__ import annotations

import math
from collections.abc import Callable
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from scipy.stats import hypergeom

from vlitqc.analysis.diversity import (
    chao1,
    expected_clusters,
    gini,
    good_turing_coverage,
    imbalance_ratio,
    known_kinds,
    normalised_entropy,
    percent_variance,
    rarefaction,
)


def test_rarefaction_by_hand() -> None:
    # Two of {a, a, b}: aa, ab, ab.
    assert rarefaction([2, 1], 2) == pytest.approx(5 / 3)
    assert rarefaction([2, 1], 0) == 0
    assert rarefaction([2, 1], 1) == pytest.approx(1)
    assert rarefaction([2, 1], 3) == pytest.approx(2)
    assert rarefaction([7], 3) == pytest.approx(1)
    assert rarefaction([1, 1, 1, 1], 3) == pytest.approx(3)


@pytest.mark.parametrize("m", range(9))
def test_expectations_equal_the_mean_over_all_draws(m: int) -> None:
    sizes, n_total = [4, 2, 1], 8  # and one row of noise
    rows = np.repeat([0, 1, 2, 3], [4, 2, 1, 1])
    draws = [np.bincount(rows[list(chosen)], minlength=4) for chosen in combinations(range(8), m)]
    for min_samples in (1, 2, 3, 5):
        mean = np.mean([(counts[:3] >= min_samples).sum() for counts in draws])
        assert expected_clusters(sizes, n_total, m, min_samples) == pytest.approx(mean)
    assert rarefaction([4, 2, 1, 1], m) == pytest.approx(np.mean([(counts > 0).sum() for counts in draws]))


def test_expected_clusters_equals_the_mean_of_many_draws() -> None:
    rng = np.random.default_rng(0)
    sizes = np.array([300, 120, 40, 40, 12, 6, 5, 5])
    n_total = int(sizes.sum()) + 72
    draws = rng.multivariate_hypergeometric([*sizes, 72], 150, size=4000)[:, :-1]
    hits = (draws >= 5).sum(axis=1)
    assert abs(expected_clusters(sizes, n_total, 150, 5) - hits.mean()) < 4 * hits.std() / math.sqrt(4000)
    species = (draws > 0).sum(axis=1)
    assert abs(expected_clusters(sizes, n_total, 150, 1) - species.mean()) < 4 * species.std() / math.sqrt(
        4000
    )


@pytest.mark.parametrize("min_samples", [1, 2, 5, 40])
def test_expected_clusters_is_what_scipy_says_of_small_and_of_very_large_data(min_samples: int) -> None:
    rng = np.random.default_rng(min_samples)
    for n_total, sizes in (
        (160, [90, 20, 20, 5, 1]),
        (5_000_000, [3_000_000, *rng.integers(1, 200, 5_000).tolist()]),
    ):
        for m in {0, 1, 7, n_total // 50, n_total // 2, n_total - 3, n_total}:
            expected = hypergeom.sf(min_samples - 1, n_total, np.array(sizes), m).sum()
            assert expected_clusters(sizes, n_total, m, min_samples) == pytest.approx(expected, 1e-8, 1e-9)
    # One row has no more than itself: SciPy's is off in the tenth digit.
    assert rarefaction([1] * 5_000_000, 10) == pytest.approx(10, rel=1e-9)


def test_known_kinds_are_those_told_in_full() -> None:
    tasks = known_kinds({"tasks": {"a": 5, "b": 2, "c": 1, "other": 4}, "at_least": 2})
    assert tasks is not None
    assert (tasks.what, tasks.counts.tolist(), tasks.n) == ("tasks", [5, 2, 1], 12)
    assert tasks.expected(12) == pytest.approx(2)
    assert tasks.expected(6) == expected_clusters([5, 2, 1], 12, 6, 2)
    categories = known_kinds({"instances": {"cat": 3, "other": 1}, "n_instances": 4})
    assert categories is not None
    assert (categories.what, categories.counts.tolist(), categories.at_least) == ("categories", [3, 1], 1)
    for odd in ({"instances": {"cat": 3}, "n_instances": 9}, {"tasks": {"other": 3}}, {"tasks": "x"}, {}):
        assert known_kinds(odd) is None


def test_expected_clusters_at_the_ends() -> None:
    assert expected_clusters([10, 5, 4], 30, 30, 5) == pytest.approx(2)
    assert expected_clusters([10, 5, 4], 30, 4, 5) == 0
    assert expected_clusters([10, 5], 30, 0, 1) == 0
    assert expected_clusters([], 30, 10, 5) == 0
    assert expected_clusters([], 0, 0, 5) == 0


def test_expected_curves_never_fall() -> None:
    sizes = [400, 250, 30, 9, 5, 5, 1]
    curve = [expected_clusters(sizes, 1000, m, 5) for m in range(0, 1001, 50)]
    assert (np.diff(curve) >= -1e-9).all()
    assert curve[-1] == pytest.approx(6)


def test_large_data_sets_neither_overflow_nor_lose_digits() -> None:
    # 665,000 rows in clusters of 5: P(at least 1 of 5 in a tenth) is 1 − 0.9⁵ up to O(1/N).
    sizes = np.full(133_000, 5)
    assert expected_clusters(sizes, 665_000, 66_500, 1) / 133_000 == pytest.approx(1 - 0.9**5, rel=1e-5)
    assert rarefaction(sizes, 665_000) == pytest.approx(133_000)


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ([5, 4, 1, 1, 1, 2], 6 + 9 / 2),
        ([5, 1, 1, 1], 4 + 3),  # none seen twice
        ([5, 1], 2),
        ([5, 2, 2], 3),
        ([1, 1, 2, 2, 0, 0], 4 + 4 / 4),
    ],
)
def test_chao1_by_hand(counts: list[int], expected: float) -> None:
    assert chao1(counts) == pytest.approx(expected)


def test_good_turing_coverage_by_hand() -> None:
    assert good_turing_coverage([5, 3, 1, 1]) == pytest.approx(0.8)
    assert good_turing_coverage([1, 1]) == 0
    assert good_turing_coverage([2, 2, 0]) == 1


def test_gini_by_hand() -> None:
    assert gini([7, 7, 7]) == 0
    assert gini([0, 0, 0, 9]) == pytest.approx(3 / 4)
    assert gini([1, 3]) == pytest.approx(1 / 4)
    counts = np.array([3, 1, 4, 1, 5, 9, 2, 6])
    pairs = np.abs(counts[:, None] - counts).sum() / (2 * len(counts) * counts.sum())
    assert gini(counts) == pytest.approx(pairs)


def test_normalised_entropy_by_hand() -> None:
    assert normalised_entropy([4, 4, 4]) == pytest.approx(1)
    assert normalised_entropy([9, 0]) == 0
    assert normalised_entropy([2, 1, 1, 0]) == pytest.approx(1.5 / 2)  # bits
    with pytest.raises(ValueError, match="at least two kinds"):
        normalised_entropy([4])


def test_percent_variance_by_hand() -> None:
    assert percent_variance([5, 5]) == 0
    assert percent_variance([1, 3]) == pytest.approx(625)  # 25% and 75%, 25 points from the mean
    assert percent_variance([10, 0, 0, 0]) == pytest.approx(10_000 * 3 / 16)
    assert percent_variance([4]) == 0


def test_imbalance_ratio_by_hand() -> None:
    assert imbalance_ratio([3, 12, 6]) == 4
    assert imbalance_ratio([3]) == 1
    with pytest.raises(ValueError, match="kind 1 has no samples"):
        imbalance_ratio([3, 0])


MEASURES: list[Callable[[Any], float]] = [
    chao1, good_turing_coverage, gini, normalised_entropy, percent_variance, imbalance_ratio,
    lambda counts: rarefaction(counts, 1),
]  # fmt: skip


@pytest.mark.parametrize("measure", MEASURES)
def test_order_of_the_kinds_is_no_matter(measure: Callable[[Any], float]) -> None:
    assert measure([1, 2, 9, 4]) == pytest.approx(measure([9, 4, 1, 2]))
    assert isinstance(measure([1, 2, 9, 4]), float)


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ([], "at least one sample"),
        ([0, 0], "at least one sample"),
        ([3, -1], "must not be negative, got -1 at 1"),
        ([0.5, 0.5], "of integers, got float64"),
        ([[1, 2]], "one-dimensional"),
    ],
)
def test_refuses_what_are_no_counts(measure: Callable[[Any], float], counts: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        measure(counts)


def test_refuses_impossible_draws() -> None:
    with pytest.raises(ValueError, match=r"m must lie in 0\.\.3, got 4"):
        rarefaction([2, 1], 4)
    with pytest.raises(ValueError, match="got -1"):
        rarefaction([2, 1], -1)
    with pytest.raises(ValueError, match="more than n_total = 2"):
        expected_clusters([2, 1], 2, 1, 1)
    with pytest.raises(ValueError, match="min_samples must be at least 1"):
        expected_clusters([2, 1], 3, 1, 0)
