"""What a filter, an explanation and gates look like, at several widths and with data that means ill."""

from __future__ import annotations

import io
import re
import unicodedata
from typing import Any

import pytest
from rich.console import Console, RenderableType

from vlitqc import console

HOSTILE = "\x1b[31mred\x9b2J\u202egnp.\n[bold]:bomb:[/]\\"
WIDTHS = (60, 80, 100, 160)


def shown(part: RenderableType, width: int = 100) -> str:
    out = io.StringIO()
    Console(file=out, width=width, highlight=False, emoji=False).print(part)
    return out.getvalue()


def rule(words: str, n: int, *, only: int = 0, unknown: int = 0, because: str = "") -> dict[str, Any]:
    return {"words": words, "because": because, "n": n, "only": only, "share": n / 200, "unknown": unknown}


def group(name: str | None, n: int, kept: int) -> dict[str, Any]:
    return {"name": name, "n": n, "kept": kept, "share": kept / n}


def value(at: float | None, interval: tuple[float, float] | None = None, reason: str | None = None) -> Any:
    return {"value": at, "interval": interval, "n_scored": 9, "reason": reason}


def metric(
    name: str, kept: Any, random: Any, beyond: bool | None, better: bool | None = True
) -> dict[str, Any]:
    return {
        "name": name,
        "input": value(1.0, (0.5, 1.5)),
        "kept": kept,
        "random": random,
        "beyond": beyond,
        "higher_is_better": better,
    }


def call(at: float, threshold: float = 5.0, name: str = "r") -> dict[str, Any]:
    return {"row": 1, "id": name, "value": at, "threshold": threshold, "distance": abs(at - threshold)}


def page(**effect: Any) -> dict[str, Any]:
    nothing: dict[str, Any] = {
        "rules": [],
        "overlaps": [],
        "groups": [],
        "principles": [],
        "drawn_from": "the input",
        "note": None,
        "closest": [],
    }
    nothing |= {"not_selected": 0}
    return {
        "counts": {"kept": 150, "dropped": 50, "unreadable": 0},
        "by_rule": {},
        "names": {},
        "notes": [],
        "limit": None,
        "effect": nothing | effect,
        "comparison": None,
        "written": {},
        "not_copied": 0,
    }


def line(text: str, start: str) -> list[str]:
    """The words of the first line that begins so, in runs of what is not two spaces apart."""
    found = next(one for one in text.splitlines() if one.strip().startswith(start))
    return re.split(r"\s{2,}", found.strip())


def test_rules_have_their_counts_and_those_that_nothing_fails_are_in_a_line() -> None:
    rules = [rule("a < 1", 20, only=15, unknown=3), rule("never", 0), rule("b > 2", 8, only=3)]
    text = shown(console.filtered(page(rules=rules, overlaps=[[20, 0, 5], [0, 0, 0], [5, 0, 8]])))
    assert line(text, "# ") == ["#", "rule", "records", "%", "only this rule", "no score"]
    assert line(text, "1 ") == ["1", "a < 1", "20", "10.0%", "15", "3"]
    assert line(text, "2 ") == ["2", "b > 2", "8", "4.0%", "3", "0"]
    assert "no record fails: never" in text
    assert line(text, "records that fail both") == ["records that fail both", "#1"]
    assert line(text, "#2") == ["#2", "5"]


def test_rules_without_overlap_have_no_numbers_and_no_triangle() -> None:
    text = shown(console.filtered(page(rules=[rule("a", 2), rule("b", 1)], overlaps=[[2, 0], [0, 1]])))
    assert line(text, "rule") == ["rule", "records", "%", "only this rule"]
    assert "fail both" not in text


def test_many_overlaps_are_the_largest_pairs() -> None:
    rules = [rule(f"rule {i}", 50 + i) for i in range(9)]
    overlaps = [[50 + i if i == j else 10 * min(i, j) + max(i, j) for j in range(9)] for i in range(9)]
    text = shown(console.filtered(page(rules=rules, overlaps=overlaps)))
    assert line(text, "records that fail both") == ["records that fail both", "n"]
    assert line(text, "rule 7 and rule 8") == ["rule 7 and rule 8", "78"]
    assert text.count(" and rule ") == 8
    assert "rule 0 and" not in text


def test_groups_have_bars_and_a_rest() -> None:
    largest = [group("ocr", 100, 50), group(None, 50, 50), group("chat", 40, 0)]
    groups = {"column": "task", "largest": largest, "n_rest": 12, "rest": group(None, 10, 9)}
    text = shown(console.filtered(page(groups=[groups])))
    assert line(text, "task") == ["task", "n", "kept", "% kept"]
    assert line(text, "ocr") == ["ocr", "100", "50", "50.0%", "█" * 10 + "░" * 10]
    assert line(text, "none") == ["none", "50", "50", "100.0%", "█" * 20]
    assert line(text, "chat") == ["chat", "40", "0", "0.0%", "░" * 20]
    assert line(text, "12 others") == ["12 others", "10", "9", "90.0%", "█" * 18 + "░" * 2]


def test_one_group_says_nothing() -> None:
    groups = {"column": "source", "largest": [group(None, 200, 150)], "n_rest": 0, "rest": None}
    assert "source" not in shown(console.filtered(page(groups=[groups])))


def test_metrics_move_or_do_not() -> None:
    up, down, middle = value(2.0, (1.8, 2.2)), value(0.5, (0.4, 0.6)), value(1.1, (0.9, 1.3))
    moved = [
        metric("rises", up, middle, True),
        metric("falls", down, middle, True),
        metric("fewer", down, middle, True, better=False),
        metric("differs", up, middle, True, better=None),
        metric("stays", middle, middle, False),
        metric("bare", value(3.0), value(3.0), None),
        metric("lost", value(None, reason="too few"), value(None, reason="too few"), None),
        metric("gone", value(None, reason="too few"), middle, None),
    ]
    moved.append(metric("never", value(None, reason="no judge"), value(None, reason="no judge"), None))
    moved[-1]["input"] = value(None, reason="no judge")
    closest = [{"words": "rises < 5", "column": "rises", "side": "below", "below": [call(4)], "above": []}]
    text = shown(console.filtered(page(principles=moved, closest=closest)))
    assert line(text, "rises") == ["rises", "1", "2", "1.1", "↑ better, by its own rule"]
    assert line(text, "falls") == ["falls", "1", "0.5", "1.1", "↓ worse"]
    assert line(text, "fewer")[-1] == "↓ better"
    assert line(text, "differs")[-1] == "↑ moved"
    assert line(text, "stays")[-1] == "within noise"
    assert line(text, "bare")[-1] == "without an interval"
    assert "not compared, too few: lost, gone" in text
    assert "without a value: never" in text
    assert "random: as many records drawn from the input." in text
    wide = line(shown(console.filtered(page(principles=moved)), 160), "rises")
    assert wide == ["rises", "1", "0.5 – 1.5", "2", "1.8 – 2.2", "1.1", "0.9 – 1.3", "↑ better"]


def test_the_closest_calls_stand_on_both_sides() -> None:
    closest = [
        {
            "words": "a < 5",
            "column": "a",
            "side": "below",
            "below": [call(4.9, name="low")],
            "above": [call(5.1, name="high")],
        },
        {
            "words": "b > p90 by task",
            "column": "b",
            "side": "above",
            "below": [call(6, 7.0, "here"), call(2, 2.5, "there")],
            "above": [],
        },
        {"words": "c < 1", "column": "c", "side": "below", "below": [], "above": []},
    ]
    text = shown(console.filtered(page(closest=closest)))
    assert line(text, "a < 5") == ["a < 5", "4.9", "low", "5.1", "high"]
    assert line(text, "b > p90") == ["b > p90 by task", "6", "(at 7)", "here"]
    assert line(text, "2 ") == ["2", "(at 2.5)", "there"]
    assert "c < 1" not in text


def test_what_was_written_is_named_and_what_was_not() -> None:
    done = page() | {
        "effect": None,
        "by_rule": {"a < 1": 30, "never": 0},
        "counts": {"kept": 6, "dropped": 3, "unreadable": 1},
        "written": {
            "kept": "o/d.kept.jsonl",
            "dropped": "o/d.dropped.jsonl",
            "decisions": "o/d.decisions.parquet",
        },
        "notes": ["one rule is left out"],
        "not_copied": 1,
        "limit": 10,
    }
    text = shown(console.filtered(done))
    assert line(text, "a < 1") == ["a < 1", "30", "300.0%"]
    assert line(text, "kept") == ["kept", "6", "60.0%", "o/d.kept.jsonl"]
    assert line(text, "unreadable") == ["unreadable", "1", "10.0%"]
    assert "note  one rule is left out" in text
    assert "Of the unreadable, 1 are in no output" in text
    assert "The run had --limit 10" in text
    assert line(text, "reasons") == ["reasons", "o/d.decisions.parquet"]


def test_what_only_the_selection_dropped_is_told_apart() -> None:
    text = shown(console.filtered(page(not_selected=40)))
    assert line(text, "dropped") == ["dropped", "50", "25.0%"]
    assert line(text, "not selected") == ["not selected", "40", "20.0%"]


def test_nothing_at_all_is_shown_too() -> None:
    none = page(note="nothing is kept") | {"counts": {"kept": 0, "dropped": 0, "unreadable": 0}}
    assert line(shown(console.filtered(none)), "kept") == ["kept", "0"]


@pytest.fixture
def everything() -> list[RenderableType]:
    rules = [rule(f"{HOSTILE} {i}", 9, unknown=1, because=HOSTILE) for i in range(3)]
    moved = metric(HOSTILE, value(2.0, (1.8, 2.2)), value(1.1, (0.9, 1.3)), True)
    lost = metric("m", value(None, reason=HOSTILE), value(None, reason=HOSTILE), None)
    calls = {"words": HOSTILE, "column": HOSTILE, "side": "", "below": [call(4, name=HOSTILE)], "above": []}
    groups = {"column": HOSTILE, "largest": [group(HOSTILE, 5, 2)] * 2, "n_rest": 0, "rest": None}
    ill = page(
        rules=rules,
        overlaps=[[9, 4, 1], [4, 9, 0], [1, 0, 9]],
        groups=[groups],
        principles=[moved, lost],
        closest=[calls],
    )
    ill |= {"written": {"kept": HOSTILE, "decisions": HOSTILE}, "notes": [HOSTILE], "comparison": [moved]}
    compared = {"column": HOSTILE, "value": None, "threshold": None, "distance": None, "text": HOSTILE * 50}
    record = {
        **{
            "row": 1,
            "id": HOSTILE,
            "file": f"/x/{HOSTILE}",
            "line": 2,
            "state": "partial",
            "fate": "dropped",
        },
        **{"must_keep": True, "why": HOSTILE, "passed": [{"rule": HOSTILE, "because": "", "compared": []}]},
        "failed": [{"rule": HOSTILE, "because": HOSTILE, "compared": [compared]}],
        "metrics": [
            {"name": "m", "title": "", "unit": HOSTILE, "value": 1.0, "percentile": 5.0, "reason": None},
            {"name": "n", "title": "", "unit": "", "value": None, "percentile": None, "reason": HOSTILE},
        ],
        "issues": [{"severity": "error", "kind": HOSTILE, "detail": HOSTILE}],
        "duplicates": {"group": 1, "kind": HOSTILE, "size": 2, "first": {"row": 0, "id": HOSTILE}},
    }
    told = {"run": HOSTILE, "decisions": HOSTILE, "note": HOSTILE, "n": 3, "records": [record]}
    gate = {"requirement": HOSTILE, "passed": False, "actual": None, "reason": HOSTILE, "because": HOSTILE}
    return [
        console.filtered(ill),
        console.filtered(ill | {"effect": None, "by_rule": {HOSTILE: 3, HOSTILE + "0": 0}}),
        console.floors([(HOSTILE, 1.5, 3)], HOSTILE),
        console.explanation(told | {"recipe": {"name": HOSTILE}}),
        console.gates([gate]),
    ]


@pytest.mark.parametrize("width", WIDTHS)
def test_ill_meant_data_is_seen_as_it_is_and_fits(everything: list[RenderableType], width: int) -> None:
    for part in everything:
        text = shown(part, width)
        assert all(unicodedata.category(c) not in ("Cc", "Cf") for c in text.replace("\n", ""))
        assert max(map(len, text.splitlines())) <= width
        assert "bold" in text


def test_an_explanation_says_how_far_each_value_lay_from_its_threshold() -> None:
    def compared(value: float | None, threshold: float | None) -> dict[str, Any]:
        apart = None if value is None or threshold is None else abs(value - threshold)
        return {"column": "m", "value": value, "threshold": threshold, "distance": apart, "text": None}

    cases = {
        "m 18.2, 3.9 below 22.1": compared(18.2, 22.1),
        "m 4, 1 above 3": compared(4.0, 3.0),
        "m 3, at 3": compared(3.0, 3.0),
        "m: no score": compared(None, 3.0),
    }
    record = {
        **{"row": 7, "id": "r7", "file": "/d/data.jsonl", "line": 8, "state": "scored", "fate": "dropped"},
        **{"must_keep": False, "why": None, "passed": [], "metrics": [], "issues": [], "duplicates": None},
        "failed": [{"rule": "m", "because": "it matters", "compared": [*cases.values()]}],
    }
    told = {"decisions": "d", "note": "", "n": 1, "recipe": {"name": "mine"}, "records": [record]}
    text = shown(console.explanation(told))
    assert line(text, "r7") == ["r7", "row 7, line 8 of data.jsonl, scored"]
    assert "DROPPED by the recipe mine" in text
    assert "it matters" in text
    for words in cases:
        assert words in text


def test_a_rule_of_several_comparisons_names_each_and_itself_once() -> None:
    words = "(a < 5) and (b < 7 (p10))"
    closest = [
        {"words": words, "column": "a", "side": "below", "below": [call(4)], "above": []},
        {"words": words, "column": "b", "side": "below", "below": [call(6, 7)], "above": [call(8, 7)]},
    ]
    text = shown(console.filtered(page(closest=closest)))
    assert text.count(words) == 1
    assert line(text, "a at") == ["a at 5"]
    assert line(text, "b at") == ["b at 7", "6         r", "8         r"] or line(text, "b at")[0] == "b at 7"
    named = shown(console.filtered(page(closest=closest) | {"names": {words: "low on both"}}))
    assert words not in named
    assert line(named, "low on both")[0] == "low on both"


def test_a_rule_with_a_name_is_called_by_it() -> None:
    long = 'issue a or b and task not in ["c", "d"]'
    names = {"names": {long: "short"}}
    text = shown(console.filtered(page(rules=[rule(long, 2)], overlaps=[[2]]) | names))
    assert line(text, "short")[:2] == ["short", "2"]
    done = page() | names | {"effect": None, "by_rule": {long: 3, "x < 1": 0}}
    assert line(shown(console.filtered(done)), "short")[:2] == ["short", "3"]


def test_no_table_of_metrics_without_any() -> None:
    record = {
        "row": 0, "id": "r", "file": "f", "line": 1, "state": "unreadable", "fate": None, "must_keep": False,
        "failed": [], "passed": [], "why": None, "issues": [], "duplicates": None,
        "metrics": [{"name": "m", "unit": "u", "value": None, "percentile": None, "reason": None}],
    }  # fmt: skip
    told = {"note": "", "records": [record], "recipe": None, "n": 1, "decisions": None}
    assert "metric" not in shown(console.explanation(told))
