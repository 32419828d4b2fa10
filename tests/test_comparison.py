"""Differences of means and metrics at equal size: numbers worked by hand, and what chance does to them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import ttest_ind

from vlitqc.comparison import fair
from vlitqc.comparison.differences import Difference, corrected, of_means
from vlitqc.comparison.fair import Fair, at_equal_size
from vlitqc.comparison.fair import difference as at_size
from vlitqc.comparison.sets import DataSet
from vlitqc.types import DatasetScore

NAN = math.nan


def means(first: Sequence[float], other: Sequence[float], *, same_records: bool = False) -> Difference:
    return of_means(np.array(first, float), np.array(other, float), same_records=same_records)


def ends(found: Difference) -> tuple[float, float]:
    assert found.interval is not None
    return found.interval


# ---------------------------------------------------------------- means


def test_of_different_records_it_is_welch_by_hand() -> None:
    # means 2 and 5; variances 1 and 4, n 3 each: error sqrt(5/3), df (5/3)^2 / ((1/3)^2/2 + (4/3)^2/2) = 50/17
    found = means([1, 2, 3], [3, 5, 7])
    assert found.value == 3
    half = 3.2198 * math.sqrt(5 / 3)  # t of 2.941 degrees of freedom at 97.5%
    assert ends(found) == pytest.approx((3 - half, 3 + half), rel=2e-3)
    assert found.clear is False
    assert found.method == "Welch"


@pytest.mark.parametrize("seed", range(5))
def test_of_different_records_it_is_scipys_welch(seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.normal(0, 1, 7 + seed), rng.exponential(2, 30 - seed)
    expected = ttest_ind(b, a, equal_var=False)
    found = means(a.tolist(), b.tolist())
    assert found.p == pytest.approx(expected.pvalue)
    assert ends(found) == pytest.approx(tuple(expected.confidence_interval(0.95)))


def test_a_missing_score_is_in_no_mean() -> None:
    assert means([1, NAN, 3, 2], [NAN, 5, 7, 3]) == means([1, 3, 2], [5, 7, 3])


def test_a_data_set_against_itself_differs_by_nothing() -> None:
    found = means([1, 2, NAN, 4], [1, 2, NAN, 4], same_records=True)
    assert (found.value, found.interval, found.p, found.clear) == (0, (0, 0), 1, False)


@pytest.mark.parametrize("same_records", [False, True])
def test_scores_that_do_not_vary_have_no_interval(same_records: bool) -> None:
    first, other = ([0.1] * 3, [0.7] * 3) if same_records else ([0.1] * 3, [0.7] * 2)
    found = means(first, other, same_records=same_records)
    assert found == Difference(pytest.approx(0.6), reason="the scores do not vary")


@pytest.mark.parametrize("few", [[], [1.0], [NAN, 2.0]])
def test_fewer_than_two_scores_are_no_difference(few: list[float]) -> None:
    found = means(few, [1, 2, 3])
    assert found == Difference(reason="fewer than two scores")
    assert means([1, 2, 3], few) == found


def test_a_part_against_its_run_by_hand() -> None:
    # All: 0 0 2 2, mean 1. Kept: the last two, mean 2. Pushes -(x-1)/4 and, of kept ones, (x-2)/2 = 0 more:
    # 1/4 1/4 -1/4 -1/4; variance 4/16 times 4/3, three degrees of freedom.
    found = means([0, 0, 2, 2], [NAN, NAN, 2, 2], same_records=True)
    half = 3.182446 * math.sqrt(1 / 3)
    assert found.value == 1
    assert ends(found) == pytest.approx((1 - half, 1 + half), rel=1e-6)


def test_records_resampled_together_tend_to_the_interval() -> None:
    rng = np.random.default_rng(1)
    scores = rng.gamma(2, 1, 400)
    scores[rng.random(400) < 0.1] = NAN
    kept = np.where(scores > 1.2, scores, NAN)
    kept[rng.random(400) < 0.2] = NAN
    found = of_means(scores, kept, same_records=True)
    draws = rng.integers(0, 400, (4000, 400))
    bootstrapped = np.nanmean(kept[draws], axis=1) - np.nanmean(scores[draws], axis=1)
    low, high = np.percentile(bootstrapped, [2.5, 97.5])
    width = high - low
    assert ends(found) == pytest.approx((low, high), abs=0.06 * width)


def test_it_holds_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(2)
    hits = 0
    for _ in range(600):
        everything = rng.normal(0, 1, 60)
        noisy = everything + rng.normal(0, 1, 60)
        kept = np.where(noisy > 0, everything, NAN)
        low, high = ends(of_means(everything, kept, same_records=True))
        hits += low < math.sqrt(1 / math.pi) < high  # the mean of X where X + Y > 0
    assert 0.93 <= hits / 600 <= 0.97


def test_many_differences_are_corrected_together() -> None:
    def with_p(p: float) -> Difference:
        return Difference(1.0, (0.1, 2.0) if p < 0.05 else (-1.0, 3.0), p, clear=p < 0.05)

    found = corrected([with_p(0.01), Difference(reason="none"), with_p(0.04), with_p(0.2)])
    assert [each.q for each in found] == pytest.approx([0.03, None, 0.06, 0.2])
    assert [each.holds for each in found] == [True, None, False, False]
    assert corrected([Difference(reason="none")]) == [Difference(reason="none")]


# ---------------------------------------------------------------- equal size


KINDS = 60
AT_LEAST = 2


class Input:
    """As much of a run as data sets at equal size ask for: each record has one kind."""

    def __init__(self, kinds: NDArray[np.int64], name: str) -> None:
        self.kinds = kinds
        self.path = Path(name)
        self.info = {"input": {"sha256": name}}


class Kinds:
    """In the place of ``Parts``: the metric is the number of kinds that two or more records have."""

    def __init__(self, run: Any) -> None:
        self.kinds = run.kinds

    def scores(self, kept: NDArray[np.bool_], names: Sequence[str]) -> dict[str, DatasetScore]:
        return {name: DatasetScore(float(number(self.kinds[kept]))) for name in names}


def number(kinds: NDArray[np.int64]) -> int:
    return int((np.bincount(kinds, minlength=KINDS) >= AT_LEAST).sum())


def data_set(run: Input, mask: NDArray[np.bool_], *, curve: bool = False) -> DataSet:
    data = DataSet(run.path.name, run, mask)  # type: ignore[arg-type]
    kinds = run.kinds[mask]
    counts = {f"k{k}": int(n) for k, n in enumerate(np.bincount(kinds)) if n}
    section = {
        "value": float(number(kinds)),
        "n_scored": len(kinds),
        "n_total": len(kinds),
        "principle": "task_diversity",
        "unit": "kinds",
        "bounds": [0.0, None],
        "details": {"tasks": counts} if curve else {},
    }
    data.__dict__["metrics"] = {"kinds": section}
    return data


def population(seed: int, n: int, name: str) -> Input:
    shares = 1 / np.arange(1, KINDS + 1)
    kinds = np.random.default_rng(seed).choice(KINDS, n, p=shares / shares.sum())
    return Input(kinds, name)


def compared(first: DataSet, other: DataSet, seed: int = 0) -> tuple[Fair, Difference]:
    sets = [first, other]
    found = at_equal_size(sets, {"kinds": [True, True]}, replicates=20, seed=seed)["kinds"]
    raw = [data.metrics["kinds"]["value"] for data in sets]
    return found, at_size(found, sets, 1, raw)


@pytest.fixture(autouse=True)
def _kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fair, "Parts", Kinds)


@pytest.mark.parametrize("nested", [True, False], ids=["a part of its run", "another file"])
def test_half_of_the_data_is_as_diverse_and_looks_poorer(nested: bool) -> None:
    """At equal size a random half agrees with its whole about as often as 95% says; as they are they never do."""
    n, trials, agree, poorer = 300, 60, 0, 0
    for trial in range(trials):
        run = population(trial, n, "run")
        everything = data_set(run, np.ones(n, np.bool_))
        if nested:
            drawn = np.random.default_rng(1000 + trial).permutation(n) < n // 2
            half = data_set(run, drawn)
        else:
            other = population(5000 + trial, n // 2, "other")
            half = data_set(other, np.ones(n // 2, np.bool_))
        found, difference = compared(everything, half, trial)
        assert found.m == n // 2
        assert not found.comparable
        low, high = ends(difference)
        agree += low <= 0 <= high
        poorer += half.metrics["kinds"]["value"] < everything.metrics["kinds"]["value"]
    assert agree >= 0.86 * trials
    assert poorer >= 0.97 * trials


def test_a_part_of_few_kinds_is_found_out() -> None:
    run = population(1, 300, "run")
    everything = data_set(run, np.ones(300, np.bool_))
    narrow = data_set(run, run.kinds < 5)
    _, difference = compared(everything, narrow)
    assert difference.clear
    assert difference.value is not None
    assert difference.value < 0


def test_the_same_records_are_no_difference_and_no_draw_is_needed() -> None:
    run = population(1, 100, "run")
    whole = data_set(run, np.ones(100, np.bool_))
    found, difference = compared(whole, data_set(run, np.ones(100, np.bool_)))
    assert (difference.value, difference.interval, difference.p) == (0, (0, 0), 1)
    assert found.comparable
    assert [side.value if side else None for side in found.sets] == [whole.metrics["kinds"]["value"]] * 2


def test_a_part_that_lost_only_what_was_not_scored_is_the_same() -> None:
    run = population(1, 100, "run")
    whole, part = data_set(run, np.ones(100, np.bool_)), data_set(run, np.arange(100) > 0)
    part.__dict__["metrics"] = whole.metrics
    _, difference = compared(whole, part)
    assert (difference.interval, difference.method) == ((0, 0), "the metric scored the same records")


def test_curves_are_rarefaction_with_chao1_and_coverage() -> None:
    # kinds 4 2 1 1 of 8 records: at m = 2 one expects 4 - (C(4,2) + C(6,2) + 2 C(7,2)) / C(8,2) = 4 - 63/28
    run = Input(np.array([0, 0, 0, 0, 1, 1, 2, 3]), "run")
    small = Input(np.array([0, 1]), "small")
    sets = [
        data_set(run, np.ones(8, np.bool_), curve=True),
        data_set(small, np.ones(2, np.bool_), curve=True),
    ]
    sets[1].metrics["kinds"]["value"] = 0.0
    found = at_equal_size(sets, {"kinds": [True, True]}, replicates=0, seed=0)["kinds"]
    one = found.sets[0]
    assert found.m == 2
    assert one is not None
    assert one.expected == pytest.approx(4 - 63 / 28)
    assert one.chao1 == 4 + 2 * 2 / (2 * 1)
    assert one.coverage == 1 - 2 / 8
    assert one.curve is not None
    assert not one.curve.drawn
    assert one.value is None
    assert one.reason == "no random part was drawn"


def test_clusters_are_read_off_their_curve() -> None:
    run, other = population(1, 100, "run"), population(2, 40, "other")
    sets = [data_set(run, np.ones(100, np.bool_)), data_set(other, np.ones(40, np.bool_))]
    for data, n in zip(sets, (200, 80), strict=True):  # two responses a record
        data.metrics["kinds"]["details"] = {"curve": {"m": [n / 2, n], "clusters": [6.0, 10.0]}}
    found = at_equal_size(sets, {"kinds": [True, True]}, replicates=0, seed=0)["kinds"]
    one, two = found.sets
    assert one is not None
    assert two is not None
    assert one.curve is not None
    assert one.curve.m == (50, 100)
    assert one.expected == pytest.approx(6 * 40 / 50)
    assert two.expected == 10


def test_without_a_curve_several_sizes_are_drawn() -> None:
    run, other = population(1, 200, "run"), population(2, 100, "other")
    found, _ = compared(data_set(run, np.ones(200, np.bool_)), data_set(other, np.ones(100, np.bool_)))
    curve = found.sets[0].curve if found.sets[0] else None
    assert curve is not None
    assert curve.drawn
    assert curve.m == (25, 50, 75, 100, 200)
    assert list(curve.values) == sorted(curve.values)


def test_the_size_is_bounded_and_can_be_chosen() -> None:
    sets = [data_set(population(k, 100, str(k)), np.ones(100, np.bool_)) for k in range(2)]
    bounded = at_equal_size(sets, {"kinds": [True, True]}, replicates=2, seed=0, limit=30)["kinds"]
    assert (bounded.m, bounded.note) == (30, "at 30 records: parts are of at most 30")
    chosen = at_equal_size(sets, {"kinds": [True, True]}, replicates=2, seed=0, size=70)["kinds"]
    assert (chosen.m, chosen.note) == (70, None)


def test_a_data_set_without_a_value_or_of_another_scale_has_no_part_in_it() -> None:
    sets = [data_set(population(k, 100, str(k)), np.ones(100, np.bool_)) for k in range(3)]
    sets[1].metrics["kinds"]["value"] = None
    assert at_equal_size(sets[:2], {"kinds": [True, True]}, replicates=2, seed=0) == {}
    found = at_equal_size(sets, {"kinds": [True, True, True]}, replicates=2, seed=0)["kinds"]
    assert [side is None for side in found.sets] == [False, True, False]
    assert at_equal_size(sets, {"kinds": [True, True, False]}, replicates=2, seed=0) == {}


@pytest.mark.parametrize("n", [1, 2, 3])
def test_very_few_records_are_not_clear(n: int) -> None:
    sets = [data_set(Input(np.arange(n) * k, str(k)), np.ones(n, np.bool_)) for k in range(2)]
    found, difference = compared(*sets)
    assert (difference.interval, difference.p, difference.clear) == (None, None, None)
    why = "one record has no random parts" if n == 1 else "the random parts do not vary"
    assert difference.reason == why
    assert [(side.interval, side.reason) for side in found.sets if side] == [(None, why)] * 2


def test_a_rare_kind_that_no_random_part_lacks_is_not_clear() -> None:
    common = Input(np.zeros(300, np.int64), "common")
    rare = Input(np.array([0] * 280 + [1] * 20), "rare")
    _, difference = compared(*(data_set(run, np.ones(300, np.bool_)) for run in (common, rare)))
    assert (difference.value, difference.interval) == (1, None)
    assert difference.reason == "the random parts do not vary"


def test_of_one_that_does_not_vary_the_others_variance_counts_twice() -> None:
    still, varied = Input(np.zeros(300, np.int64), "still"), population(1, 300, "varied")
    found, difference = compared(*(data_set(run, np.ones(300, np.bool_)) for run in (still, varied)))
    variances = [side.variance for side in found.sets if side]
    assert variances[0] == 0
    assert variances[1] is not None
    low, high = ends(difference)
    of_19_degrees = 2.093024
    assert high - low == pytest.approx(2 * of_19_degrees * math.sqrt(2 * variances[1]))


def test_a_part_that_random_parts_of_its_run_all_equal_is_not_clear() -> None:
    run = Input(np.array([0] * 290 + [1] * 10), "run")
    whole, part = data_set(run, np.ones(300, np.bool_)), data_set(run, np.arange(300) < 290)
    _, difference = compared(whole, part)
    assert (difference.value, difference.interval) == (-1, None)
    assert difference.reason == "the random parts do not vary"


def test_a_part_has_no_interval_beside_its_run_and_says_why() -> None:
    run = population(1, 300, "run")
    found, _ = compared(data_set(run, np.ones(300, np.bool_)), data_set(run, np.arange(300) < 150))
    _, part = found.sets
    assert part is not None
    assert (part.interval, part.reason) == (None, "it is held against random parts of its run")


def test_the_share_left_out_is_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    shares = []
    monkeypatch.setattr(fair, "_jackknife", lambda spread, share: shares.append(share) or spread)
    sets = [data_set(population(k, 7, str(k)), np.ones(7, np.bool_)) for k in range(2)]
    compared(*sets)
    assert shares == [6 / 7] * 2  # of 7 records 5.6 are 80%


def test_the_reason_of_random_parts_without_a_value_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Kinds, "scores", lambda *_: {"kinds": DatasetScore(reason="another version")})
    _, difference = compared(
        *(data_set(population(k, 100, str(k)), np.ones(100, np.bool_)) for k in range(2))
    )
    assert difference.reason == "no value in 20 of 20 random parts: another version"


def test_the_curve_of_tasks_ends_at_the_value() -> None:
    run, other = population(1, 100, "run"), population(2, 80, "other")
    sets = [data_set(one, np.ones(len(one.kinds), np.bool_), curve=True) for one in (run, other)]
    for data in sets:
        data.metrics["kinds"]["details"]["at_least"] = AT_LEAST
    found = at_equal_size(sets, {"kinds": [True, True]}, replicates=0, seed=0)["kinds"]
    for data, side in zip(sets, found.sets, strict=True):
        assert side is not None
        assert side.curve is not None
        assert side.curve.values[-1] == pytest.approx(data.metrics["kinds"]["value"])


def test_progress_is_told_before_the_first_part() -> None:
    sets = [data_set(population(k, 20, str(k)), np.ones(20, np.bool_)) for k in range(2)]
    told: list[tuple[int, int]] = []
    at_equal_size(sets, {"kinds": [True, True]}, replicates=2, seed=0, progress=lambda *at: told.append(at))
    assert told == [(k, told[0][1]) for k in range(len(told))]
    assert told[-1][0] == told[0][1]


def test_the_same_seed_draws_the_same_parts() -> None:
    run = population(3, 200, "run")
    sets = data_set(run, np.ones(200, np.bool_)), data_set(run, np.arange(200) % 3 == 0)
    assert compared(*sets, seed=4)[1] == compared(*sets, seed=4)[1]
    assert compared(*sets, seed=4)[1] != compared(*sets, seed=5)[1]
