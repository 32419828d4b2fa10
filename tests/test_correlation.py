"""Correlations over few data sets and what these can show, against scipy, pingouin, simulation and by hand; and the
paper's tables computed again."""

from __future__ import annotations

import csv
import itertools
import math
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pingouin
import pytest
from scipy import stats

from vlitqc.analysis.correlation import (
    MOST_PERMUTED,
    benjamini_hochberg,
    corrected,
    correlation,
    exact_spearman_p,
    intraclass,
    limits,
    power,
    smallest_r,
)

PAPER = Path(__file__).resolve().parents[1] / "examples" / "paper_tables"
RNG = np.random.default_rng(7)


# ---------------------------------------------------------------- coefficients


def test_four_points_by_hand() -> None:
    # Deviations ±1.5, ±0.5 of both: r = 3/5; with two degrees of freedom p is 1 − |r|. Of the 24 orders of 4 ranks
    # 1 has rho 1, 3 have 0.8, 1 has 0.6, 4 have 0.4, 2 have 0.2, 2 have 0, and the rest mirrors that: 10 reach 0.6.
    found = correlation([1, 2, 3, 4], [2, 1, 4, 3])
    assert found.n == 4
    assert found.pearson.value == pytest.approx(0.6)
    assert found.pearson.p == pytest.approx(0.4)
    assert found.spearman.p == pytest.approx(10 / 24)
    # atanh 0.6 = ln 2; half the width is 1.96 / √(4 − 3).
    assert found.pearson.interval == pytest.approx([math.tanh(math.log(2) + s * 1.959964) for s in (-1, 1)])
    error = math.sqrt(1 + 0.36 / 2)
    assert found.spearman.interval == pytest.approx(
        [math.tanh(math.log(2) + s * 1.959964 * error) for s in (-1, 1)]
    )


@pytest.mark.parametrize("n", [4, 7, 9, 10, 40])
def test_it_is_scipys(n: int) -> None:
    x, y = RNG.normal(size=(2, n))
    found = correlation(x, y + x)
    pearson, spearman = stats.pearsonr(x, y + x), stats.spearmanr(x, y + x)
    assert (found.pearson.value, found.pearson.p) == pytest.approx((pearson.statistic, pearson.pvalue))
    assert found.pearson.interval == pytest.approx(tuple(pearson.confidence_interval()))
    assert found.spearman.value == pytest.approx(spearman.statistic)
    if n > MOST_PERMUTED:
        assert found.spearman.p == pytest.approx(spearman.pvalue)


def test_an_exact_p_is_the_share_of_all_orders_ties_and_all() -> None:
    for n in (3, 4, 5):
        for _ in range(5):
            x, y = RNG.integers(0, 4, size=(2, n)).astype(float)
            if np.ptp(x) == 0 or np.ptp(y) == 0:
                continue
            found = abs(stats.spearmanr(x, y).statistic)
            rhos = [abs(stats.spearmanr(x, order).statistic) for order in itertools.permutations(y)]
            assert exact_spearman_p(x, y) == pytest.approx(np.mean(np.array(rhos) >= found - 1e-9))


def test_an_exact_p_of_nine_is_that_of_the_published_table() -> None:
    # The published table of critical values: for n = 9 rho = 0.700 is the first with a two-sided p of at most 0.05.
    # rho = 1 − d²/120, and exchanging ranks i and j adds 2(i − j)² to d².
    x = np.arange(9.0)
    at_700, at_683 = x[[4, 2, 1, 3, 0, 6, 5, 7, 8]], x[[4, 2, 1, 3, 0, 6, 5, 8, 7]]
    assert stats.spearmanr(x, at_700).statistic == pytest.approx(0.7)
    assert exact_spearman_p(x, at_700) <= 0.05 < exact_spearman_p(x, at_683)


def test_ten_are_too_many_to_permute() -> None:
    with pytest.raises(ValueError, match="expected at most 9"):
        exact_spearman_p(np.arange(10.0), np.arange(10.0))


@pytest.mark.parametrize("n", [10, 12, 15])
def test_equal_orders_of_many_have_the_p_of_one_order_in_all(n: int) -> None:
    """That of t is 0, or nearly, which no order of n can be."""
    x = np.arange(float(n))
    for y in (x**2, -(x**2)):
        assert correlation(x, y).spearman.p == pytest.approx(2 / math.factorial(n), rel=1e-12)
    assert correlation(x, y).spearman.p == limits(n).smallest_spearman_p


def test_a_scale_changes_nothing_not_even_the_largest() -> None:
    x, y = RNG.normal(size=(2, 6))
    plain = correlation(x, y)
    scaled = correlation(x / np.abs(x).max() * 1.7e308, y * 1e-300)
    assert scaled.pearson.value == pytest.approx(plain.pearson.value)
    assert scaled.spearman == plain.spearman
    assert correlation(-x, y).pearson.value == pytest.approx(-plain.pearson.value)


@pytest.mark.parametrize(
    ("x", "y", "reason"),
    [
        ([], [], "0 of at least 3 data sets have both"),
        ([1, 2, math.nan], [1, math.nan, 3], "1 of at least 3"),
        ([1, 2], [3, 4], "2 of at least 3"),
        ([5, 5, 5], [1, 2, 3], "all values of a are equal"),
        ([1, 2, 3, math.nan], [4, 4, 4, 9], "all values of b are equal"),
        ([0.1 + 0.2, 0.3, 0.3], [1, 2, 3], "all values of a are equal"),
    ],
)
def test_without_a_correlation_there_is_a_reason(x: list[float], y: list[float], reason: str) -> None:
    found = correlation(x, y, ("a", "b"))
    for one in (found.pearson, found.spearman):
        assert (one.value, one.interval, one.p) == (None, None, None)
        assert one.reason is not None
        assert reason in one.reason


def test_without_an_interval_there_is_a_reason() -> None:
    three = correlation([1, 2, 3], [1, 2, 4])
    assert three.pearson.p == pytest.approx(stats.pearsonr([1, 2, 3], [1, 2, 4]).pvalue)
    assert three.pearson.interval is None
    assert three.pearson.reason == "no interval: 3 of at least 4 data sets"
    perfect = correlation([1, 2, 3, 4], [-2, -4, -6, -8])
    assert perfect.pearson.value == perfect.spearman.value == -1
    assert perfect.spearman.p == pytest.approx(2 / 24)
    assert perfect.pearson.interval is None
    assert perfect.pearson.reason == "no interval: the correlation is perfect"


@pytest.mark.parametrize(("x", "y"), [([1, 2], [1, 2, 3]), ([1, 2, math.inf], [1, 2, 3]), ([[1]], [[1]])])
def test_what_is_no_column_is_refused(x: list[float], y: list[float]) -> None:
    with pytest.raises(ValueError, match="expected"):
        correlation(x, y)


# ---------------------------------------------------------------- many pairs, few data sets


def test_benjamini_hochberg_by_hand() -> None:
    # Sorted 0.01, 0.02, 0.03, 0.5 times 4/rank: 0.04, 0.04, 0.04, 0.5.
    assert benjamini_hochberg([0.5, 0.02, 0.01, 0.03]) == pytest.approx([0.5, 0.04, 0.04, 0.04])
    assert benjamini_hochberg([]) == []


def test_only_what_was_tested_is_of_the_family() -> None:
    x = [1, 2, 3, 4, 5]
    columns = ([2, 1, 4, 3, 5], [7, 7, 7, 7, 7], [5, 3, 4, 1, 2])
    found = corrected(correlation(x, y) for y in columns)
    for name in ("pearson", "spearman"):
        told = [getattr(one, name) for one in found]
        assert told[1].q is None
        p = [told[0].p, told[2].p]
        larger = max(p)
        assert [told[0].q, told[2].q] == pytest.approx(
            [min(2 * each, larger) if each < larger else each for each in p]
        )


def test_what_four_data_sets_can_show() -> None:
    # With two degrees of freedom p is 1 − |r|.
    found = limits(4, 70)
    assert found.smallest_r == pytest.approx(0.95)
    assert found.smallest_r_alone == pytest.approx(1 - 0.05 / 70)
    assert found.smallest_spearman_p == pytest.approx(2 / 24)
    assert limits(2).smallest_r is None
    assert limits(2).power == {}


@pytest.mark.parametrize("n", [3, 5, 9, 50])
def test_the_smallest_r_has_the_p_that_is_asked_for(n: int) -> None:
    r = smallest_r(n, 0.05)
    x = stats.zscore(RNG.normal(size=n))
    noise = RNG.normal(size=n)
    noise = stats.zscore(noise - x * (noise @ x) / n - noise.mean())
    assert correlation(x, r * x + math.sqrt(1 - r**2) * noise).pearson.p == pytest.approx(0.05)


@pytest.mark.parametrize("n", [3, 4, 8])
@pytest.mark.parametrize("rho", [0.0, 0.5, -0.8])
def test_power_is_what_simulation_finds(n: int, rho: float) -> None:
    times = 20_000
    x, noise = np.random.default_rng(n).normal(size=(2, times, n))
    y = rho * x + math.sqrt(1 - rho**2) * noise
    share = float((stats.pearsonr(x, y, axis=1).pvalue <= 0.05).mean())
    found = power(rho, n)
    assert share == pytest.approx(found, abs=4 * math.sqrt(found * (1 - found) / times))


def test_power_of_many_data_sets_is_pingouins_approximation() -> None:
    assert power(0.5, 30) == pytest.approx(pingouin.power_corr(r=0.5, n=30), abs=0.01)
    assert power(0.8, 2000) == pytest.approx(1)
    assert power(0.0, 2000) == pytest.approx(0.05)


# ---------------------------------------------------------------- agreement

# Six targets by four judges: Table 2 of Shrout and Fleiss, Psychological Bulletin 86 (1979), who print 0.17 and 0.44.
JUDGES = [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]]


def test_icc_is_that_of_shrout_and_fleiss() -> None:
    found = intraclass(JUDGES)
    table = np.array(JUDGES, float)
    between = 4 * table.mean(axis=1).var(ddof=1)
    within = float(table.var(axis=1, ddof=1).mean())
    assert found.single == pytest.approx((between - within) / (between + 3 * within))
    assert found.average == pytest.approx((between - within) / between)
    assert (round(found.single or 0, 2), round(found.average or 0, 2)) == (0.17, 0.44)
    # F over its quantiles with 5 and 18 degrees of freedom, to all digits, though pingouin rounds to two by itself.
    f = between / within
    low, high = f / stats.f.ppf(0.975, 5, 18), f * stats.f.ppf(0.975, 18, 5)
    assert found.single_interval == pytest.approx(((low - 1) / (low + 3), (high - 1) / (high + 3)))
    assert found.average_interval == pytest.approx((1 - 1 / low, 1 - 1 / high))
    assert pingouin.options["round.column.CI95"] == 2


def test_ratings_that_do_not_vary_have_no_icc() -> None:
    assert intraclass([[3, 3, 3]] * 4).reason == "all ratings are equal"
    assert intraclass([[3, 3, 3]] * 4).single is None


@pytest.mark.parametrize(
    "ratings", [[[1, 2, 3]], [[1], [2]], [1, 2], [[1, 2], [3, 4]], [[1, 2, 3], [4, math.nan, 6]]]
)
def test_what_is_no_table_of_ratings_is_refused(ratings: list[list[float]]) -> None:
    with pytest.raises(ValueError, match="expected"):
        intraclass(ratings)


def test_without_pingouin_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    class Missing:
        def find_spec(self, name: str, *_: object) -> None:
            if name == "pingouin":
                raise ModuleNotFoundError("No module named 'pingouin'", name="pingouin")

    monkeypatch.delitem(sys.modules, "pingouin")
    monkeypatch.setattr(sys, "meta_path", [Missing(), *sys.meta_path])
    with pytest.raises(ModuleNotFoundError, match=re.escape("pip install 'vlitqc[evidence]'")):
        intraclass(JUDGES)


# ---------------------------------------------------------------- the paper's tables


def test_the_papers_tables_come_out_as_far_as_they_do() -> None:
    command = [sys.executable, "-W", "error", str(PAPER / "reproduce.py")]
    utf8 = os.environ | {"PYTHONIOENCODING": "utf-8"}
    done = subprocess.run(command, capture_output=True, check=False, encoding="utf-8", env=utf8)
    assert done.returncode == 0, done.stderr
    told = done.stdout
    assert "6 of 8 rows come out" in told
    assert "56 of 70 cells come out" in told
    assert "VR: MIMIC-IT 12.0 instead of 13.1, and no other\n" in told
    assert "TR: MIMIC-IT 16.5 instead of 17.0, and no other\n" in told
    assert "With these means 70 of 70 cells come out." in told
    assert "as printed, three decimals: 13 of 70 p < 0.05, none survives; the smallest q is 0.070" in told
    listed = re.findall(r"^  (\w+) +(\w+) +paper ", told, re.MULTILINE)
    assert sorted(listed) == sorted(
        itertools.product(("MD", "TD", "ID", "RD", "OC", "IC", "Bal"), ("VR", "TR"))
    )
    # Every value that the paper prints stands in the output, stars and all.
    with (PAPER / "table20.csv").open(encoding="utf-8", newline="") as stream:
        for row in csv.DictReader(stream):
            for column in ("Overall", "TR"):
                r, p = float(row[f"{column}_r"]), float(row[f"{column}_p"])
                assert f"{r:.3f} {p:.3f}{row[f'{column}_stars']}" in told


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        (
            "table2",
            "LLaVA,Ours,28.3,25.0",
            "LLaVA,Ours,28.3,29.0",
            "columns that do not come out: expected ['VR', 'TR'], found ['SU', 'VR', 'TR']",
        ),
        ("table20", "MD,0.952,0.048,**", "MD,0.952,0.048,*", "cells that come out: expected 56, found 55"),
        # As many rows and cells come out as before.
        (
            "table20",
            "0.989,0.011,**,0.999,0.001,***",
            "0.989,0.012,**,0.999,0.001,***",
            "means that would: expected {'VR': [('MIMIC-IT', 12.0)]",
        ),
        (
            "table20",
            "0.989,0.011,**,0.999,0.001,***",
            "0.989,0.011,**,0.999,0.000,***",
            "what survives: expected {'as printed, three decimals': (13, 0.07, [])",
        ),
    ],
)
def test_other_numbers_do_not_pass(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, old: str, new: str, message: str
) -> None:
    folder = Path(shutil.copytree(PAPER, tmp_path / "tables"))
    path = folder / f"{name}.csv"
    before = path.read_text(encoding="utf-8")
    assert before.count(old) == 1
    path.write_text(before.replace(old, new), encoding="utf-8")
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(folder / "reproduce.py"), run_name="__main__")
    assert stop.value.code == 1
    assert message in capsys.readouterr().err
