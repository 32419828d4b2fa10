"""Rules: thresholds, issues, and/or/not, and which record fails which, with missing scores of every policy."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import vlitqc
from vlitqc.errors import RunError, UnknownName, UsageError
from vlitqc.filtering.conditions import And, HasIssue, Not, Or, Threshold, Where
from vlitqc.filtering.decisions import MAX_RULES, Decided, decide, floors
from vlitqc.filtering.levels import Asked, Level, Side
from vlitqc.filtering.rules import Condition, Missing, Rule
from vlitqc.filtering.table import ScoreTable

Issue = tuple[int, str, str]


def table(issues: list[Issue] | None = None, **columns: Any) -> ScoreTable:
    n = len(next(iter(columns.values())))
    base = {"row": range(n), "id": [f"r{i}" for i in range(n)], "line": range(n), "state": ["scored"] * n}
    schema = {"row": pl.Int64, "kind": pl.String, "severity": pl.String}
    found = pl.DataFrame(issues or [], schema=schema, orient="row")
    return ScoreTable(pl.DataFrame(base | columns, strict=False).lazy(), found)


def holds(condition: Condition, scores: ScoreTable) -> list[bool | None]:
    return scores.collect("row", condition.settle(scores).holds.alias("holds"))["holds"].to_list()


def words(condition: Condition, scores: ScoreTable) -> str:
    return condition.settle(scores).words


def failing(decided: Decided, k: int = 0) -> list[int]:
    rows: list[int] = np.flatnonzero(decided.fails(k)).tolist()
    return rows


# ---------------------------------------------------------------- thresholds


def test_equal_to_the_level_is_neither_below_nor_above() -> None:
    scores = table(m=[1.0, 2.0, 3.0, None, float("nan")])
    below, above = Threshold.parse("m=2", "below"), Threshold.parse("m=2", "above")
    assert holds(below, scores) == [True, False, False, None, None]
    assert holds(above, scores) == [False, False, True, None, None]
    assert (words(below, scores), words(above, scores)) == ("m < 2", "m > 2")


def test_percentiles_are_those_of_the_scores_present() -> None:
    scores = table(m=[*map(float, range(11)), *[None] * 9])
    for text, side, said, rows in [
        ("m=p10", "below", "m < 1 (p10)", [0]),
        ("m=p12.5", "below", "m < 1.25 (p12.5)", [0, 1]),
        ("m=p0", "below", "m < 0 (p0)", []),
        ("m=p100", "above", "m > 10 (p100)", []),
    ]:
        decided = decide(scores, [Rule(Threshold.parse(text, side))])  # type: ignore[arg-type]
        assert decided.by_rule == {said: len(rows)}
        assert failing(decided) == rows


def test_deviations_lie_on_the_side_of_the_threshold() -> None:
    scores = table(m=[1.0, 2.0, 3.0, 4.0, 10.0])  # mean 4, deviation 3.162; median 3, 1.4826 · 1
    assert words(Threshold.parse("m=z1", "above"), scores) == "m > 7.16228 (z+1)"
    assert holds(Threshold.parse("m=z1", "above"), scores) == [False] * 4 + [True]
    assert words(Threshold.parse("m=mad1", "below"), scores) == "m < 1.5174 (mad-1)"
    assert holds(Threshold.parse("m=mad1", "below"), scores) == [True] + [False] * 4
    # A sign of its own is kept: the lower half is below z+0.
    assert holds(Threshold.parse("m=z+0", "below"), scores) == [True, True, True, False, False]


def test_without_a_spread_nothing_is_beyond() -> None:
    scores = table(m=[0.1, 0.1, 0.1, None])
    sides: tuple[Side, ...] = ("below", "above")
    for side in sides:
        condition = Threshold("m", side, Level.parse("z2"))
        assert holds(condition, scores) == [False, False, False, None]
        assert words(condition, scores).endswith("(no spread)")
    # An expression that keeps what is within the spread keeps everything.
    assert holds(Where("z-2 <= m <= z+2"), scores) == [True, True, True, None]


def test_a_level_for_each_group() -> None:
    tasks = ["a"] * 20 + ["b"] * 20 + [None] * 20 + ["few"]
    scores = table(m=[*map(float, [*range(20), *range(100, 120), *range(200, 220)]), 4.9], task=tasks)
    condition = Threshold.parse("m=p10,by=task", "below")
    assert condition == Threshold("m", "below", Level("p", 10.0), "task")
    assert [i for i, held in enumerate(holds(condition, scores)) if held] == [0, 1, 20, 21, 40, 41]
    told = "m < p10 by task (1.9 to 201.9; none for 1 task with fewer than 20 scores)"
    assert words(condition, scores) == told
    # In a group without a level it is unknown, negated or not, and so is an expression.
    for side, level in (("below", "p90"), ("above", "p10"), ("below", "z2"), ("above", "mad1")):
        apart = Threshold("m", side, Level.parse(level), "task")
        assert [holds(c, scores)[-1] for c in (apart, Not(apart), Not(Not(apart)))] == [None] * 3
    assert holds(Where("m < p90", "task"), scores)[-1] is None
    assert holds(Not(Where("m > p90", "task")), scores)[-1] is None
    # A number is the same for every group, and is not said to be by task.
    assert words(Threshold.parse("m=5", "below", "task"), scores) == "m < 5"
    assert Threshold.parse("m=p1", "below", "task").by == "task"
    assert Threshold.parse("m=p1, by = source", "below", "task").by == "source"


def test_words_are_rounded_and_comparisons_are_not() -> None:
    scores = table(m=[0.1234567890122, 0.1234567890123])
    condition = Threshold.parse("m=0.1234567890123", "below")
    assert holds(condition, scores) == [True, False]
    assert words(condition, scores) == "m < 0.123457"


@pytest.mark.parametrize("side", ["below", "above"])
@pytest.mark.parametrize(
    "text",
    [
        "m",
        "m=",
        "=3",
        "",
        "m=ten",
        "m=p",
        "m=p-1",
        "m=p101",
        "m=nan",
        "m=inf",
        "m=1,5",
        "m==3",
        "m=10%",
        "m=1,by",
        "m=1,by=",
        "m=p1,group=task",
        " =3",
        "m=p1,",
    ],
)
def test_malformed_thresholds_say_what_was_expected(text: str, side: Side) -> None:
    with pytest.raises(UsageError, match=rf"^--drop-{side} .*: expected"):
        Threshold.parse(text, side)


def test_unknown_metrics_are_refused_with_near_ones() -> None:
    scores = table(quality=[1.0], n_images=[1], task=["a"])
    with pytest.raises(
        UnknownName, match="no metric with scores in this run is called 'qualty'; did you mean qua"
    ):
        decide(scores, [Rule(Threshold.parse("qualty=p3", "below"))])
    for column in ("row", "line", "state", "id", "task"):
        for level in ("3", "p3"):
            with pytest.raises(UsageError):
                decide(scores, [Rule(Threshold.parse(f"{column}={level}", "below"))])
    assert failing(decide(scores, [Rule(Threshold.parse("n_images=2", "below"))])) == [0]


def test_what_a_threshold_compares() -> None:
    scores = table(m=[1.0, None])
    (compared,) = Threshold.parse("m=2", "above").settle(scores).compared
    assert (compared.column, compared.side) == ("m", "above")
    assert compared.threshold is not None
    told = scores.collect("row", compared.value.alias("value"), compared.threshold.alias("threshold"))
    assert told["value"].to_list() == [1.0, None]
    assert told["threshold"].to_list() == [2.0, 2.0]


# ---------------------------------------------------------------- issues

ISSUES: list[Issue] = [
    (0, "empty_turn", "error"),
    (1, "empty_turn", "warning"),
    (1, "small_image", "note"),
    (1, "small_image", "note"),
    (3, "odd", "error"),
]


@pytest.mark.parametrize(
    ("condition", "rows", "said", "named"),
    [
        (HasIssue(("empty_turn",)), [0, 1], "issue empty_turn", ["empty_turn", "empty_turn"]),
        (HasIssue.parse("error"), [0, 3], "issue error", ["empty_turn", "odd"]),
        (HasIssue.parse("note"), [1], "issue note", ["small_image"]),
        (HasIssue.parse("odd"), [3], "issue odd", ["odd"]),
        (HasIssue("error"), [0, 3], "issue error", ["empty_turn", "odd"]),  # type: ignore[arg-type]
        (HasIssue(severity="note"), [1], "issue note", ["small_image"]),
        (HasIssue(("empty_turn",), "error"), [0], "issue empty_turn of severity error", ["empty_turn"]),
        (
            HasIssue(("small_image", "empty_turn", "odd")),
            [0, 1, 3],
            "issue small_image or empty_turn or odd",
            ["empty_turn", "empty_turn, small_image", "odd"],
        ),
        (HasIssue(("rare_task",)), [], "issue rare_task", []),
    ],
)
def test_issues(condition: HasIssue, rows: list[int], said: str, named: list[str]) -> None:
    scores = table(ISSUES, m=[1.0] * 4)
    settled = condition.settle(scores)
    assert settled.words == said
    assert holds(condition, scores) == [i in rows for i in range(4)]
    (compared,) = settled.compared
    assert (compared.column, compared.threshold) == ("issues", None)
    told = scores.collect("row", compared.value.alias("v"))["v"].to_list()
    assert [text for text in told if text is not None] == named
    assert [i for i, text in enumerate(told) if text is not None] == rows


def test_a_severity_is_known_wherever_a_kind_is() -> None:
    scores = table(ISSUES, m=[1.0] * 4)
    for severity in ("error", "warning", "note"):
        expected = holds(HasIssue(severity=severity), scores)
        assert holds(Where(f'"{severity}" in issues'), scores) == expected
        assert holds(HasIssue((severity,)), scores) == expected
    assert holds(HasIssue(("error", "small_image")), scores) == [True, True, False, True]


def test_unknown_issues_are_refused() -> None:
    scores = table(ISSUES, m=[1.0])
    with pytest.raises(
        UnknownName, match="kind of issue is called 'missing_imag'; did you mean missing_image"
    ):
        holds(HasIssue(("missing_imag",)), scores)
    with pytest.raises(UnknownName, match="did you mean error"):
        holds(HasIssue.parse("errror"), scores)
    with pytest.raises(UnknownName, match="severity of issues is called 'grave'"):
        holds(HasIssue(severity="grave"), scores)
    with pytest.raises(UsageError, match="an issue needs a kind"):
        holds(HasIssue(), scores)


# ---------------------------------------------------------------- what is no condition


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: Threshold("m", "beneath", Level("at", 1)), "side='beneath': expected below or above"),  # type: ignore[arg-type]
        (lambda: Threshold("m", "below", 1), "level=1: expected vlitqc.Level"),  # type: ignore[arg-type]
        (lambda: Threshold("m", "below", Level("at", 1), by=""), "'' is no name of a column"),
        (lambda: Threshold(5, "below", Level("at", 1)), "5 is no name of a column"),  # type: ignore[arg-type]
        (lambda: Level("p", 101), "'p101' is no level"),
        (lambda: Level("p", 5, "-"), "'p-5' is no level"),
        (lambda: Level("z", -1), "'z-1' is no level"),
        (lambda: Level("at", float("nan")), "'nan' is no level"),
        (lambda: Level("at", 10**5000), "'nan' is no level"),
        (lambda: Level("at", "3"), "'nan' is no level"),  # type: ignore[arg-type]
        (lambda: Level("q", 3), "'q3' is no level"),  # type: ignore[arg-type]
        (lambda: HasIssue((5,)), "5 is no name of a column or an issue"),  # type: ignore[arg-type]
        (lambda: Where(5), "5 is no name .*, and no expression"),  # type: ignore[arg-type]
        (lambda: And(("m > 1",)), "'and': 'm > 1' is no condition"),  # type: ignore[arg-type]
        (lambda: Or("m > 1"), "'or': 'm > 1' is no condition"),  # type: ignore[arg-type]
        (lambda: Not("m > 1"), "'not': 'm > 1' is no condition"),  # type: ignore[arg-type]
        (lambda: Rule("m > 1"), "rules: 'm > 1' is no condition"),  # type: ignore[arg-type]
        (lambda: Rule(Where("m > 1"), "skip"), "way with missing scores is called 'skip'"),  # type: ignore[arg-type]
    ],
)
def test_what_is_no_rule_is_refused_when_it_is_made(make: Callable[[], object], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        make()


def test_numbers_may_be_numpys() -> None:
    assert Level("at", np.float32(2.5)) == Level("at", 2.5)  # type: ignore[arg-type]
    assert Level("p", np.int64(5)) == Level.parse("p5")
    assert type(Level("at", 3).number) is float


def test_nesting_has_an_end() -> None:
    scores = table(m=[1.0, 3.0])
    deep: Not | Where | Or = Where("m > 2")
    for _ in range(98):
        deep = ~deep
    assert holds(deep, scores) == [False, True]
    assert failing(decide(scores, [Rule(~deep | Where("m < 2"))])) == [0]
    with pytest.raises(UsageError, match="more than 100 conditions stand within one another"):
        for _ in range(3):
            deep = ~deep


# ---------------------------------------------------------------- and, or, not


def test_conditions_are_joined_with_three_truth_values() -> None:
    truths = [True, False, None]
    scores = table(a=[a for a in truths for _ in truths], b=truths * 3)
    a, b = Where("a"), Where("b")
    t, f, u = True, False, None
    assert holds(And((a, b)), scores) == [t, f, u, f, f, f, u, f, u]
    assert holds(Or((a, b)), scores) == [t, t, t, t, f, u, t, u, u]
    assert holds(Not(a), scores) == [f, f, f, t, t, t, u, u, u]
    assert holds(Where("a and b"), scores) == holds(And((a, b)), scores)
    assert holds(Where("a or b"), scores) == holds(Or((a, b)), scores)
    assert words(Or((And((a, b)), Not(a))), scores) == "((a) and (b)) or (not (a))"
    assert words(And((a,)), scores) == "a"
    assert [c.column for c in Or((And((a, b)), Not(a))).settle(scores).compared] == ["a", "b", "a"]


def test_what_is_negated_is_true_on_the_other_side() -> None:
    scores = table(m=[1.0])
    assert [c.side for c in Not(Threshold.parse("m=2", "below")).settle(scores).compared] == ["above"]
    assert [c.side for c in Not(Where("m >= 2")).settle(scores).compared] == ["below"]


def test_nothing_to_join_is_refused() -> None:
    for joining, word in ((And, "and"), (Or, "or")):
        with pytest.raises(UsageError, match=f"'{word}' needs at least one condition"):
            joining(())


def test_a_where_that_cannot_be_read_is_refused_at_once() -> None:
    with pytest.raises(UsageError, match="I cannot read"):
        Where("m.x > 1")


def test_everything_that_is_asked_is_told_beforehand() -> None:
    p5, z = Level("p", 5.0), Level("z", 2.0, "-")
    condition = Not(
        Or((And((Threshold("m", "below", Level("z", 2.0), "task"), HasIssue(("odd",)))), Where("n < p5")))
    )
    assert list(condition.asks()) == [Asked("m", z, "task"), Asked("n", p5)]
    assert list(Where("n < p5 and m > 3", "task").asks()) == [Asked("n", p5, "task")]


# ---------------------------------------------------------------- decisions


def test_every_rule_has_its_bit() -> None:
    scores = table([(2, "odd", "error")], m=[1.0, 2.0, 3.0, None], n=[5.0, None, 5.0, 5.0])
    rules = [
        Rule(Threshold.parse("m=2.5", "below")),
        Rule(HasIssue(("odd",))),
        Rule(Threshold.parse("n=6", "below")),
    ]
    decided = decide(scores, rules)
    assert decided.failed.dtype == np.uint64
    assert decided.failed.tolist() == [0b101, 0b001, 0b110, 0b100]
    assert [failing(decided, k) for k in range(3)] == [[0, 1], [2], [0, 2, 3]]
    assert decided.by_rule == {"m < 2.5": 2, "issue odd": 1, "n < 6": 3}
    assert decided.unknown == (1, 0, 1)
    patterns, counts = decided.patterns
    assert dict(zip(patterns.tolist(), counts.tolist(), strict=True)) == {1: 1, 4: 1, 5: 1, 6: 1}


def test_an_unreadable_record_fails_no_rule() -> None:
    scores = table(
        [(0, "empty_turn", "error"), (1, "odd", "note")],
        m=[0.0, 0.0, 9.0, None],
        state=["unreadable", "scored", "scored", "unreadable"],
    )
    rules = [
        Rule(Threshold.parse("m=5", "below"), "drop"),
        Rule(HasIssue.parse("error")),
        Rule(HasIssue(("odd",))),
    ]
    decided = decide(scores, [*rules, Rule(Where("m is missing"), "error")])
    assert decided.failed.tolist() == [0, 0b101, 0, 0]
    assert decided.unreadable.tolist() == [True, False, False, True]
    assert decided.unknown == (0, 0, 0, 0)
    assert decided.patterns[1].tolist() == [1, 1]


@pytest.mark.parametrize(("missing", "rows"), [("keep", [0]), ("drop", [0, 2, 3])])
def test_what_a_missing_score_means(missing: Missing, rows: list[int]) -> None:
    scores = table(m=[1.0, 5.0, None, float("nan")])
    decided = decide(scores, [Rule(Threshold.parse("m=2", "below"), missing)])
    assert failing(decided) == rows
    assert decided.unknown == (2,)
    assert list(decided.by_rule) == ["m < 2 or missing" if missing == "drop" else "m < 2"]


def test_a_missing_score_can_be_an_error() -> None:
    scores = table(m=[1.0, *[None] * 4], n=[1.0] * 5)
    with pytest.raises(
        UsageError,
        match=r"the rule 'm < 2' cannot be told for 4 of the readable records.*: 'r1', 'r2', 'r3', …; say keep",
    ):
        decide(scores, [Rule(Where("n > 3"), "error"), Rule(Threshold.parse("m=2", "below"), "error")])
    with pytest.raises(UsageError, match=r"for 4 of"):
        decide(scores, [Rule(Threshold.parse("m=p10", "below"), "error")])
    # What another part decides is not missing.
    assert failing(decide(scores, [Rule(Where("m > 2 or n > 0"), "error")])) == [0, 1, 2, 3, 4]


def test_a_metric_without_any_score_drops_nothing_and_says_so() -> None:
    scores = table(m=pl.Series([None, None], dtype=pl.Float64))
    decided = decide(scores, [Rule(Threshold.parse("m=p50", "below"))])
    assert decided.by_rule == {"m < p50 (no record has a score)": 0}
    assert decided.unknown == (2,)


def test_rules_of_equal_words_are_told_apart() -> None:
    scores = table(m=[1.0, 2.0000001])
    rules = [Rule(Threshold.parse(f"m={level}", "below")) for level in ("2", "2.0000002", "2")]
    decided = decide(scores, rules)
    assert decided.by_rule == {"m < 2": 1, "m < 2 (rule 2)": 2, "m < 2 (rule 3)": 1}
    assert len(decided.rules) == 3


def test_up_to_sixty_four_rules() -> None:
    scores = table(m=[0.0, 63.0, 64.0])
    rules = [Rule(Threshold.parse(f"m={i}", "above")) for i in range(MAX_RULES)]
    decided = decide(scores, rules)
    assert decided.failed.tolist() == [0, 2**63 - 1, 2**64 - 1]
    assert [decided.by_rule[f"m > {i}"] for i in (0, 62, 63)] == [2, 2, 1]
    with pytest.raises(UsageError, match="there are 65 rules, and at most 64"):
        decide(scores, [*rules, rules[0]])


def test_no_rule_and_no_record() -> None:
    assert decide(table(m=[1.0, 2.0]), []).failed.tolist() == [0, 0]
    empty = table(m=pl.Series([], dtype=pl.Float64), task=pl.Series([], dtype=pl.String))
    rules = [
        Rule(Threshold.parse("m=p5,by=task", "below")),
        Rule(HasIssue.parse("error")),
        Rule(Where("m < mad-3")),
    ]
    decided = decide(empty, rules)
    assert (len(decided.failed), list(decided.by_rule.values()), decided.unknown) == (0, [0, 0, 0], (0, 0, 0))


def test_recommended_floors() -> None:
    scored = {"floor": 0.1234567890123, "n_scored": 3}
    rules = floors({"a": scored, "b": scored | {"floor": None}, "c": scored | {"n_scored": 0}})
    assert [rule.drop for rule in rules] == [Threshold("a", "below", Level("at", 0.1234567890123))]
    assert [rule.missing for rule in rules] == ["keep"]
    assert failing(decide(table(a=[0.1234567890122, 0.1234567890123]), rules)) == [0]
    with pytest.raises(UsageError, match="recommends no floor"):
        floors({"b": scored | {"floor": None}})


@pytest.mark.parametrize("name", ["*", "^m.*$"])
def test_a_column_that_reads_as_a_pattern_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "scores").mkdir()
    scores = pl.DataFrame({"row": [0], "n_media": [0]}).with_columns(pl.lit(1.0).alias(name))
    scores.write_parquet(tmp_path / "scores" / "part-00000.parquet")
    pl.DataFrame(schema={"row": pl.Int64, "kind": pl.String, "severity": pl.String}).write_parquet(
        tmp_path / "issues.parquet"
    )
    with pytest.raises(RunError, match="reads as a pattern of columns"):
        ScoreTable.of(vlitqc.Run(tmp_path))


def test_the_scores_of_a_run(make_data: Any, tiny: str, record: Any, tmp_path: Path) -> None:
    # A folder whose name a pattern of files would misread.
    make_data(6)
    lines = [*(record(i, f"{i}.png") for i in range(6)), record(9), b'{"id": "odd"}']
    run = vlitqc.score(make_data(lines=lines), tiny, out=tmp_path / "a[b]*", report=False)
    scores = ScoreTable.of(run)
    rules = [
        Rule(Where("text_only")),
        Rule(HasIssue.parse("error")),
        Rule(Where("image_readability < p50"), "drop"),
    ]
    decided = decide(scores, rules)
    assert decided.unreadable.tolist() == [False] * 7 + [True]
    assert failing(decided, 0) == [6]
    assert failing(decided, 1) == []
    values = run.scores["image_readability"].to_numpy(dtype=float)
    expected = np.flatnonzero(values[:6] < np.percentile(values[:6], 50)).tolist()
    assert failing(decided, 2) == [*expected, 6]
    assert json.dumps(decided.by_rule)


# ---------------------------------------------------------------- properties

A_SCORE = st.none() | st.floats(-5, 5).map(lambda x: round(x, 1))
LADDERS: dict[str, tuple[Side, list[str]]] = {
    "percentile, from below": ("below", ["p0", "p10", "p20", "p50", "p100"]),
    "percentile, from above": ("above", ["p100", "p90", "p50", "p10"]),
    "number": ("below", ["-1", "0", "3", "4"]),
    "number, from above": ("above", ["4", "3", "0", "-1"]),
    "mad": ("below", ["mad4", "mad3", "mad2", "mad0.5"]),
    "mad, from above": ("above", ["mad4", "mad3", "mad2", "mad0.5"]),
    "deviation": ("above", ["z3", "z2", "z1", "z0"]),
    "deviation, from below": ("below", ["z3", "z2", "z1", "z0"]),
}


@given(
    st.lists(st.tuples(A_SCORE, st.sampled_from(["a", "b", None])), min_size=1, max_size=90),
    st.sampled_from(list(LADDERS)),
    st.sampled_from([None, "task"]),
    st.sampled_from(["keep", "drop"]),
)
@settings(max_examples=100, deadline=None)
def test_tightening_a_level_never_keeps_more(
    records: list[tuple[float | None, str | None]], ladder: str, by: str | None, missing: Missing
) -> None:
    scores = table(
        m=pl.Series([m for m, _ in records], dtype=pl.Float64),
        task=pl.Series([task for _, task in records], dtype=pl.String),
    )
    side, steps = LADDERS[ladder]
    decided = decide(scores, [Rule(Threshold("m", side, Level.parse(step), by), missing) for step in steps])
    failed = [set(failing(decided, k)) for k in range(len(steps))]
    assert all(looser <= tighter for looser, tighter in pairwise(failed))


CONDITIONS: st.SearchStrategy[Condition] = st.recursive(
    st.sampled_from(
        [
            Threshold.parse("m=0", "below"),
            Threshold.parse("n=p40", "above"),
            Threshold.parse("n=mad1,by=task", "below"),
            HasIssue(("odd",)),
            Where("m < n"),
            Where("m > p30 or task == 'a'", "task"),
        ]
    ),
    lambda inner: (
        st.lists(inner, min_size=1, max_size=3).map(lambda c: And(tuple(c)))
        | st.lists(inner, min_size=1, max_size=3).map(lambda c: Or(tuple(c)))
        | inner.map(Not)
    ),
    max_leaves=5,
)


@given(
    st.lists(
        st.tuples(A_SCORE, A_SCORE, st.sampled_from(["a", "b", None]), st.booleans()), min_size=1, max_size=30
    ),
    st.lists(st.tuples(CONDITIONS, st.sampled_from(["keep", "drop"])), max_size=5),
)
@settings(max_examples=100, deadline=None)
def test_decisions_are_what_each_condition_says_alone(
    records: list[tuple[Any, ...]], asked: list[tuple[Condition, Missing]]
) -> None:
    scores = table(
        [(0, "odd", "note")],
        m=pl.Series([r[0] for r in records], dtype=pl.Float64),
        n=pl.Series([r[1] for r in records], dtype=pl.Float64),
        task=pl.Series([r[2] for r in records], dtype=pl.String),
        state=["unreadable" if r[3] else "scored" for r in records],
    )
    decided = decide(scores, [Rule(condition, missing) for condition, missing in asked])
    for k, (condition, missing) in enumerate(asked):
        alone = holds(condition, ScoreTable(scores.scores, scores.issues))
        readable = [(held, not r[3]) for held, r in zip(alone, records, strict=True)]
        told = [ok and (held is True or (held is None and missing == "drop")) for held, ok in readable]
        assert decided.fails(k).tolist() == told
        assert decided.unknown[k] == sum(ok and held is None for held, ok in readable)
        # Kleene: a condition and its negation are never both true, and unknown together.
        opposite = holds(Not(condition), scores)
        assert opposite == [None if held is None else not held for held in alone]
    assert sum(decided.patterns[1].tolist()) == sum(not r[3] for r in records)
