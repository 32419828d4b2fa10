"""The expressions of --where: what they mean, against a slow reading of the same tree, and what they refuse."""

from __future__ import annotations

import functools
import math
import operator
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from lark import Token, Tree

from vlitqc.errors import UnknownName, UsageError
from vlitqc.filtering.expressions import DEEPEST, LONGEST, levels, parse, settle
from vlitqc.filtering.levels import Asked, Level
from vlitqc.filtering.table import ScoreTable

Record = dict[str, Any]
NUMBERS, TEXTS, TRUTHS = ("m", "n", "p5"), ("task", "a b`c"), ("text_only",)
KINDS = ("small_image", "rare_task")


def table(records: list[Record]) -> ScoreTable:
    """The records as a table; ``issues`` lists the kinds of each."""
    types = dict.fromkeys(NUMBERS, pl.Float64) | dict.fromkeys(TEXTS, pl.String)
    schema = types | dict.fromkeys(TRUTHS, pl.Boolean)
    frame = pl.DataFrame([{name: r.get(name) for name in schema} for r in records], schema=schema)
    n = len(records)
    frame = frame.with_columns(row=pl.int_range(n), id=pl.lit("r"), state=pl.lit("scored"), o=pl.lit([1]))
    found = [(i, kind, "note") for i, r in enumerate(records) for kind in r.get("issues", ())]
    issues = pl.DataFrame(
        found, schema={"row": pl.Int64, "kind": pl.String, "severity": pl.String}, orient="row"
    )
    return ScoreTable(frame.lazy(), issues)


def holds(text: str, records: list[Record]) -> list[bool | None]:
    scores = table(records)
    return scores.collect("row", settle(text, scores).holds.alias("holds"))["holds"].to_list()


# ---------------------------------------------------------------- a slow reading

UNKNOWN = None


def conjunction(parts: list[bool | None]) -> bool | None:
    return False if False in parts else UNKNOWN if UNKNOWN in parts else True


def negation(part: bool | None) -> bool | None:
    return UNKNOWN if part is UNKNOWN else not part


def column_of(token: Token) -> str:
    return token[1:-1].replace("``", "`") if token.type == "QUOTED" else str(token)


def number(value: float) -> float | None:
    return None if value is None or math.isnan(value) else float(value)


def level_of(text: str, column: str, records: list[Record]) -> float:
    present = np.array([r[column] for r in records if number(r[column]) is not None])
    if not len(present):
        return math.nan
    if text.startswith("p"):
        return float(np.percentile(present, float(text[1:])))
    size = float(text.lstrip("zmad"))
    centre, spread = (
        (present.mean(), present.std())
        if text.startswith("z")
        else (
            np.median(present),
            1.4826 * np.median(np.abs(present - np.median(present))),
        )
    )
    if present.min() == present.max() or spread == 0:
        return math.copysign(math.inf, size if "+" in text else -1)
    return float(centre + size * spread)


def compute(sign: str, a: float | None, b: float | None) -> float | None:
    if a is None or b is None or (sign == "/" and b == 0):
        return None
    step = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}[sign]
    result: float = step(a, b)
    return result


def compare(sign: str, a: Any, b: Any) -> bool | None:
    if a is None or b is None or (isinstance(b, float) and math.isnan(b)):
        return UNKNOWN
    named = {"<": "lt", "<=": "le", ">": "gt", ">=": "ge", "==": "eq", "!=": "ne"}[sign]
    result: bool = getattr(operator, named)(a, b)
    return result


def slow(node: Any, record: Record, records: list[Record]) -> Any:
    """The value of a node for one record, in plain Python."""
    if isinstance(node, Token):
        if node.type == "NUMBER":
            return float(node)
        if node.type == "TEXT":
            return node[1:-1].replace('\\"', '"')
        if node.type == "TRUTH":
            return node == "true"
        value = record[column_of(node)]
        return number(value) if isinstance(value, float) else value
    read = functools.partial(slow, record=record, records=records)
    parts = node.children
    match str(node.data):
        case "any_of":
            return negation(conjunction([negation(read(p)) for p in parts]))
        case "all_of":
            return conjunction([read(p) for p in parts])
        case "negated":
            return negation(read(parts[-1]))
        case "signed":
            value = read(parts[1])
            return value if parts[0] == "+" or value is None else -value
        case "sum" | "product":
            total = read(parts[0])
            for sign, part in zip(parts[1::2], parts[2::2], strict=True):
                total = compute(sign, total, read(part))
            return total
        case "missing":
            return (read(parts[0]) is None) is (parts[1] is None)
        case "issue":
            return (parts[0][1:-1] in record["issues"]) is (parts[1] is None)
        case "member":
            value = read(parts[0])
            found = UNKNOWN if value is None else value in [read(p) for p in parts[2:]]
            return found if parts[1] is None else negation(found)
        case "comparison":
            columns = [column_of(p) for p in parts[::2] if getattr(p, "type", "") in ("COLUMN", "QUOTED")]
            values = [
                level_of(p, columns[0], records) if getattr(p, "type", "") == "LEVEL" else read(p)
                for p in parts[::2]
            ]
            return conjunction(
                [
                    compare(sign, b, a) if isinstance(a, float) and math.isnan(a) else compare(sign, a, b)
                    for a, sign, b in zip(values[:-1], parts[1::2], values[1:], strict=True)
                ]
            )
    raise AssertionError(node.data)


# ---------------------------------------------------------------- made-up expressions

SMALL = st.sampled_from(["0", "1", "2.5", ".5", "1e1", "3."])
PERCENTILES = st.sampled_from(["p0", "p5", "p37.5", "p100"])
DEVIATIONS = st.sampled_from(["z-1", "z+0.5", "mad-2", "mad+1"])
NUMERIC_COLUMNS = st.sampled_from(["m", "n", "`p5`"])
TEXT_COLUMNS = st.sampled_from(["task", "`a b``c`"])
QUOTED = st.sampled_from(['"ocr"', "'chart'", '""'])
ORDER = st.sampled_from(["<", "<=", ">", ">=", "==", "!="])


def joined(*parts: Any) -> st.SearchStrategy[str]:
    return st.tuples(*[p if isinstance(p, st.SearchStrategy) else st.just(p) for p in parts]).map(" ".join)


numeric = st.recursive(
    NUMERIC_COLUMNS | SMALL,
    lambda inner: (
        joined(inner, st.sampled_from("+-*/"), inner)
        | joined("(", inner, ")")
        | joined(st.sampled_from("+-"), joined("(", inner, ")"))
    ),
    max_leaves=4,
)
simple = (
    joined(numeric, ORDER, numeric)
    | joined(numeric, st.sampled_from(["<", "<="]), numeric, st.sampled_from(["<", ">="]), numeric)
    | joined(NUMERIC_COLUMNS, ORDER, PERCENTILES | DEVIATIONS)
    | joined(PERCENTILES, st.sampled_from(["<", "<="]), NUMERIC_COLUMNS, "<=", PERCENTILES)
    | joined(TEXT_COLUMNS, st.sampled_from(["==", "!="]), QUOTED | TEXT_COLUMNS)
    | joined(TEXT_COLUMNS, st.sampled_from(["in", "not in"]), "[", QUOTED, ",", QUOTED, "]")
    | joined(NUMERIC_COLUMNS, st.sampled_from(["in", "not in"]), "[", SMALL, ", -", SMALL, "]")
    | joined(st.sampled_from(['"small_image"', "'rare_task'"]), st.sampled_from(["in", "not in"]), "issues")
    | joined(numeric | TEXT_COLUMNS | st.just("text_only"), st.sampled_from(["is missing", "is not missing"]))
    | st.sampled_from(["text_only", "true", "false", "text_only == true", "text_only != false"])
)
expressions = st.recursive(
    simple,
    lambda inner: (
        joined("(", inner, st.sampled_from(["and", "or"]), inner, ")")
        | joined(inner, "and", inner)
        | joined(inner, "or", inner)
        | joined("not", joined("(", inner, ")"))
        | joined("not", inner)
    ),
    max_leaves=6,
)
a_number = st.none() | st.sampled_from([-1.0, 0.0, 0.5, 1.0, 2.0, 2.5, 10.0, math.nan])
a_record = st.fixed_dictionaries(
    dict.fromkeys(NUMBERS, a_number)
    | {name: st.none() | st.sampled_from(["ocr", "chart", "", "ocr "]) for name in TEXTS}
    | {"text_only": st.none() | st.booleans(), "issues": st.sets(st.sampled_from(KINDS))}
)


@given(expressions, st.lists(a_record, min_size=1, max_size=8))
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_expressions_mean_what_a_slow_reading_says(text: str, records: list[Record]) -> None:
    expected = [slow(parse(text), record, records) for record in records]
    try:
        told = holds(text, records)
    except UsageError as refused:
        assert "names no column" in str(refused), text
        return
    assert told == expected


# ---------------------------------------------------------------- by hand

FOUR: list[Record] = [
    {
        "m": 1.0,
        "n": 0.0,
        "p5": 7.0,
        "task": "ocr",
        "a b`c": "x",
        "text_only": True,
        "issues": ["small_image"],
    },
    {"m": 2.0, "n": 4.0, "p5": 8.0, "task": "chart", "a b`c": None, "text_only": False, "issues": []},
    {"m": 3.0, "n": math.nan, "p5": 9.0, "task": 'a"b', "a b`c": "y", "text_only": False, "issues": [*KINDS]},
    {"m": None, "n": 1.0, "p5": None, "task": None, "a b`c": "z", "text_only": None, "issues": []},
]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("m >= 2", [False, True, True, None]),
        ("2 < m", [False, False, True, None]),
        ("1 <= m < 3", [True, True, False, None]),
        ("3 > m >= 2 and n == 4", [False, True, False, False]),
        ("m / n > 0", [None, True, None, None]),
        ("m / 0 is missing", [True, True, True, True]),
        ("m - 1 - 1 == 0", [False, True, False, None]),
        ("8 / m / 2 == 2", [False, True, False, None]),
        ("1 + m * 2 == 5", [False, True, False, None]),
        ("-m < -1.5", [False, True, True, None]),
        ("--m == +1", [True, False, False, None]),
        ("n is missing", [False, False, True, False]),
        ("n is not missing and m is missing", [False, False, False, True]),
        ("text_only or m > 2", [True, False, True, None]),
        ("text_only and m > 2", [False, False, False, None]),
        ("not text_only", [False, True, True, None]),
        ("not m > 2", [True, True, False, None]),
        ("text_only or m is missing", [True, False, False, True]),
        ("text_only and m is not missing", [True, False, False, False]),
        ("m > 1 or m < 2 and n > 100", [False, True, True, None]),
        ('task in ["ocr", "chart"]', [True, True, False, None]),
        ("task not in ['ocr']", [False, True, True, None]),
        (r"task == 'a\"b'", [False, False, True, None]),
        (r'task == "a\"b"', [False, False, True, None]),
        ("`a b``c` == 'x'", [True, None, False, False]),
        ("m in [1, -3, 3.0]", [True, False, True, None]),
        ('"small_image" in issues', [True, False, True, False]),
        ('"small_image" not in issues', [False, True, False, True]),
        ('"crashed_worker" in issues', [False, False, False, False]),
        ("m > p50", [False, False, True, None]),
        ("p0 < m <= p100", [False, True, True, None]),
        ("m > z+1", [False, False, True, None]),
        ("`p5` > 7", [False, True, True, None]),
        ("`p5` > p50", [False, False, True, None]),
        ("m\n >\t2", [False, False, True, None]),
        ("m > 2 and true", [False, False, True, None]),
    ],
)
def test_by_hand(text: str, expected: list[bool | None]) -> None:
    assert holds(text, FOUR) == expected
    assert [slow(parse(text), r, FOUR) for r in FOUR] == expected


def test_numbers_without_bounds_are_missing_once_they_are_none() -> None:
    records: list[Record] = [{"m": 1e308, "n": 1.0}]
    assert holds("m * 10 > 5", records) == [True]
    assert holds("m * 10 - m * 10 is missing", records) == [True]
    assert holds("m * 10 - m * 10 < 5", records) == [None]


def test_words_have_the_levels_as_numbers() -> None:
    scores = table(FOUR)
    assert settle("m >= 2  and\n n<1", scores).words == "m >= 2 and n<1"
    text = "p0 < m < p50 or `p5` > mad+1"
    assert settle(text, scores).words == "1 (p0) < m < 2 (p50) or `p5` > 9.4826 (mad+1)"
    assert levels(text) == [
        Asked("m", Level("p", 0.0)),
        Asked("m", Level("p", 50.0)),
        Asked("p5", Level("mad", 1.0, "+")),
    ]


def evidence(text: str, records: list[Record] = FOUR) -> list[tuple[str, str, list[Any], Any]]:
    scores = table(records)
    return [
        (
            c.column,
            c.side,
            scores.collect("row", c.value.alias("v"))["v"].to_list(),
            None if c.threshold is None else scores.collect("row", c.threshold.alias("v"))["v"][0],
        )
        for c in settle(text, scores).compared
    ]


def test_every_comparison_is_told_with_the_side_on_which_it_is_true() -> None:
    m = [1.0, 2.0, 3.0, None]
    assert evidence("m < 2") == [("m", "below", m, 2.0)]
    assert evidence("2 < m") == [("m", "above", m, 2.0)]
    assert evidence("1 <= m < p50") == [("m", "above", m, 1.0), ("m", "below", m, 2.0)]
    assert evidence("not m < 2") == [("m", "above", m, 2.0)]
    assert evidence("not not m < 2") == [("m", "below", m, 2.0)]
    assert evidence("m == 2") == [("m", "", m, 2.0)]
    assert evidence("(m + 1) * 2 > n") == [("(m + 1) * 2", "above", [4.0, 6.0, 8.0, None], 0.0)]
    assert evidence("text_only") == [("text_only", "", [True, False, False, None], None)]
    assert evidence("task == 'ocr'") == [("task", "", ["ocr", "chart", 'a"b', None], None)]
    assert evidence("task in ['ocr']") == [("task", "", ["ocr", "chart", 'a"b', None], None)]
    assert evidence("m is missing") == [("m", "", m, None)]
    assert evidence("'small_image' in issues") == [
        ("issues", "", ["small_image", None, "small_image", None], None)
    ]
    assert [column for column, *_ in evidence("m > 1 and (text_only or n > 2) and 1 < 2")] == [
        "m",
        "text_only",
        "n",
    ]


# ---------------------------------------------------------------- what is refused

NOT_THE_LANGUAGE = [
    "",
    " ",
    "m.mean > 1",
    "m . mean > 1",
    "m.__class__ == 'x'",
    "().__class__",
    "f(m)",
    "len(task) > 3",
    "__import__('os').system('true')",
    "m[0] > 1",
    "'abc'[0] == 'a'",
    "[m for m in n]",
    "(m for m in n)",
    "{m: 1}",
    "lambda m: m",
    "(lambda: 1)()",
    "(m := 3) > 1",
    "m = 3",
    "f'{m}' == 'x'",
    "f\"{m}\" == 'x'",
    "b'x' == task",
    "m > 1; n > 1",
    "m > 1\x0b",
    "m > 1\nn > 1",
    "m > 1 \\\n",
    "import os",
    "m if n else p",
    "await m",
    "yield m",
    "*m",
    "**m",
    "m ** 2 > 1",
    "m // 2 > 1",
    "m % 2 > 1",
    "m @ n",
    "m & n",
    "m | n",
    "~m",
    "m << 1",
    "!text_only",
    "m <> 1",
    "m is None",
    "m is 3",
    "m is not n",
    "m in n",
    "task in 'ocr'",
    "task in []",
    "task in ['a',]",
    "task in [n]",
    "m > 1 and",
    "and m > 1",
    "m > 1 and and n > 1",
    "m > > 1",
    "(m > 1",
    "m > 1)",
    "m > 1 # why",
    "m > 1_000",
    "m > 0x10",
    "m > 1j",
    "m > 1.2.3",
    "m > 1and n > 1",
    "m > 'open",
    "`open > 1",
    "`` > 1",
    "\uff4d > 1",  # full-width m
    "m \uff1e 1",  # full-width >
    "m > \uff11",  # full-width 1
    "m > \u0661",  # Arabic 1
    "m \u2265 1",  # ≥
    "m > \u22121",  # a minus sign
    "\u200bm > 1",
    "m\u00a0> 1",
    "m\u2028> 1",
    "\u043c > 1",  # Cyrillic м
    "m\u0301 > 1",
    "m > 1\x00",
    "m AND n",
    "p5 > 3",
    "m + p5 > 3",
    "m > p5 + 1",
    "m > p101",
    "m > p100.5",
    "m < p5 < n",
    "m + n > p5",
    "1 < p5",
    "m in [p5]",
]


@pytest.mark.parametrize("text", NOT_THE_LANGUAGE)
def test_nothing_else_is_read(text: str) -> None:
    with pytest.raises(UsageError, match=r"^--where: I cannot read") as told:
        parse(text)
    assert type(told.value) is UsageError
    assert "; " in str(told.value)
    assert "; ;" not in str(told.value)


def test_the_error_points_at_the_place() -> None:
    with pytest.raises(UsageError) as told:
        parse("matching_degree.mean >= 25")
    assert str(told.value).startswith(
        "--where: I cannot read \"matching_degree.mean >= 25\" at column 16 ('.'); "
        "expected an operator such as >= or and; "
    )
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("m > ", "at its end; expected a column, a number, a text in quotes"),
        ("m = 3", "write == for equal"),
        ("m is 3", "expected missing"),
        ("m not 3", "expected in"),
        ("task in 3", r'expected issues, or a list such as \["a", "b"\]'),
        ("m > 1)", "expected and, or, or the end"),
        ("m > p101", "a percentile is p0 to p100"),
        ("a < p5 < b", "a level stands beside one column, as in m < p5"),
        ("1 + p5 > m", "a level such as p5 stands beside a comparison"),
        ("m\x1b[31m > 3", r"at column 2 \('\\x1b'\), after 'm'; "),
        ("m > 3 and " * 20 + "$", r"at column 201 \('\$'\), after "),
    ],
)
def test_errors_say_what_helps(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said) as told:
        parse(text)
    assert "\x1b" not in str(told.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("m", "m is a number, where a comparison is expected"),
        ("task and m > 1", "task is a text, where a comparison is expected"),
        ("not m", "m is a number"),
        ("m > 'a'", "m is a number and 'a' is a text; only alike things"),
        ("task == 3", "task is a text and 3 is a number"),
        ("task in ['a', 3]", "task is a text and 3 is a number"),
        ("task < 'a'", "compared with == or != alone"),
        ("text_only > false", "compared with == or != alone"),
        ("task + 1 > 2", "task is a text, where a number is expected"),
        ("-text_only > 2", "text_only is true or false, where a number is expected"),
        ("(m > 1) + 1 > 2", "m > 1 is true or false, where a number is expected"),
        ("m in issues", "a kind of issue is a text"),
        ("1 < 2", "names no column"),
        ("true or false", "names no column"),
        ("m < 1e999", "1e999 is too large a number"),
        ("o is missing", "o is neither a number nor a text"),
        ("task > p5", "no metric with scores in this run is called 'task'"),
    ],
)
def test_types_that_do_not_fit(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        holds(text, FOUR)


def test_unknown_names_have_near_ones() -> None:
    with pytest.raises(UnknownName, match="'taks'; did you mean task"):
        holds("taks == 'a'", FOUR)
    with pytest.raises(UnknownName, match="no metric with scores in this run is called 'mm'; did you mean m"):
        holds("mm > p5", FOUR)
    with pytest.raises(UnknownName, match="kind of issue is called 'small_imag'; did you mean small_image"):
        holds("'small_imag' in issues", FOUR)


# ---------------------------------------------------------------- hostile sizes


@pytest.mark.parametrize(
    "text",
    [
        "(" * 10_000 + "m > 1" + ")" * 10_000,
        "(" * 10_000,
        "not " * 10_000 + "text_only",
        "-" * 10_000 + "m > 1",
        "not " * 100 + "text_only",
        "-" * 100 + "m > 1",
        "+".join(["m"] * 200) + " > 1",
        "not (" * 60 + "text_only" + ")" * 60,
        "(" * 4_000,
        "m > 1 and (text_only or " * 60 + "text_only" + ")" * 60,
    ],
    ids=range(10),
)
def test_deep_and_long_expressions_are_refused_quickly(text: str) -> None:
    started = time.process_time()
    with pytest.raises(UsageError, match=f"--where.*({LONGEST:,}|{DEEPEST}|cannot read)"):
        parse(text)
    assert time.process_time() - started < 5


def test_what_is_allowed_is_carried_out() -> None:
    text = "+".join(["m"] * DEEPEST) + " > 1"
    assert holds(text, FOUR) == [True, True, True, None]
    assert holds("not " * (DEEPEST - 2) + "text_only", FOUR) == [True, False, False, None]
    assert holds("(" * 3_000 + "text_only" + ")" * 3_000, FOUR) == [True, False, False, None]
    many = " and ".join(["m > 1"] * 900)
    assert len(many) < LONGEST
    assert holds(many, FOUR) == [False, True, True, None]
    names = ", ".join(f'"t{i}"' for i in range(900))
    assert holds(f'task not in [{names}, "ocr"]', FOUR) == [False, True, True, None]


WORDS = st.sampled_from(
    ["m", "task", "text_only", "and", "or", "not", "in", "is", "missing", "issues", "true"]
)
SIGNS = st.sampled_from([*"()[]<+-*/`',.é:\\\n", "==", "1", "2.5", "'a'", '"b"', "p5", "z-2"])
PIECES = WORDS | SIGNS


@given(
    st.text(max_size=40)
    | st.lists(PIECES, max_size=20).map(" ".join)
    | st.lists(PIECES, max_size=20).map("".join)
)
@settings(max_examples=300, deadline=2000)
@example("\ud800")
@example("m > 1 \ud800")
def test_garbage_raises_nothing_but_usage_errors(text: str) -> None:
    read: Callable[[], Any] = functools.partial(holds, text, FOUR)
    try:
        told = read()
    except UsageError:
        return
    assert isinstance(parse(text), Tree | Token)
    assert len(told) == len(FOUR)
