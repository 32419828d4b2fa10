"""Stops and codes: what the page counts is what the filter will drop, to the last record."""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import vlitqc
from tests.test_report import make_run
from vlitqc import cli
from vlitqc.filtering.levels import Level
from vlitqc_reports.explorer.axes import NARROW, WIDE, Axis, axis, decimal
from vlitqc_reports.explorer.contents import Contents

FINITE = st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.lists(
    st.one_of(FINITE, st.floats(-1e3, 1e3), st.integers(-9, 9).map(float), st.just(math.nan)), max_size=60
)


def check(found: Axis, values: list[float]) -> None:
    """Every stop against every value, compared as the filter compares them."""
    numbers = [float(stop) for stop in found.stops]
    assert numbers == sorted(set(numbers))
    missing = np.iinfo(found.codes.dtype).max
    assert [code == missing for code in found.codes] == [math.isnan(v) for v in values]
    for k, stop in enumerate(numbers):
        assert Level.parse(found.stops[k]).number == stop
        below = [v < stop for v in values]
        above = [v > stop for v in values]
        assert [bool(code <= 2 * k) for code in found.codes] == below
        assert [bool(2 * k + 2 <= code < missing) for code in found.codes] == above
        assert (found.below[k], found.above[k]) == (sum(below), sum(above))


@settings(deadline=None, max_examples=150)
@given(VALUES, st.one_of(st.none(), FINITE), st.booleans())
@example([-0.0, 0.0, 5e-324, -5e-324, 1.7976931348623157e308, -1.7976931348623157e308], 0.0, False)
@example([0.1 + 0.2, 0.3, 0.30000000000000004, 0.1, math.nan], 0.3, False)
@example([1e16, 1e16 + 2, 12345678901234567.0], None, True)
@example([2.0] * 5, None, False)
@example([2.5] * 5, 2.5, True)
@example([], 1.0, False)
@example([5.900000000000001e16, 1.5], None, False)
def test_codes_compare_as_the_values_do(values: list[float], floor: float | None, wide: bool) -> None:
    found = axis("m", np.array(values, np.float64), floor=floor, wide=wide)
    check(found, values)
    assert len(found.stops) <= (WIDE if wide else NARROW)
    assert found.codes.dtype == (np.uint16 if wide else np.uint8)
    assert found.n_scored == sum(not math.isnan(v) for v in values)
    if floor is not None:
        assert floor in [float(stop) for stop in found.stops]


def test_an_infinite_value_lies_beyond_every_stop_and_is_none_itself() -> None:
    values = [-math.inf, 1.5, 2.25, 7.0, math.inf]
    found = axis("m", np.array(values))
    check(found, values)
    assert all(1.5 <= float(stop) <= 7 for stop in found.stops)


@settings(deadline=None)
@given(FINITE)
def test_a_decimal_reads_back_as_it_was(value: float) -> None:
    assert float(decimal(value)) == value
    assert Level.parse(decimal(value)).number == value
    assert re.fullmatch(r"-?\d+(\.\d*[1-9])?(e[+-]\d+)?", decimal(value))


@pytest.mark.parametrize(
    ("value", "expected"),
    [(22.5, "22.5"), (-10.0, "-10"), (0.3, "0.3"), (-0.0, "0"), (1e-5, "0.00001"), (1e-9, "1e-9"), (1200.0, "1200"),
     (3e20, "3e+20")],
)  # fmt: skip
def test_decimals(value: float, expected: str) -> None:
    assert decimal(value) == expected


def test_few_whole_numbers_are_the_stops() -> None:
    assert axis("m", np.array([3.0, 1.0, 1.0, 12.0])).stops == ("1", "3", "12")
    many = axis("m", np.arange(1000.0))
    assert len(many.stops) <= NARROW
    assert all(re.fullmatch(r"\d+", stop) for stop in many.stops)


def test_stops_are_short_and_cover_the_range_and_its_tails() -> None:
    values = np.random.default_rng(0).normal(25, 8, 100_000)
    stops = axis("m", values).stops
    numbers = np.array([float(stop) for stop in stops])
    assert 80 <= len(stops) <= NARROW
    assert max(len(stop.replace("-", "")) for stop in stops) <= 5
    assert {"20", "22", "25", "30"} <= set(stops)
    # A threshold can go close to any percentile, closest in the tails.
    for percent, near in ((0.1, 0.06), (1, 0.3), (5, 1.2), (50, 1.2), (99, 0.3), (99.9, 0.06)):
        at = np.percentile(values, percent)
        nearest = numbers[np.abs(numbers - at).argmin()]
        assert abs(100 * np.mean(values < nearest) - percent) <= near, (percent, nearest)


def test_far_outliers_leave_stops_among_the_others() -> None:
    values = np.append(np.random.default_rng(0).normal(size=10_000), [1e12, -1e12])
    numbers = np.array([float(stop) for stop in axis("m", values).stops])
    assert np.count_nonzero(np.abs(numbers) < 4) > 40


def test_a_million_values_take_little_time() -> None:
    found = axis("m", np.random.default_rng(0).normal(size=1_000_000))
    assert found.below[-1] > 990_000


def test_metrics_without_a_value_have_no_axis() -> None:
    contents = Contents(make_run([1.0, None, 2.5]))
    assert list(contents.axes) == ["match"]
    assert contents.axes["match"].n_scored == 2


def test_the_filter_drops_what_the_page_counts(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    make_data: Callable[..., Path],
    texts: str,
) -> None:
    """With missing values and an unreadable record, one threshold at a time and two at once."""
    lines = [
        {
            "id": str(i),
            "conversations": [{"from": "human", "value": f"{'why ' * (i % 4)}{word} {i}?"}, answer],
        }
        for i, word in enumerate(("cat", "the of and", "zqxj vkw", "123", "dogs run") * 5)
        for answer in [{"from": "gpt", "value": "" if i % 6 == 5 else f"{word} because {i}"}]
    ]
    run = vlitqc.score(make_data(lines=[*lines, b"{broken"]), texts, report=False)
    contents = Contents(run)
    metrics = contents.meta(dict.fromkeys(contents.axes, "a"), [])["metrics"]
    (metric,) = (m for m in metrics if m["name"] == "text_readability")
    assert contents.n_unreadable == 1
    assert 0 < metric["n_scored"] < len(contents.rows)

    def dropped(**words: str) -> int:
        options = [
            text for side, stop in words.items() for text in (f"--drop-{side}", f"text_readability={stop}")
        ]
        monkeypatch.setattr(sys, "argv", ["vlitqc", "filter", str(run.path), *options, "--dry-run", "--json"])
        cli.main()
        told = json.loads(capsys.readouterr().out)
        return int(told["effect"]["dropped"])

    codes = contents.axes["text_readability"].codes.astype(int)
    n = len(metric["stops"])
    for k in (0, 1, n // 4, n // 2, n - 1):
        stop = metric["stops"][k]
        assert dropped(below=stop) == metric["below"][k] == np.count_nonzero(codes <= 2 * k)
        assert dropped(above=stop) == metric["above"][k]
    low, high = n // 4, 3 * n // 4
    expected = metric["below"][low] + metric["above"][high]
    assert dropped(below=metric["stops"][low], above=metric["stops"][high]) == expected
