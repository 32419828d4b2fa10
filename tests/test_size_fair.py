"""Diversity at equal size and the intervals, held against simulated populations whose truth is known.

What is worked out by hand is in test_diversity.py, test_bootstrap.py and test_comparison.py. All seeds are fixed. Each
bound on a coverage is one that a correct interval keeps and an interval of half its width does not: both are shown.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import binom, hypergeom

from vlitqc.analysis.bootstrap import (
    REPLICATES,
    bootstrap_counts,
    bootstrap_kinds,
    bootstrap_mean,
    percentile_interval,
)
from vlitqc.analysis.diversity import (
    chao1,
    expected_clusters,
    good_turing_coverage,
    percent_variance,
    rarefaction,
)
from vlitqc.comparison import fair
from vlitqc.comparison.differences import Difference
from vlitqc.comparison.fair import Fair, at_equal_size
from vlitqc.comparison.sets import DataSet
from vlitqc.types import DatasetScore, FloatArray
from vlitqc_metrics._algorithms import cluster_summary
from vlitqc_metrics._algorithms.cluster_summary import count_error, curve
from vlitqc_metrics._algorithms.dbscan import dbscan

Counts = NDArray[np.int64]
Interval = tuple[float, float]


def zipf(kinds: int, exponent: float) -> NDArray[np.float64]:
    shares = 1 / np.arange(1, kinds + 1) ** exponent
    return shares / shares.sum()


def standard_errors(expected: float, simulated: NDArray[Any]) -> float:
    """How many standard errors of the mean of the simulations lie between it and what was expected."""
    return abs(expected - simulated.mean()) / (simulated.std(ddof=1) / math.sqrt(len(simulated)))


# ---------------------------------------------------------------- kinds


@pytest.mark.parametrize("counts", [[5, 1, 1, 1, 1], [3, 3, 3], [1] * 7, [6, 2, 1]])
def test_rarefaction_is_the_mean_over_every_draw(counts: list[int]) -> None:
    kinds = np.repeat(np.arange(len(counts)), counts).tolist()
    for m in range(len(kinds) + 1):
        draws = [len(set(drawn)) for drawn in combinations(kinds, m)]
        assert rarefaction(counts, m) == pytest.approx(sum(draws) / len(draws), rel=1e-12)


@pytest.mark.parametrize("exponent", [0.0, 1.0, 2.0])
@pytest.mark.parametrize("share", [0.05, 0.2, 0.7])
def test_rarefaction_is_the_mean_of_simulated_draws(exponent: float, share: float) -> None:
    rng = np.random.default_rng(3)
    counts = rng.multinomial(600, zipf(120, exponent))
    m = round(share * counts.sum())
    found = np.count_nonzero(rng.multivariate_hypergeometric(counts, m, size=2000), axis=1)
    assert standard_errors(rarefaction(counts, m), found) < 4
    # Draws with replacement, and one kind more, are told apart by as many simulations.
    if exponent and share > 0.1:
        with_replacement = np.count_nonzero(rng.multinomial(m, counts / counts.sum(), size=2000), axis=1)
        assert standard_errors(rarefaction(counts, m), with_replacement) > 4
        assert standard_errors(rarefaction(counts, m) + 1, found) > 4


@pytest.mark.parametrize(("exponent", "n"), [(0.0, 150), (0.5, 300), (1.0, 300), (1.5, 1000)])
def test_chao1_lies_between_what_was_seen_and_the_truth(exponent: float, n: int) -> None:
    """It is a lower bound in expectation, nearer to the truth than the kinds seen, and exact for equal shares."""
    kinds = 100
    samples = np.random.default_rng(5).multinomial(n, zipf(kinds, exponent), size=1000)
    estimates = np.array([chao1(sample) for sample in samples])
    seen = np.count_nonzero(samples, axis=1)
    for sample, estimate in zip(samples[:20], estimates, strict=False):
        times = Counter(sample.tolist())
        assert estimate == pytest.approx(np.count_nonzero(sample) + times[1] ** 2 / (2 * times[2]))
    assert seen.mean() < kinds - 3
    assert abs(estimates.mean() - kinds) < 0.5 * (kinds - seen.mean())
    error = estimates.std(ddof=1) / math.sqrt(len(estimates))
    # The ratio f1²/2f2 is itself above its expectation by some 1% at these sizes.
    assert estimates.mean() < 1.02 * kinds + 4 * error
    if not exponent:
        assert estimates.mean() == pytest.approx(kinds, rel=0.02)


@pytest.mark.parametrize(("exponent", "n"), [(0.0, 60), (1.0, 150), (2.0, 150)])
def test_good_turing_is_the_share_of_the_population_that_was_seen(exponent: float, n: int) -> None:
    shares = zipf(100, exponent)
    samples = np.random.default_rng(6).multinomial(n, shares, size=4000)
    found = np.array([good_turing_coverage(sample) for sample in samples])
    truth = (samples > 0) @ shares
    # E[1 − f₁/n] is the coverage of n − 1 records, which Good's estimate takes for that of n.
    of_n_less_one, of_n = (1 - float((shares * (1 - shares) ** m).sum()) for m in (n - 1, n))
    assert standard_errors(of_n_less_one, found) < 4
    assert standard_errors(of_n, truth) < 4
    assert found.mean() == pytest.approx(truth.mean(), abs=0.01)
    assert standard_errors(of_n_less_one - 0.01, found) > 4


# ---------------------------------------------------------------- clusters of a density

EPS, MIN_SAMPLES = 0.1, 3
SIZES = (120, 60, 30, 15, 8, 5, 3, 3)


def blobs(of: Sequence[int], rng: np.random.Generator, *, directions: int = 32) -> FloatArray:
    """Unit vectors close to a direction each; those of −1 lie wherever they like, far from all."""
    axes = np.eye(directions)
    rows = np.stack([axes[k] if k >= 0 else rng.normal(0, 1, directions) for k in of])
    rows += rng.normal(0, 0.02, rows.shape)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows.astype(np.float32)


def clusters(rows: FloatArray, eps: float = EPS) -> int:
    return int(dbscan(rows, eps, MIN_SAMPLES).max(initial=-1)) + 1


def thinned(rows: FloatArray, m: int, times: int, rng: np.random.Generator, eps: float = EPS) -> Counts:
    """The clusters of ``times`` random parts of ``m`` rows, each clustered anew."""
    return np.array(
        [clusters(rows[np.sort(rng.choice(len(rows), m, replace=False))], eps) for _ in range(times)]
    )


@pytest.mark.parametrize("min_samples", [1, 3, 10])
@pytest.mark.parametrize("m", [20, 80, 200])
def test_survival_is_that_of_labels_when_rows_are_left_out(min_samples: int, m: int) -> None:
    noise = 40
    rng = np.random.default_rng(8)
    drawn = rng.multivariate_hypergeometric([*SIZES, noise], m, size=4000)[:, :-1]
    expected = expected_clusters(SIZES, sum(SIZES) + noise, m, min_samples)
    exact = sum(hypergeom.sf(min_samples - 1, sum(SIZES) + noise, size, m) for size in SIZES)
    assert expected == pytest.approx(exact, rel=1e-10)
    found = (drawn >= min_samples).sum(axis=1)
    assert standard_errors(expected, found) < 4
    assert standard_errors(expected_clusters(SIZES, sum(SIZES) + noise, m, min_samples + 1), found) > 4


@pytest.mark.parametrize("m", [40, 80, 150, 250])
def test_tight_clusters_survive_as_the_form_says_when_clustered_anew(m: int) -> None:
    rng = np.random.default_rng(0)
    rows = blobs(np.repeat([*range(len(SIZES)), -1], [*SIZES, 40]).tolist(), rng)
    labels = dbscan(rows, EPS, MIN_SAMPLES)
    assert sorted(np.bincount(labels[labels >= 0]), reverse=True) == list(SIZES)
    expected = expected_clusters(np.bincount(labels[labels >= 0]), len(rows), m, MIN_SAMPLES)
    assert standard_errors(expected, thinned(rows, m, 400, rng)) < 4


def test_a_stretched_cluster_breaks_where_the_form_keeps_it() -> None:
    """Of a chain the form is too low while parts of it are long enough to be clusters, and too high when none is.

    Three arcs of 25 rows, each row within reach of two before and two after it: of 9 rows in 10 clustered anew there
    are twice as many clusters as the form expects, of 3 in 10 hardly more than half. The parts that a comparison at
    equal size draws show it; the curve cannot.
    """
    eps = 0.02
    angles = np.arange(25) * 0.5 * math.acos(1 - eps)
    rows = np.zeros((75, 6), np.float32)
    for k in range(3):
        arc = slice(25 * k, 25 * (k + 1))
        rows[arc, 2 * k], rows[arc, 2 * k + 1] = np.cos(angles), np.sin(angles)
    assert clusters(rows, eps) == 3
    rng = np.random.default_rng(1)
    found = {share: thinned(rows, round(share * 75), 200, rng, eps).mean() for share in (0.9, 0.7, 0.5, 0.3)}
    expected = {share: expected_clusters([25] * 3, 75, round(share * 75), MIN_SAMPLES) for share in found}
    bias = {share: expected[share] - found[share] for share in found}
    assert all(2.9 < value <= 3 for value in expected.values())
    assert bias[0.9] < -2.5 and bias[0.7] < -3.5 and bias[0.5] < -1.5
    assert bias[0.3] > 0.8


# ---------------------------------------------------------------- intervals


def coverage(
    draw: Callable[[np.random.Generator], Any],
    interval: Callable[[Any, int], Interval | None],
    truth: float,
    *,
    trials: int,
) -> tuple[float, float]:
    """The share of intervals of simulated data that hold the truth, and of the same cut to half their width."""
    rng = np.random.default_rng(7)
    whole = half = 0
    for seed in range(trials):
        found = interval(draw(rng), seed)
        assert found is not None
        low, high = found
        whole += low <= truth <= high
        quarter = (high - low) / 4
        half += low + quarter <= truth <= high - quarter
    return whole / trials, half / trials


def assert_nominal(found: tuple[float, float], least: float) -> None:
    """95% as far as so many trials tell; the control of half the width is out of these bounds."""
    whole, half = found
    assert least <= whole <= 0.99
    assert half < least - 0.08


@pytest.mark.parametrize(
    ("draw", "truth", "least"),
    [
        (lambda rng: rng.normal(0, 1, 100), 0.0, 0.91),
        (lambda rng: rng.gamma(2.0, 3.0, 100), 6.0, 0.91),
        (lambda rng: (rng.random(100) < 0.2).astype(np.float64), 0.2, 0.9),
    ],
    ids=["normal", "skewed", "yes or no"],
)
def test_the_interval_of_a_mean_holds_it(
    draw: Callable[[np.random.Generator], Any], truth: float, least: float
) -> None:
    found = coverage(draw, lambda values, seed: bootstrap_mean(values, seed=seed), truth, trials=200)
    assert_nominal(found, least)


@pytest.mark.parametrize(
    ("exponent", "n"), [(1.0, 300), (0.3, 300)], ids=["uneven tasks", "nearly even tasks"]
)
def test_the_interval_of_a_balance_holds_it(exponent: float, n: int) -> None:
    shares = zipf(10, exponent)
    truth = float(np.var(100 * shares))
    bounds = (0.0, 2500.0)
    found = coverage(
        lambda rng: rng.multinomial(n, shares),
        lambda counts, seed: bootstrap_counts(counts, percent_variance, seed=seed, bounds=bounds),
        truth,
        trials=120,
    )
    assert_nominal(found, 0.89)


def test_percentiles_of_resamples_would_miss_a_balance_that_is_nearly_even() -> None:
    shares = zipf(10, 0.3)

    def percentiles(counts: Counts, seed: int) -> Interval:
        drawn = np.random.default_rng(seed).multinomial(counts.sum(), counts / counts.sum(), REPLICATES)
        return percentile_interval(np.var(100 * drawn / counts.sum(), axis=1))

    truth = float(np.var(100 * shares))
    whole, _ = coverage(lambda rng: rng.multinomial(300, shares), percentiles, truth, trials=120)
    assert whole < 0.75


def test_the_interval_of_a_balance_lies_within_its_bounds_and_holds_the_value() -> None:
    for counts in ([50, 50], [90, 10], [3, 3, 3], [99, 1]):
        value = percent_variance(counts)
        found = bootstrap_counts(np.array(counts), percent_variance, seed=0, bounds=(0.0, 2500.0))
        assert found is not None
        assert 0 <= found[0] <= value <= found[1] <= 2500


@pytest.mark.parametrize(
    ("kinds", "n", "exponent", "at_least", "least"),
    [(60, 300, 1.0, 1, 0.91), (300, 300, 0.7, 1, 0.89), (60, 300, 1.0, 2, 0.86)],
    ids=["tasks", "many unseen", "at least two"],
)
def test_the_interval_of_kinds_holds_what_another_sample_would_have(
    kinds: int, n: int, exponent: float, at_least: int, least: float
) -> None:
    """Of more than one item a kind the interval is somewhat narrow: 88 to 93% over many populations."""
    shares = zipf(kinds, exponent)
    found = coverage(
        lambda rng: rng.multinomial(n, shares),
        lambda counts, seed: bootstrap_kinds(counts, at_least, seed=seed),
        float(binom.sf(at_least - 1, n, shares).sum()),
        trials=200,
    )
    assert_nominal(found, least)


@pytest.mark.parametrize(
    ("kinds", "n", "min_samples", "least", "most"),
    [(20, 400, 5, 0.9, 0.99), (200, 1000, 3, 0.65, 0.85)],
    ids=["large", "most about as large as the least"],
)
def test_the_interval_of_clusters_is_too_narrow_where_most_are_small(
    monkeypatch: pytest.MonkeyPatch, kinds: int, n: int, min_samples: int, least: float, most: float
) -> None:
    """What holds it in the second population is one that knows the sizes of the groups which are no clusters."""
    monkeypatch.setattr(cluster_summary, "REPLICATES", 200)
    shares = zipf(kinds, 1.0)

    def interval(counts: Counts, seed: int) -> Interval:
        members = counts[counts >= min_samples]
        labels = np.repeat([*range(len(members)), -1], [*members, n - members.sum()])
        error = 1.96 * count_error(labels, np.arange(n), min_samples, seed=seed)
        return len(members) - error, len(members) + error

    def draw(rng: np.random.Generator) -> Counts:
        return rng.multinomial(n, shares)

    truth = float(binom.sf(min_samples - 1, n, shares).sum())
    whole, _ = coverage(draw, interval, truth, trials=120)
    assert least <= whole <= most
    known, _ = coverage(
        draw, lambda counts, seed: bootstrap_kinds(counts, min_samples, seed=seed), truth, trials=60
    )
    assert known >= 0.88


def test_very_many_kinds_seen_once_stay_small_in_memory() -> None:
    counts = np.ones(3_000, np.int64)
    assert chao1(counts) > 4e6
    found = bootstrap_kinds(counts, seed=0)
    assert found is not None
    assert found[0] < 3_000 < found[1]


# ---------------------------------------------------------------- two data sets of one population

DIRECTIONS = 40
LARGE, SMALL = 400, 150
"""Records of the two data sets."""


class Embedded:
    """As much of a run as the comparison asks for: each record has an embedding."""

    def __init__(self, seed: int, n: int, name: str, directions: int = DIRECTIONS) -> None:
        rng = np.random.default_rng([seed, n])
        of = rng.choice(directions, n, p=zipf(directions, 1.0))
        of[rng.random(n) < 0.1] = -1
        self.rows = blobs(of.tolist(), rng, directions=DIRECTIONS)
        self.path = Path(name)
        self.info = {"input": {"sha256": name}}

    def data_set(self) -> DataSet:
        data = DataSet(self.path.name, self, np.ones(len(self.rows), np.bool_))  # type: ignore[arg-type]
        labels = dbscan(self.rows, EPS, MIN_SAMPLES)
        members = np.bincount(labels[labels >= 0])
        section = {
            "value": math.log10(len(members)),
            "n_scored": len(self.rows),
            "n_total": len(self.rows),
            "principle": "response_diversity",
            "unit": "log10(clusters)",
            "bounds": [0.0, None],
            "details": {"curve": curve(members, len(self.rows), MIN_SAMPLES)},
        }
        data.__dict__["metrics"] = {"diversity": section}
        return data


class Reclustered:
    """In the place of ``Parts``: the embeddings of a part are clustered anew."""

    def __init__(self, run: Any) -> None:
        self._rows = run.rows

    def scores(self, kept: NDArray[np.bool_], names: Sequence[str]) -> dict[str, DatasetScore]:
        return {name: DatasetScore(math.log10(clusters(self._rows[kept]))) for name in names}


def compared(large: DataSet, small: DataSet, seed: int) -> tuple[Fair, Difference]:
    sets = [large, small]
    found = at_equal_size(sets, {"diversity": [True, True]}, replicates=20, seed=seed)["diversity"]
    return found, fair.difference(found, sets, 1, [data.metrics["diversity"]["value"] for data in sets])


def test_two_sizes_of_one_population_hardly_ever_differ_clearly(monkeypatch: pytest.MonkeyPatch) -> None:
    """As they are the smaller always looks poorer; at equal size one in twenty differs clearly, as 95% says.

    In the control the smaller one has an eighth of the directions, which is found out nearly always.
    """
    monkeypatch.setattr(fair, "Parts", Reclustered)
    trials = 200
    poorer = clear = found_out = 0
    values: list[tuple[float, float, float]] = []
    for trial in range(trials):
        large, small = Embedded(trial, LARGE, "large").data_set(), Embedded(trial, SMALL, "small").data_set()
        poorer += small.metrics["diversity"]["value"] < large.metrics["diversity"]["value"]
        found, difference = compared(large, small, trial)
        assert found.m == SMALL and not found.comparable
        assert difference.clear is not None
        clear += difference.clear
        one, two = found.sets
        assert one and two and one.value and one.expected and two.value
        values.append((one.value, math.log10(one.expected), two.value))
        if trial < 40:
            few = Embedded(trial, SMALL, "few", directions=DIRECTIONS // 8).data_set()
            found_out += bool(compared(large, few, trial)[1].clear)
    drawn, expected, other = np.array(values).T
    assert poorer >= 0.99 * trials
    assert clear <= 0.08 * trials
    assert found_out >= 0.8 * 40
    # The curve and the parts drawn say the same of clusters that do not break, and both are without bias.
    assert drawn.mean() == pytest.approx(expected.mean(), abs=0.02)
    error = math.sqrt((drawn.var() + other.var()) / trials)
    assert abs(drawn.mean() - other.mean()) < 4 * error
