"""What rules decide, against plain Python over one record at a time, for rules and runs made at random."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from vlitqc.engine.run import Run
from vlitqc.errors import UsageError
from vlitqc.filtering.conditions import And, HasIssue, Not, Or, Threshold, Where
from vlitqc.filtering.decisions import decide
from vlitqc.filtering.levels import Level
from vlitqc.filtering.rules import Condition, Rule
from vlitqc.filtering.table import ScoreTable

Record = dict[str, Any]
Truth = bool | None
Test = Callable[[Record], Truth]
NUMBERS = ("m0", "m1", "m2", "sparse", "same", "n_turns")
KINDS = ("exact_duplicate", "empty_turn", "small_image", "rare_task")
SEVERITIES = ("error", "warning", "note")
FEWEST = 20


class Unsure(Exception):
    """A score lies so near a computed level that the last bit of its rounding decides."""


# ---------------------------------------------------------------- runs made at random


def records(rng: random.Random) -> list[Record]:
    # Groups as large as the smallest with a level of its own, and one less and one more.
    tasks = (
        ["ocr"] * rng.choice([0, 1, 19, 20, 21])
        + ["chart"] * rng.choice([0, 20, 40])
        + [None] * rng.choice([0, 2, 20])
    )
    tasks += ["chat"] * rng.choice([1, 5, 19, 20, 21, 150])
    rng.shuffle(tasks)
    grid = rng.choice([2, 5, 40, 1000])

    def score(missing: float) -> float | None:
        if rng.random() < missing:
            return rng.choice([None, math.nan])
        return round(rng.gauss(0, grid) * rng.choice([1, 1, 1, 4])) / 4

    made = []
    for row, task in enumerate(tasks):
        unreadable = rng.random() < 0.1
        record: Record = {"row": row, "id": rng.choice(["a", "b", f"r{row}"])}
        record["state"] = "unreadable" if unreadable else rng.choice(["scored", "partial"])
        record |= {"n_turns": 0 if unreadable else rng.randint(1, 4), "n_media": rng.randint(0, 2)}
        record |= {
            "m0": score(0.1),
            "m1": score(0.3),
            "m2": score(0) or 0.0,
            "sparse": score(0.95),
            "same": 1.5,
        }
        # An unreadable record has no scores; were there any, no level would count them.
        record["task"] = task
        record["source"] = rng.choice(["coco", 'gqa\'s "own"', "Ünïcode"])
        record["issues"] = set()
        for _ in range(rng.choice([0, 0, 0, 1, 2])):
            record["issues"].add((rng.choice(KINDS), rng.choice(SEVERITIES)))
        made.append(record)
    return made


def table(made: list[Record], folder: Path, parts: int) -> ScoreTable:
    """The records as a run has them, in so many files."""
    schema = {"row": pl.Int64, "id": pl.String, "state": pl.String, "n_turns": pl.Int32, "n_media": pl.Int32}
    schema |= dict.fromkeys(("m0", "m1", "m2", "sparse", "same"), pl.Float64)
    schema |= {"task": pl.String, "source": pl.String}
    frame = pl.DataFrame([{k: r[k] for k in schema} for r in made], schema=schema)
    (folder / "scores").mkdir(parents=True, exist_ok=True)
    size = -(-len(made) // parts)
    for i in range(parts):
        frame[i * size : (i + 1) * size].write_parquet(folder / "scores" / f"part-{i:05d}.parquet")
    issues = [(r["row"], kind, severity) for r in made for kind, severity in sorted(r["issues"])]
    kinds = {"row": pl.Int64, "kind": pl.String, "severity": pl.String}
    pl.DataFrame(issues, schema=kinds, orient="row").write_parquet(folder / "issues.parquet")
    return ScoreTable.of(Run(folder))


# ---------------------------------------------------------------- the plain way


def of(record: Record, column: str) -> Any:
    value = (record["n_media"] == 0) if column == "text_only" else record[column]
    return None if isinstance(value, float) and math.isnan(value) else value


def both(a: Truth, b: Truth) -> Truth:
    return False if a is False or b is False else None if a is None or b is None else True


def either(a: Truth, b: Truth) -> Truth:
    return True if a or b else None if a is None or b is None else False


def no(a: Truth) -> Truth:
    return None if a is None else not a


def level_of(scores: list[float], kind: str, number: float, sign: str) -> float | None:
    if kind == "at":
        return -number if sign == "-" else number
    if not scores:
        return None
    if kind == "p":
        return float(np.percentile(scores, number))
    values = np.array(scores)
    centre = values.mean() if kind == "z" else np.median(values)
    spread = values.std() if kind == "z" else 1.4826 * np.median(np.abs(values - centre))
    if spread == 0 or values.min() == values.max():
        return math.inf if sign == "+" else -math.inf
    found = float(centre + number * spread * (1 if sign == "+" else -1))
    if np.abs(values - found).min() < 1e-9:
        raise Unsure
    return found


def levels(made: list[Record], column: str, by: str | None, *level: Any) -> Callable[[Record], float | None]:
    readable = [r for r in made if r["state"] != "unreadable"]
    if level[0] == "at":
        by = None
    scores = [float(of(r, column)) for r in readable if of(r, column) is not None]
    if by is None:
        overall = level_of(scores, *level)
        return lambda record: overall
    groups: dict[Any, list[float]] = {}
    for r in readable:
        if of(r, column) is not None:
            groups.setdefault(of(r, by), []).append(float(of(r, column)))
    own = {group: level_of(found, *level) for group, found in groups.items() if len(found) >= FEWEST}
    return lambda record: own.get(of(record, by))


def compare(a: Any, sign: str, b: Any) -> Truth:
    if a is None or b is None:
        return None
    return bool(
        {"<": a < b, "<=": a <= b, ">": a > b, ">=": a >= b}.get(sign)
        if sign[0] in "<>"
        else (a == b) == (sign == "==")
    )


# ---------------------------------------------------------------- conditions made at random


def level_text(rng: random.Random, *, signed: bool) -> tuple[str, tuple[str, float, str]]:
    kind = rng.choice(["p", "z", "mad"])
    number = rng.choice([0, 1, 10, 33.3, 50, 99, 100]) if kind == "p" else rng.choice([0, 0.25, 0.5, 1, 2, 3])
    sign = rng.choice("+-") if signed and kind != "p" else ""
    return f"{kind}{sign}{number:g}", (kind, number, sign)


def threshold(rng: random.Random, made: list[Record]) -> tuple[Condition, Test]:
    column, side = rng.choice(NUMBERS), rng.choice(["below", "above"])
    by = rng.choice([None, "task", "source"])
    if rng.random() < 0.4:
        number = rng.randint(-20, 20) / 4
        text, level = f"{number:g}", ("at", abs(number), "-" if number < 0 else "")
    else:
        text, level = level_text(rng, signed=rng.random() < 0.3)
        if level[0] != "p" and not level[2]:
            level = (level[0], level[1], "-" if side == "below" else "+")
    at = levels(made, column, by, *level)
    sign = "<" if side == "below" else ">"
    condition = Threshold(column, side, Level.parse(text), by)  # type: ignore[arg-type]

    def test(r: Record) -> Truth:
        return compare(of(r, column), sign, at(r))

    return condition, test


def has_issue(rng: random.Random, made: list[Record]) -> tuple[Condition, Test]:
    kinds = tuple(rng.sample(KINDS, rng.randint(0, 3)))
    severity = rng.choice([None, *SEVERITIES]) if kinds else rng.choice(SEVERITIES)
    return HasIssue(kinds, severity), lambda r: any(
        (not kinds or kind in kinds) and severity in (None, s) for kind, s in r["issues"]
    )


def number(rng: random.Random, depth: int) -> tuple[str, Callable[[Record], float | None]]:
    """A number in an expression."""
    pick = rng.random()
    if pick < 0.4 or depth == 0:
        column = rng.choice(NUMBERS)
        return column, lambda r: of(r, column)
    if pick < 0.6:
        value = rng.randint(0, 40) / 4
        return f"{value:g}", lambda r: value
    if pick < 0.7:
        text, inner = number(rng, depth - 1)
        return f"-({text})", lambda r: None if inner(r) is None else -inner(r)  # type: ignore[operator]
    a, left = number(rng, depth - 1)
    b, right = number(rng, depth - 1)
    sign = rng.choice("+-*/")

    def compute(r: Record) -> float | None:
        x, y = left(r), right(r)
        if x is None or y is None or (sign == "/" and y == 0):
            return None
        return {"+": x + y, "-": x - y, "*": x * y}[sign] if sign != "/" else x / y

    return f"({a} {sign} {b})", compute


def where(rng: random.Random, made: list[Record], by: str | None, depth: int) -> tuple[str, Test]:
    """A truth value in an expression."""
    pick = rng.random()
    if depth > 0 and pick < 0.45:
        a, left = where(rng, made, by, depth - 1)
        b, right = where(rng, made, by, depth - 1)
        if pick < 0.15:
            return f"not ({a})", lambda r: no(left(r))
        if pick < 0.3:
            return f"({a} and {b})", lambda r: both(left(r), right(r))
        return f"({a} or {b})", lambda r: either(left(r), right(r))
    sign = rng.choice(["<", "<=", ">", ">=", "==", "!="])
    if pick < 0.6:
        a, one = number(rng, 2)
        b, other = number(rng, 2)
        if not any(name in a + b for name in NUMBERS):
            a, one = "m0", lambda r: of(r, "m0")
        return f"{a} {sign} {b}", lambda r: compare(one(r), sign, other(r))
    if pick < 0.7:
        column = rng.choice(NUMBERS)
        text, level = level_text(rng, signed=True)
        if level[0] != "p" and not level[2]:
            text, level = text.replace(level[0], f"{level[0]}-"), (level[0], level[1], "-")
        at = levels(made, column, by, *level)
        if rng.random() < 0.5:
            return f"{column} {sign} {text}", lambda r: compare(of(r, column), sign, at(r))
        return f"{text} {sign} {column}", lambda r: compare(at(r), sign, of(r, column))
    if pick < 0.75:
        column = rng.choice(NUMBERS)
        low, high = sorted(rng.sample(range(-20, 20), 2))
        return f"{low} <= {column} < {high}", lambda r: both(
            compare(low, "<=", of(r, column)), compare(of(r, column), "<", high)
        )
    if pick < 0.8:
        return "text_only", lambda r: r["n_media"] == 0
    if pick < 0.85:
        column = rng.choice([*NUMBERS, "task"])
        wanted = rng.random() < 0.5
        return f"{column} is {'' if wanted else 'not '}missing", lambda r: (of(r, column) is None) == wanted
    if pick < 0.9:
        names = rng.sample(["ocr", "chart", "chat", "nobody's"], rng.randint(1, 3))
        inside = rng.random() < 0.5
        listed = ", ".join(f'"{name}"' for name in names)
        return (
            f"task {'' if inside else 'not '}in [{listed}]",
            lambda r: None if r["task"] is None else (r["task"] in names) == inside,
        )
    if pick < 0.95:
        kind, inside = rng.choice(KINDS), rng.random() < 0.5
        return (
            f'"{kind}" {"" if inside else "not "}in issues',
            lambda r: (kind in {k for k, _ in r["issues"]}) == inside,
        )
    equal = rng.choice(["==", "!="])
    return f"source {equal} 'gqa\\'s \"own\"'", lambda r: compare(r["source"], equal, 'gqa\'s "own"')


def condition(rng: random.Random, made: list[Record], depth: int = 2) -> tuple[Condition, Test]:
    pick = rng.random()
    if depth and pick < 0.3:
        a, left = condition(rng, made, depth - 1)
        b, right = condition(rng, made, depth - 1)
        if pick < 0.1:
            return Not(a), lambda r: no(left(r))
        if pick < 0.2:
            return And((a, b)), lambda r: both(left(r), right(r))
        return Or((a, b)), lambda r: either(left(r), right(r))
    if pick < 0.55:
        return threshold(rng, made)
    if pick < 0.65:
        return has_issue(rng, made)
    by = rng.choice([None, None, "task"])
    text, test = where(rng, made, by, 3)
    return Where(text, by), test


# ---------------------------------------------------------------- the comparison


def rules_at_random(rng: random.Random, made: list[Record]) -> list[tuple[Rule, Test]]:
    rules: list[tuple[Rule, Test]] = []
    wanted = rng.randint(1, 8)
    while len(rules) < wanted:
        try:
            drop, test = condition(rng, made)
        except Unsure:
            continue
        rules.append((Rule(drop, rng.choice(["keep", "keep", "drop"])), test))
    return rules


@pytest.mark.parametrize("seed", range(150))
def test_decisions_are_those_of_a_loop_over_the_records(seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    made = records(rng)
    rules = rules_at_random(rng, made)
    scores = table(made, tmp_path, rng.choice([1, 2, 3]) if len(made) > 2 else 1)
    decided = decide(scores, [rule for rule, _ in rules])
    readable = [r for r in made if r["state"] != "unreadable"]
    assert decided.unreadable.tolist() == [r["state"] == "unreadable" for r in made]
    expected = []
    for record in made:
        truths = [test(record) for _, test in rules] if record in readable else []
        expected.append(
            sum(
                1 << k
                for k, (truth, (rule, _)) in enumerate(zip(truths, rules, strict=False))
                if truth or (truth is None and rule.missing == "drop")
            )
        )
    for k, (rule, test) in enumerate(rules):
        wrong = [
            r
            for r, mask, ours in zip(made, expected, decided.failed.tolist(), strict=True)
            if (mask ^ ours) >> k & 1
        ]
        assert not wrong, f"{rule}\n{decided.rules[k].words}\n{wrong[0]}: {test(wrong[0])}"
        assert decided.unknown[k] == sum(test(r) is None for r in readable), rule
        counted = sum(mask >> k & 1 for mask in expected)
        assert int(decided.fails(k).sum()) == counted
        assert list(decided.by_rule.values())[k] == counted
    patterns, counts = decided.patterns
    told = dict(zip(patterns.tolist(), counts.tolist(), strict=True))
    masks = [mask for mask, r in zip(expected, made, strict=True) if r["state"] != "unreadable"]
    assert {p: n for p, n in told.items() if n} == {mask: masks.count(mask) for mask in masks}


@pytest.mark.parametrize("seed", range(15))
def test_missing_scores_can_be_an_error(seed: int, tmp_path: Path) -> None:
    rng = random.Random(1000 + seed)
    made = records(rng)
    (rule, test), *_ = rules_at_random(rng, made)
    scores = table(made, tmp_path, 1)
    unknown = [r for r in made if r["state"] != "unreadable" and test(r) is None]
    if not unknown:
        assert decide(scores, [Rule(rule.drop, "error")]).unknown == (0,)
        return
    with pytest.raises(UsageError) as caught:
        decide(scores, [Rule(rule.drop, "error")])
    assert f"{len(unknown):,}" in str(caught.value)
    assert unknown[0]["id"] in str(caught.value)
