"""What a filter would do: counts by hand and by brute force, and what moves where nothing, or chance, is behind it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from vlitqc.engine.run import Run, score
from vlitqc.engine.subset import summaries
from vlitqc.filtering.conditions import HasIssue, Not, Threshold, Where
from vlitqc.filtering.decisions import Decided, decide
from vlitqc.filtering.effect import BLOCK, CLOSEST, MOST_GROUPS, Effect, _together, effect
from vlitqc.filtering.rules import Condition, Rule
from vlitqc.filtering.selection import random_control
from vlitqc.filtering.table import ScoreTable


def table_of(**columns: Any) -> ScoreTable:
    n = len(next(iter(columns.values())))
    frame = {"row": range(n), "id": [f"r{i}" for i in range(n)], "state": ["scored"] * n, **columns}
    issues = pl.DataFrame(schema={"row": pl.Int64, "kind": pl.String, "severity": pl.String})
    return ScoreTable(pl.DataFrame(frame).lazy(), issues)


def below(text: str, **more: Any) -> Rule:
    return Rule(Threshold.parse(text, "below"), **more)


def above(text: str) -> Rule:
    return Rule(Threshold.parse(text, "above"))


def effect_on(
    table: ScoreTable, rules: Sequence[Rule], kept: Sequence[bool] | None = None
) -> tuple[Effect, Decided]:
    """The effect of a run that is not asked for its metrics."""
    decided = decide(table, rules)
    stays = (decided.failed == 0) & ~decided.unreadable if kept is None else np.array(kept)
    run = Run(Path("nowhere"))
    return effect(run, table, decided, stays, seed=0, rules=rules, principles=False), decided


# ---------------------------------------------------------------- rules and their overlaps


def test_rules_are_counted_by_hand() -> None:
    table = table_of(
        a=[1.0, 2.0, 3.0, None, 5.0, 0.0],
        b=[9.0, 1.0, None, 1.0, 8.0, 0.0],
        state=["scored"] * 5 + ["unreadable"],
    )
    rules = [below("a=2.5", because="low a"), below("b=2"), below("a=1.5")]
    found, _ = effect_on(table, rules)
    # Fails: record 0 the first and third, 1 the first and second, 3 the second.
    told = [(r.because, r.n, r.only, r.share, r.unknown) for r in found.rules]
    assert told == [("low a", 2, 0, 2 / 5, 1), ("", 2, 1, 2 / 5, 1), ("", 1, 0, 1 / 5, 1)]
    assert found.overlaps == ((2, 1, 1), (1, 2, 0), (1, 0, 1))
    assert (found.readable, found.kept, found.dropped, found.unreadable) == (5, 2, 3, 1)
    assert found.not_selected == 0
    assert [r.words for r in found.rules] == ["a < 2.5", "b < 2", "a < 1.5"]


def test_what_a_selection_left_out_fails_no_rule() -> None:
    table = table_of(a=[0.0, 1.0, 2.0, 3.0])
    found, _ = effect_on(table, [below("a=1")], kept=[False, False, False, True])
    assert (found.kept, found.dropped, found.not_selected) == (1, 3, 2)


def test_a_record_that_is_kept_in_spite_of_a_rule_counts_as_kept() -> None:
    found, _ = effect_on(table_of(a=[0.0, 1.0]), [below("a=1")], kept=[True, True])
    assert (found.kept, found.dropped, found.rules[0].n) == (2, 0, 1)


def test_without_a_rule_there_are_groups_all_the_same() -> None:
    table = table_of(task=["a", "b", "a"])
    decided = Decided((), np.zeros(3, np.uint64), (), np.zeros(3, np.bool_))
    kept = np.array([True, False, False])
    found = effect(Run(Path("nowhere")), table, decided, kept, seed=0, principles=False)
    assert (found.rules, found.overlaps, found.closest) == ((), (), ())
    assert [(g.name, g.n, g.kept) for g in found.groups[0].largest] == [("a", 2, 1), ("b", 1, 0)]


def test_without_a_readable_record_nothing_is_divided_by_zero() -> None:
    found, _ = effect_on(table_of(a=[1.0, 2.0], task=["x", "y"], state=["unreadable"] * 2), [below("a=3")])
    assert (found.rules[0].n, found.rules[0].share) == (0, 0.0)
    assert found.groups[0].largest == ()
    assert found.closest[0].below == found.closest[0].above == ()
    json.dumps(found.as_json(), allow_nan=False)


@given(st.integers(0, 2**32 - 1), st.integers(1, 64))
@settings(max_examples=30, deadline=None)
def test_overlaps_are_those_of_counting_pairs(seed: int, n_rules: int) -> None:
    rng = np.random.default_rng(seed)
    fails = rng.random((200, n_rules)) < 0.1
    bits = (fails.astype(np.uint64) << np.arange(n_rules, dtype=np.uint64)).sum(axis=1, dtype=np.uint64)
    decided = Decided((), bits, (), np.zeros(200, np.bool_))
    together, alone = _together(*decided.patterns, n_rules)
    assert together.tolist() == [
        [int((fails[:, i] & fails[:, j]).sum()) for j in range(n_rules)] for i in range(n_rules)
    ]
    assert alone.tolist() == [int((fails[:, i] & (fails.sum(axis=1) == 1)).sum()) for i in range(n_rules)]


def test_more_patterns_than_a_block_holds() -> None:
    patterns = np.arange(BLOCK + 3, dtype=np.uint64)
    together, alone = _together(patterns, np.full(len(patterns), 2, np.int64), 17)
    assert together[0, 0] == 2 * sum(1 for i in range(BLOCK + 3) if i & 1)
    assert together[16].tolist() == [2, 2, *[0] * 14, 6]
    assert alone.tolist() == [2] * 17


# ---------------------------------------------------------------- groups


def test_groups_are_counted_largest_first_and_null_is_one() -> None:
    table = table_of(
        a=[0.0, 1, 1, 1, 0, 0],
        task=["x", None, "y", "y", None, "z"],
        source=["s"] * 6,
        state=["scored"] * 5 + ["unreadable"],
    )
    found, _ = effect_on(table, [below("a=1")])
    tasks, sources = found.groups
    assert (tasks.column, sources.column) == ("task", "source")
    assert [(g.name, g.n, g.kept, g.share) for g in tasks.largest] == [
        ("y", 2, 2, 1.0),
        (None, 2, 1, 0.5),
        ("x", 1, 0, 0.0),
    ]
    assert [(g.name, g.n, g.kept) for g in sources.largest] == [("s", 5, 3)]
    assert tasks.rest is sources.rest is None


def test_beyond_the_largest_groups_the_others_are_summed() -> None:
    names = [f"t{i:02}" for i in range(MOST_GROUPS + 3) for _ in range(2 if i < MOST_GROUPS else 1)]
    found, _ = effect_on(table_of(task=names, a=[float(i % 2) for i in range(len(names))]), [below("a=1")])
    (tasks,) = found.groups
    assert [g.name for g in tasks.largest] == [f"t{i:02}" for i in range(MOST_GROUPS)]
    assert tasks.n_rest == 3
    assert tasks.rest is not None
    assert (tasks.rest.name, tasks.rest.n, tasks.rest.kept, tasks.rest.share) == (None, 3, 1, 1 / 3)
    assert sum(g.n for g in tasks.largest) + tasks.rest.n == len(names)


# ---------------------------------------------------------------- the closest calls


def rows(found: Effect, i: int = 0) -> tuple[list[int], list[int]]:
    near = found.closest[i]
    return [call.row for call in near.below], [call.row for call in near.above]


def test_the_closest_by_hand() -> None:
    table = table_of(
        a=[1.0, 9.0, 4.9, 5.0, None, 5.5, 5.25, 4.0, 6.0, 5.1], state=["scored"] * 9 + ["unreadable"]
    )
    found, _ = effect_on(table, [below("a=5")])
    # 5 itself is not below 5; the record of 5.1 cannot be read.
    assert rows(found) == ([2, 7, 0], [3, 6, 5])
    call = found.closest[0].below[0]
    assert (call.id, call.value, call.threshold) == ("r2", 4.9, 5.0)
    assert call.distance == pytest.approx(0.1)
    assert (found.closest[0].words, found.closest[0].column, found.closest[0].side) == ("a < 5", "a", "below")


def test_a_value_on_the_threshold_is_at_or_above_it() -> None:
    table = table_of(a=[4.0, 5.0, 6.0])
    for condition in (Where("a < 5"), Where("a <= 5"), Where("a > 5"), Not(Where("a > 5"))):
        assert rows(effect_on(table, [Rule(condition)])[0]) == ([0], [1, 2])


def test_equally_near_records_come_in_the_order_of_the_input() -> None:
    n = 250_000  # more than two batches
    values = np.full(n, 3.0)
    values[[7, n - 1]] = 1.0
    found, _ = effect_on(table_of(a=values), [below("a=2")])
    assert rows(found) == ([7, n - 1], [0, 1, 2])


def test_a_nearer_record_in_a_later_batch_is_found() -> None:
    values = np.concatenate([np.full(150_000, 9.0), [2.5, 1.9, 2.1]])
    found, _ = effect_on(table_of(a=values), [below("a=2")])
    assert rows(found) == ([150_001], [150_002, 150_000, 0])


def test_thresholds_may_differ_between_records() -> None:
    a = [float(i) for i in range(20)] + [1000.0 + i for i in range(20)]
    table = table_of(a=a, task=["x"] * 20 + ["y"] * 20)
    found, _ = effect_on(table, [Rule(Threshold.parse("a=p50", "below", "task"))])
    # The medians are 9.5 and 1009.5.
    assert rows(found) == ([9, 29, 8], [10, 30, 11])
    assert {call.threshold for call in found.closest[0].below} == {9.5, 1009.5}


def test_no_record_is_near_a_level_without_a_spread() -> None:
    found, _ = effect_on(table_of(a=[1.0] * 30), [below("a=z2")])
    assert rows(found) == ([], [])
    json.dumps(found.as_json(), allow_nan=False)


def test_issues_and_texts_have_no_closest_calls() -> None:
    table = table_of(a=[1.0, 2.0], task=["x", "y"])
    rules: list[Condition] = [HasIssue.parse("error"), Where('task == "x"'), Where("a > 1 and a < 3")]
    found, _ = effect_on(table, list(map(Rule, rules)))
    assert {(c.column, c.words) for c in found.closest} == {("a", found.rules[2].words)}
    assert len(found.closest) == 2


values = st.lists(
    st.one_of(st.none(), st.floats(-3, 3), st.sampled_from([0.0, 1.0, -1.0])), min_size=1, max_size=30
)


@given(values, st.sampled_from([0.0, 1.0, -0.5]), st.sampled_from(["below", "above"]))
@settings(max_examples=60, deadline=None)
def test_the_closest_are_those_of_sorting_everything(
    a: list[float | None], threshold: float, side: Any
) -> None:
    table = table_of(a=pl.Series(a, dtype=pl.Float64))
    found, _ = effect_on(table, [Rule(Threshold.parse(f"a={threshold}", side))])
    lower: list[tuple[float, int]] = []
    upper: list[tuple[float, int]] = []
    for row, value in enumerate(a):
        if value is not None:
            (lower if value < threshold else upper).append((abs(value - threshold), row))
    assert rows(found) == tuple([row for _, row in sorted(half)[:CLOSEST]] for half in (lower, upper))


# ---------------------------------------------------------------- how the principles move


@pytest.fixture
def scored(
    make_data: Callable[..., Path], record: Callable[..., dict[str, Any]], tiny: str
) -> tuple[Run, ScoreTable]:
    """Forty records, every fourth of them text-only, each picture of a quality of its own."""
    make_data(40)
    lines: list[Any] = [record(i, None if i % 4 == 0 else f"{i}.png") for i in range(40)]
    run = score(make_data(lines=[*lines, b"{"]), tiny, report=False)
    return run, ScoreTable.of(run)


def kept_by(decided: Decided) -> NDArray[np.bool_]:
    kept: NDArray[np.bool_] = (decided.failed == 0) & ~decided.unreadable
    return kept


def test_metrics_are_those_of_the_kept_and_of_a_random_draw(scored: tuple[Run, ScoreTable]) -> None:
    run, table = scored
    rules = [below("image_readability=p60")]
    decided = decide(table, rules)
    kept = kept_by(decided)
    found = effect(run, table, decided, kept, seed=4, rules=rules)
    assert found.note is None
    assert [m.name for m in found.principles] == list(run.metrics())
    expected = {
        "input": run.metrics(),
        "kept": summaries(run, kept),
        "random": summaries(run, random_control(~decided.unreadable, int(kept.sum()), seed=4)),
    }
    for moved in found.principles:
        for which, sections in expected.items():
            value, section = getattr(moved, which), sections[moved.name]
            assert (value.value, value.n_scored, value.reason) == tuple(
                section[key] for key in ("value", "n_scored", "reason")
            )
            assert value.interval == (tuple(section["interval"]) if section["interval"] else None)
    quality, make_up, judged = found.principles[0], found.principles[-1], found.principles[1]
    assert (quality.name, make_up.name, judged.name) == ("image_readability", "composition", "correctness")
    # To drop the worse pictures moves their mean beyond what chance does; nobody judged correctness.
    assert quality.beyond is True
    assert judged.beyond is None
    assert judged.kept.reason
    assert make_up.beyond is None
    assert json.loads(json.dumps(found.as_json(), allow_nan=False))["principles"][0]["beyond"] is True


def test_the_draw_has_a_seed(scored: tuple[Run, ScoreTable]) -> None:
    run, table = scored
    decided = decide(table, [below("image_readability=p60")])
    one, same, other = (
        effect(run, table, decided, kept_by(decided), seed=seed).principles[0].random for seed in (1, 1, 2)
    )
    assert one == same != other


def test_where_nothing_is_dropped_nothing_is_computed(
    scored: tuple[Run, ScoreTable], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, table = scored

    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError

    monkeypatch.setattr("vlitqc.filtering.effect.summaries", never)
    decided = decide(table, [below("image_readability=-9")])
    found = effect(run, table, decided, kept_by(decided), seed=0)
    assert (found.principles, found.note) == ((), "nothing is dropped, so nothing moves")
    found = effect(run, table, decided, np.zeros(41, np.bool_), seed=0)
    assert (found.principles, found.note) == ((), "nothing is kept")
    found = effect(run, table, decided, np.zeros(41, np.bool_), seed=0, principles=False)
    assert (found.principles, found.note) == ((), "not asked for")


def test_above_the_limit_data_set_metrics_say_so(scored: tuple[Run, ScoreTable]) -> None:
    run, table = scored
    decided = decide(table, [below("image_readability=p60")])
    found = effect(run, table, decided, kept_by(decided), seed=0, limit=2)
    make_up = found.principles[-1]
    assert make_up.input.value is not None
    assert make_up.kept.reason == make_up.random.reason == "not resolved for 22 records: at most 2"
    assert found.principles[0].kept.value is not None


def test_an_effect_is_of_plain_values(scored: tuple[Run, ScoreTable]) -> None:
    run, table = scored
    rules = [below("image_readability=p60"), Rule(Where("n_turns < 1 or text_only"))]
    decided = decide(table, rules)
    told = effect(run, table, decided, kept_by(decided), seed=0, rules=rules).as_json()

    def plain(value: Any) -> bool:
        if isinstance(value, dict):
            return all(type(k) is str and plain(v) for k, v in value.items())
        if isinstance(value, list | tuple):
            return all(map(plain, value))
        return (
            value is None
            or type(value) in (str, int, bool)
            or (type(value) is float and math.isfinite(value))
        )

    assert plain(told)
    assert {"task", "source"} & {groups["column"] for groups in told["groups"]} == {"source"}
