"""How well scores tell clean from corrupted records, against brute force, SciPy and scikit-learn."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import mannwhitneyu, spearmanr
from sklearn.metrics import roc_auc_score

from vlitqc.analysis.bootstrap import REPLICATES
from vlitqc.validity import detection
from vlitqc.validity.detection import auc, beyond, movement, trend

PAIRS = st.integers(2, 25).flatmap(
    lambda n: st.tuples(*(st.lists(st.integers(-4, 4), min_size=n, max_size=n) for _ in range(2)))
)


def brute(higher: list[float], lower: list[float], records: Sequence[int] | None = None) -> float:
    """Over the pairs of different records; ``records`` are their numbers, where some stand there several times."""
    numbers = range(len(higher)) if records is None else records
    one, other = zip(numbers, higher, strict=True), zip(numbers, lower, strict=True)
    pairs = [(a, b) for (i, a), (j, b) in itertools.product(one, list(other)) if i != j]
    return sum((a > b) + 0.5 * (a == b) for a, b in pairs) / len(pairs)


@settings(max_examples=40, deadline=None)
@given(PAIRS)
def test_auc_counts_every_pair_and_ties_half(pair: tuple[list[int], list[int]]) -> None:
    higher, lower = ([float(v) for v in side] for side in pair)
    found = auc(higher, lower, seed=0)
    assert found.value == pytest.approx(brute(higher, lower))
    # With a record's own pairs, that is the area under the ROC curve.
    n, own = len(higher), sum((a > b) + 0.5 * (a == b) for a, b in zip(higher, lower, strict=True))
    area = roc_auc_score([1] * n + [0] * n, higher + lower)
    assert (found.value * n * (n - 1) + own) / n**2 == pytest.approx(area)
    assert auc(lower, higher, seed=0).value == pytest.approx(1 - found.value)
    low, high = found.interval
    assert 0 <= low <= high <= 1


def test_auc_is_the_mann_whitney_statistic() -> None:
    rng = np.random.default_rng(1)
    clean, corrupted = rng.normal(0.7, 1, 300), rng.normal(0, 1, 300)
    u = mannwhitneyu(clean, corrupted).statistic
    u -= np.count_nonzero(clean > corrupted)  # of the same record
    assert auc(clean, corrupted, seed=0).value == pytest.approx(u / (300 * 299))


def test_replicates_are_those_of_records_drawn_one_by_one() -> None:
    rng = np.random.default_rng(2)
    clean, corrupted = rng.integers(0, 6, 12).astype(float), rng.integers(0, 5, 12).astype(float)
    values = []
    for times in detection._draws(12, 5).T:
        drawn = np.repeat(np.arange(12), times)
        values.append(brute(clean[drawn].tolist(), corrupted[drawn].tolist(), drawn.tolist()))
    assert len(values) == REPLICATES
    assert auc(clean, corrupted, seed=5).interval == pytest.approx(np.percentile(values, [2.5, 97.5]))


def test_the_interval_covers_the_truth() -> None:
    # P(N(1, 1) > N(0, 1)) = Φ(1/√2) = 0.7602; of 95% intervals of 60 records some 95 in 100 hold it.
    rng = np.random.default_rng(3)
    held = 0
    for _ in range(200):
        low, high = auc(rng.normal(1, 1, 60), rng.normal(0, 1, 60), seed=0).interval
        held += low <= 0.76025 <= high
    assert 178 <= held <= 199


def test_records_are_resampled_in_pairs() -> None:
    # What does not change is no evidence of movement, however few records: both sides of a record go together.
    same = np.random.default_rng(4).normal(size=8)
    assert auc(same, same, seed=0).interval == (0.5, 0.5)


@pytest.mark.parametrize("n", [6, 30, 100])
def test_a_fall_that_changes_no_order_is_none(n: int) -> None:
    scores = np.random.default_rng(n).permutation(n).astype(float)
    found = auc(scores, scores - 1e-6, seed=0)
    assert found.value == pytest.approx(0.5)
    assert found.interval == pytest.approx((0.5, 0.5))


def test_the_interval_of_scores_that_hardly_change_covers_the_truth() -> None:
    # Both of a record are N(0, 1), the second lower by 0.1, with a correlation of 0.98.
    rng = np.random.default_rng(8)
    truth = NormalDist().cdf(0.1 / 2**0.5)
    above = held = 0
    for _ in range(300):
        clean = rng.normal(size=30)
        low, high = auc(clean, 0.98 * clean + 0.199 * rng.normal(size=30) - 0.1, seed=0).interval
        held += low <= truth <= high
        above += low > truth
    assert 270 <= held <= 297
    assert above <= 18


@pytest.mark.parametrize(
    ("clean", "corrupted", "value", "interval"),
    [
        ([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [11.0, 12.0, 13.0, 14.0, 15.0, 16.0], 1.0, (1.0, 1.0)),
        ([11.0, 12.0, 13.0, 14.0, 15.0, 16.0], [1.0, 2.0, 3.0, 4.0, 5.0, 6.0], 1.0, (1.0, 1.0)),
        ([2.0] * 6, [2.0] * 6, 0.5, (0.5, 0.5)),
    ],
)
def test_movement_has_no_direction(
    clean: list[float], corrupted: list[float], value: float, interval: tuple[float, float]
) -> None:
    found = movement(clean, corrupted, seed=0)
    assert (found.value, found.interval, found.n) == (value, interval, 6)


@settings(max_examples=40, deadline=None)
@given(PAIRS)
def test_movement_is_the_auc_folded_at_chance(pair: tuple[list[int], list[int]]) -> None:
    straight, found = auc(*pair, seed=1), movement(*pair, seed=1)
    assert found.value == pytest.approx(max(straight.value, 1 - straight.value))
    low, high = straight.interval
    folded = [max(end, 1 - end) for end in (low, high)]
    assert found.interval[1] == pytest.approx(max(folded))
    assert found.interval[0] == pytest.approx(0.5 if low <= 0.5 <= high else min(folded))


def test_trend_is_the_mean_of_each_records_own_spearman() -> None:
    rng = np.random.default_rng(6)
    scores = rng.integers(0, 4, (40, 4)).astype(float)
    scores[scores.std(axis=1) == 0, 0] += 1
    strengths = [0.0, 0.1, 0.5, 0.9]
    own = [spearmanr(strengths, row).statistic for row in scores]
    found = trend(strengths, scores, seed=0)
    assert found.value == pytest.approx(np.mean(own))
    draws = np.array(own) @ detection._draws(40, 0) / 40
    assert found.interval == pytest.approx(np.percentile(draws, [2.5, 97.5]))


def test_a_record_that_does_not_move_has_no_trend() -> None:
    rows = [[3.0, 2.0, 1.0]] * 3 + [[5.0, 5.0, 5.0]] * 1
    assert trend([0, 1, 2], rows, seed=0).value == pytest.approx(-0.75)


def test_what_a_floor_would_catch() -> None:
    clean = np.arange(101.0)  # its 5% point is 5, its 95% point 95
    corrupted = [4.9, 5.0, 50.0, 95.0, 95.1, 200.0]
    assert beyond(clean, corrupted, share=0.05, direction="falls") == pytest.approx(1 / 6)
    assert beyond(clean, corrupted, share=0.05, direction="rises") == pytest.approx(2 / 6)
    # A score that was lost is not caught, and counts.
    assert beyond(clean, [*corrupted, np.nan, np.nan], share=0.05, direction="falls") == pytest.approx(1 / 8)


@pytest.mark.parametrize("n", [95, 100, 160, 250])
def test_a_floor_at_a_point_costs_at_most_its_share(n: int) -> None:
    clean = np.random.default_rng(n).normal(size=n)
    for share in (0.01, 0.05):
        least = share - 1.001 / n
        assert least <= beyond(clean, clean, share=share, direction="falls") <= share
        assert least <= beyond(clean, clean, share=share, direction="rises") <= share


def test_the_seed_decides_the_interval_alone() -> None:
    rng = np.random.default_rng(7)
    clean, corrupted = rng.normal(size=30), rng.normal(size=30)
    one, two = (auc(clean, corrupted, seed=seed) for seed in (0, 1))
    assert one == auc(clean, corrupted, seed=0)
    assert one.value == two.value
    assert one.interval != two.interval
