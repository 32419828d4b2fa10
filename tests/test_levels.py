"""Levels: percentiles as numpy has them, deviations, one for each group, and what there is where there is none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlitqc.errors import UnknownName, UsageError
from vlitqc.filtering.levels import FEWEST, MAD_TO_DEVIATION, Asked, Level, find, look_up
from vlitqc.filtering.table import ScoreTable

NO_ISSUES = pl.DataFrame(schema={"row": pl.Int64, "kind": pl.String, "severity": pl.String})


def table(**columns: Any) -> ScoreTable:
    n = len(next(iter(columns.values())))
    base = {"row": range(n), "id": [f"r{i}" for i in range(n)], "state": ["scored"] * n}
    return ScoreTable(pl.DataFrame({**base, **columns}).lazy(), NO_ISSUES)


def level_of(scores: ScoreTable, text: str, by: str | None = None) -> tuple[list[float | None], str]:
    """The level of ``m`` for every record, and its words."""
    threshold, words = look_up(scores, Asked("m", Level.parse(text), by))
    return scores.collect("row", threshold.alias("level"))["level"].to_list(), words


# ---------------------------------------------------------------- how they are written


@pytest.mark.parametrize(
    ("text", "level"),
    [
        ("12.5", Level("at", 12.5)),
        ("-3", Level("at", -3.0)),
        ("+.5", Level("at", 0.5)),
        ("1e-3", Level("at", 0.001)),
        (" p10 ", Level("p", 10.0)),
        ("p0", Level("p", 0.0)),
        ("p100", Level("p", 100.0)),
        ("p99.9", Level("p", 99.9)),
        ("z2", Level("z", 2.0)),
        ("z-2.5", Level("z", 2.5, "-")),
        ("mad3", Level("mad", 3.0)),
        ("mad+3", Level("mad", 3.0, "+")),
    ],
)
def test_levels_are_read(text: str, level: Level) -> None:
    assert Level.parse(text) == level
    assert Level.parse(level.words) == level


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ten",
        "p",
        "p-1",
        "p+1",
        "p101",
        "pp10",
        "nan",
        "inf",
        "1,5",
        "=3",
        "10%",
        "z",
        "mad",
        "zz2",
        "sd2",
        "1e999",
        "1_000",
        "０５",
        "p１０",
        "0x10",
        "--3",
        "z--2",
        "p10\nz2",
        "P10",
    ],
)
def test_other_levels_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"is no level: expected a number such as 12\.5, p0 to p100"):
        Level.parse(text)


def test_the_side_gives_the_sign_that_is_not_written() -> None:
    assert Level.parse("z2").on("below") == Level("z", 2.0, "-")
    assert Level.parse("mad2").on("above") == Level("mad", 2.0, "+")
    assert Level.parse("z+2").on("below") == Level("z", 2.0, "+")
    assert Level.parse("p5").on("below") == Level("p", 5.0)
    assert Level.parse("-5").on("above") == Level("at", -5.0)


# ---------------------------------------------------------------- what they are

FINITE = st.floats(allow_nan=False, allow_infinity=False, min_value=-1e150, max_value=1e150)


@given(st.lists(FINITE | st.none(), min_size=1, max_size=60), st.floats(0, 100))
@settings(max_examples=150, deadline=None)
def test_percentiles_are_numpys_to_the_last_bit(values: list[float | None], percent: float) -> None:
    scores = table(m=pl.Series(values, dtype=pl.Float64))
    asked = Asked("m", Level("p", percent))
    find(scores, [asked])
    present = [value for value in values if value is not None]
    expected = float(np.percentile(present, percent)) if present else None
    assert scores.found[asked].overall == expected


@given(st.integers(0, 2**32), st.sampled_from([0.0, 0.1, 2.5, 10.0, 50.0, 99.9, 100.0]))
@settings(max_examples=40, deadline=None)
def test_the_percentiles_of_groups_are_numpys_to_the_last_bit(seed: int, percent: float) -> None:
    rng = np.random.default_rng(seed)
    groups = rng.integers(0, 5, 400)
    values = rng.normal(size=400) * 10.0 ** rng.integers(-5, 5)
    scores = table(m=values, task=[None if g == 4 else f"t{g}" for g in groups])
    told, _ = level_of(scores, f"p{percent}", "task")
    expected = [float(np.percentile(values[groups == g], percent)) for g in range(5)]
    assert told == [expected[g] for g in groups]


def test_deviations_from_the_centre() -> None:
    values = [1.0, 2.0, 3.0, 4.0, 10.0]  # mean 4, population variance 10; median 3, deviations 2 1 0 1 7
    scores = table(m=values)
    assert level_of(scores, "z+2")[0][0] == pytest.approx(4 + 2 * 10**0.5, rel=1e-15)
    assert level_of(scores, "z-1")[0][0] == pytest.approx(4 - 10**0.5, rel=1e-15)
    assert level_of(scores, "mad-3")[0][0] == pytest.approx(3 - 3 * MAD_TO_DEVIATION, rel=1e-15)
    assert level_of(scores, "mad+0.5")[0][0] == pytest.approx(3 + 0.5 * 1.4826, rel=1e-15)
    assert level_of(scores, "mad-3")[1] == "-1.4478 (mad-3)"


@given(st.integers(0, 2**32))
@settings(max_examples=25, deadline=None)
def test_the_deviations_of_groups_are_those_of_each_alone(seed: int) -> None:
    rng = np.random.default_rng(seed)
    groups, values = rng.integers(0, 4, 300), rng.normal(5, 2, 300)
    scores = table(m=values, task=[f"t{g}" for g in groups])
    expected: dict[str, Callable[[Any], float]] = {
        "z-2": lambda x: x.mean() - 2 * x.std(),
        "z+1.5": lambda x: x.mean() + 1.5 * x.std(),
        "mad+2": lambda x: np.median(x) + 2 * 1.4826 * np.median(np.abs(x - np.median(x))),
    }
    for text, level in expected.items():
        told, _ = level_of(scores, text, "task")
        assert told == pytest.approx([level(values[groups == g]) for g in groups], rel=1e-12)


def test_what_does_not_count() -> None:
    """Unreadable records, and numbers that are none, have no part in a level."""
    values = [1.0, 2.0, 3.0, None, float("nan"), float("inf"), -100.0]
    scores = table(m=values, state=["scored"] * 6 + ["unreadable"])
    assert level_of(scores, "p0")[0][0] == 1.0
    assert level_of(scores, "p100") == ([3.0] * 7, "3 (p100)")


def test_whole_numbers_have_levels_too() -> None:
    scores = table(m=pl.Series([1, 2, 4], dtype=pl.Int32))
    assert level_of(scores, "p75")[0] == [3.0] * 3


def test_no_score_and_no_spread() -> None:
    nothing = table(m=pl.Series([None, None], dtype=pl.Float64))
    assert level_of(nothing, "p50") == ([None, None], "p50 (no record has a score)")
    same = table(m=[0.1] * 7)  # whose mean is not quite 0.1 in floating point
    assert level_of(same, "z-2") == ([-np.inf] * 7, "z-2 (no spread)")
    assert level_of(same, "z+2") == ([np.inf] * 7, "z+2 (no spread)")
    most = table(m=[5.0, 5.0, 5.0, 9.0])
    assert level_of(most, "mad+3") == ([np.inf] * 4, "mad+3 (no spread)")
    assert level_of(most, "z+1")[0][0] == pytest.approx(6 + 3**0.5)


def test_numbers_at_the_edge_of_what_there_is() -> None:
    scores = table(m=[-1.7e308, 1.7e308])
    assert level_of(scores, "p50")[0][0] == 0.0
    assert level_of(scores, "z-2")[0][0] == -np.inf


# ---------------------------------------------------------------- groups


def test_groups_with_few_scores_have_no_level() -> None:
    big = [float(i) for i in range(FEWEST)]
    small = [100.0 + i for i in range(FEWEST - 1)]
    scores = table(m=[*big, *small, None], task=["big"] * FEWEST + ["small"] * FEWEST)
    told, words = level_of(scores, "p10", "task")
    assert told == [float(np.percentile(big, 10))] * FEWEST + [None] * FEWEST
    assert words == "p10 by task (1.9; none for 1 task with fewer than 20 scores)"
    told, words = level_of(table(m=small * 2, source=["a"] * 19 + ["b"] * 19), "z-2", "source")
    assert told == [None] * 38
    assert words == "z-2 by source (none for 2 sources with fewer than 20 scores)"
    nothing = table(m=pl.Series([None], dtype=pl.Float64), task=["a"])
    assert level_of(nothing, "p10", "task") == ([None], "p10 (no record has a score)")


def test_null_is_a_group_of_its_own_and_no_text_is() -> None:
    values = [*range(20), *range(100, 120), *range(200, 220)]
    scores = table(m=[float(v) for v in values], task=[None] * 20 + ["null"] * 20 + [""] * 20)
    told, words = level_of(scores, "p0", "task")
    assert told == [0.0] * 20 + [100.0] * 20 + [200.0] * 20
    assert words == "p0 by task (0 to 200)"


def test_a_group_without_spread() -> None:
    scores = table(m=[1.0] * 20 + [float(i) for i in range(20)], task=["a"] * 20 + ["b"] * 20)
    told, words = level_of(scores, "z-2", "task")
    assert told[0] == -np.inf
    assert told[-1] == pytest.approx(9.5 - 2 * np.std(np.arange(20)))
    assert words == f"z-2 by task ({told[-1]:.6g}; no spread in 1 of 2)"


def test_a_hundred_thousand_groups() -> None:
    groups = np.repeat(np.arange(100_000), 2)
    scores = table(m=np.arange(200_000.0), task=pl.Series(groups).cast(pl.String))
    told, words = level_of(scores, "p50", "task")
    assert told[0] is None
    assert words == "p50 by task (none for 100,000 tasks with fewer than 20 scores)"
    groups = np.repeat(np.arange(10_000), 20)
    scores = table(m=np.arange(200_000.0), task=pl.Series(groups).cast(pl.String))
    told, _ = level_of(scores, "p50", "task")
    assert told == (groups * 20 + 9.5).tolist()


@pytest.mark.parametrize("kind", [pl.Categorical, pl.Enum(["a", "b"])])
def test_groups_may_be_categories(kind: Any) -> None:
    names = pl.Series(["a"] * 20 + ["b"] * 20).cast(kind)
    assert level_of(table(m=[*range(40)], task=names), "p0", "task")[0] == [0.0] * 20 + [20.0] * 20


def test_a_level_of_groups_can_be_a_filter() -> None:
    scores = table(m=[float(i) for i in range(40)], task=["a"] * 20 + ["b"] * 20)
    threshold, _ = look_up(scores, Asked("m", Level("p", 50.0), "task"))
    below = scores.scores.filter(pl.col("m") < threshold).select("row").collect(engine="streaming")
    assert below["row"].to_list() == [*range(10), *range(20, 30)]


# ---------------------------------------------------------------- how they are found


def test_a_column_is_read_once_for_all_of_its_levels(monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[int] = []
    collect = ScoreTable.collect

    def counted(self: ScoreTable, *columns: Any) -> pl.DataFrame:
        reads.append(len(columns) - 1)
        return collect(self, *columns)

    monkeypatch.setattr(ScoreTable, "collect", counted)
    scores = table(**{f"m{i}": np.arange(30.0) for i in range(6)}, task=["a"] * 30)
    texts = ["p1", "p2", "z+2", "mad-3", "7"]
    asked = [Asked(f"m{i}", Level.parse(t), by) for i in range(6) for t in texts for by in (None, "task")]
    find(scores, asked)
    assert (len(scores.found), sum(reads)) == (6 * 4 * 2, 6 * 2)
    for ask in asked:
        look_up(scores, ask)
    assert sum(reads) == 6 * 2


def test_what_has_no_level() -> None:
    scores = table(m=[1.0], task=["a"], group=["x"])
    with pytest.raises(UnknownName, match="no metric with scores in this run is called 'mm'"):
        look_up(scores, Asked("mm", Level("p", 5.0)))
    with pytest.raises(UnknownName, match="no metric with scores in this run is called 'task'"):
        look_up(scores, Asked("task", Level("p", 5.0)))
    with pytest.raises(UnknownName, match="'tasks'; did you mean task"):
        look_up(scores, Asked("m", Level("p", 5.0), "tasks"))
    for level in ("p5", "5"):
        with pytest.raises(UsageError, match="--by m: groups need a column of text"):
            look_up(scores, Asked("m", Level.parse(level), "m"))
        with pytest.raises(UnknownName, match="'tsk'; did you mean task"):
            look_up(scores, Asked("m", Level.parse(level), "tsk"))
    # Names that are used inside are no trouble.
    odd = table(**{"0": [1.0], "score": [2.0], "group": ["x"]})
    assert look_up(odd, Asked("score", Level("p", 5.0), "group"))[1].startswith("p5 by group (none for 1")
