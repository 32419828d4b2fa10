"""The expressions of ``--where``: a small language over the columns of scores, with a grammar of its own.

::

    matching_degree >= 22 and (text_only or image_readability > p5)
    0.2 <= matching_degree / 100 < 0.5            chains, + - * / and brackets
    z-2 < text_readability < mad+3                levels of a column, as in --drop-below; the sign is part of them
    task in ["ocr", "chart"] or "small_image" in issues
    not text_only and image_readability is not missing
    `a column, strangely named` == "text"         backquotes, written twice inside

A comparison with a missing score is unknown, and so is whatever depends on it (Kleene's logic); dividing by zero gives
a missing number.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from importlib import resources
from typing import Literal

import polars as pl
from lark import Lark, Token, Tree
from lark.exceptions import UnexpectedCharacters, UnexpectedInput, UnexpectedToken

from vlitqc.errors import UsageError
from vlitqc.filtering.levels import Asked, Level, Side, check_group, look_up, present
from vlitqc.filtering.rules import Comparison, Settled, other_side
from vlitqc.filtering.table import ScoreTable

LONGEST = 10_000
"""Characters that an expression may have."""

DEEPEST = 50
"""Operations that may stand within one another."""

SHOWN = 100
"""An expression of more characters than these is not shown whole in a message."""

_SIDES: dict[str, Side] = {"<": "below", "<=": "below", ">": "above", ">=": "above"}
_MIRRORED = {"<": ">", "<=": ">=", ">": "<", ">=": "<=", "==": "==", "!=": "!="}
_COMPARED = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
}
_COMPUTED = {"+": operator.add, "-": operator.sub, "*": operator.mul}

_Node = Tree[Token] | Token
_Kind = Literal["number", "text", "truth"]
_KINDS: dict[_Kind, str] = {"number": "a number", "text": "a text", "truth": "true or false"}

# What a terminal of the grammar is called, most telling first.
_EXPECTED = {
    "ISSUES": 'issues, or a list such as ["a", "b"]',
    "_MISSING": "missing",
    "COLUMN": "a column, a number, a text in quotes, or (",
    "COMPARE": "an operator such as >= or and",
    "_AND": "and, or, or the end",
    "RSQB": ", or ]",
    "TEXT": "a number or a text in quotes",
    "_IN": "in",
    "$END": "and, or, or the end",
    "RPAR": "and, or, or )",
}
_ALLOWED = (
    'an expression has columns, numbers, "texts", comparisons, + - * /, and, or, not, brackets, in, is missing; '
    "other names of columns stand in `backquotes`"
)


def parse(text: str) -> _Node:
    """The syntax tree of an expression. Raises UsageError that says where it goes wrong."""
    return _parsed(text)[0]


def levels(text: str, by: str | None = None) -> list[Asked]:
    """The levels in an expression, such as ``p5``, in the order in which they are written. Raises as ``parse``."""
    return [Asked(column, level, by) for _, column, level in _parsed(text)[1]]


def settle(text: str, table: ScoreTable, by: str | None = None) -> Settled:
    """The condition that an expression states; its words are the text, with levels as numbers.

    Raises UnknownName for a column or a kind of issue that the run lacks, UsageError as ``parse`` does and where types
    do not fit.
    """
    tree, places = _parsed(text)
    check_group(table, by)
    found = [look_up(table, asked) for asked in levels(text, by)]
    thresholds = {
        _start(token): threshold for (token, _, _), (threshold, _) in zip(places, found, strict=True)
    }
    value = _Reader(text, table, thresholds).truth(tree)
    if not value.expr.meta.root_names():
        raise UsageError(
            f"--where {_short(text)}: it names no column, so that it is the same for every record"
        )
    words = text
    for (token, _, _), (_, shown) in reversed(list(zip(places, found, strict=True))):
        words = words[: token.start_pos] + shown + words[token.end_pos :]
    return Settled(" ".join(words.split()), value.expr, value.compared)


# ---------------------------------------------------------------- from text to tree


@cache
def _grammar() -> Lark:
    text = resources.files(__package__).joinpath("expressions.lark").read_text(encoding="utf-8")
    return Lark(text, parser="lalr", maybe_placeholders=True, propagate_positions=True)


@lru_cache(maxsize=64)
def _parsed(text: str) -> tuple[_Node, list[tuple[Token, str, Level]]]:
    """The tree, and every level with the column that it is a level of."""
    if len(text) > LONGEST:
        raise UsageError(
            f"--where: the expression has {len(text):,} characters; at most {LONGEST:,} are read"
        )
    half = re.search("[\ud800-\udfff]", text)
    if half:
        raise _refused(text, half.start(), half[0], "half of a surrogate pair is no character")
    try:
        tree = _grammar().parse(text)
    except UnexpectedInput as error:
        raise _unread(text, error) from None
    if not isinstance(tree, Tree):  # a single word
        return tree, []
    depths: dict[int, int] = {}
    places = []
    for node in tree.iter_subtrees():  # from the leaves up, without recursion
        # A sum is computed from left to right, each step within the next.
        steps = len(node.children) // 2 if node.data in ("sum", "product") else 1
        depths[id(node)] = steps + max((depths.get(id(child), 0) for child in node.children), default=0)
        if depths[id(node)] > DEEPEST:
            raise UsageError(f"--where: more than {DEEPEST} operations stand within one another; split it")
        if node.data == "comparison":
            places += _levels_of(text, node)
    return tree, sorted(places, key=lambda place: _start(place[0]))


def _levels_of(text: str, comparison: Tree[Token]) -> list[tuple[Token, str, Level]]:
    """The levels within a chain of comparisons: each is compared with one column."""
    operands = comparison.children[::2]
    places = []
    for i, token in enumerate(operands):
        if not (isinstance(token, Token) and token.type == "LEVEL"):
            continue
        columns = [
            _name(beside)
            for beside in (*operands[max(i - 1, 0) : i], *operands[i + 1 : i + 2])
            if isinstance(beside, Token) and beside.type in ("COLUMN", "QUOTED")
        ]
        number = token.lstrip("pzmad")
        level = Level.parse(token) if not (token.startswith("p") and float(number) > 100) else None
        if level is None or len(set(columns)) != 1:
            why = (
                "a percentile is p0 to p100"
                if level is None
                else "a level stands beside one column, as in m < p5"
            )
            raise _refused(text, _start(token), str(token), why)
        places.append((token, columns[0], level))
    return places


def _unread(text: str, error: UnexpectedInput) -> UsageError:
    """What a syntax error says to people."""
    at = error.pos_in_stream if error.pos_in_stream is not None else len(text)
    if isinstance(error, UnexpectedToken):
        ended, found, able = error.token.type == "$END", str(error.token), error.accepts or error.expected
    else:
        assert isinstance(error, UnexpectedCharacters)
        ended, found, able = False, text[at], error.allowed or set()
    why = next((f"expected {words}" for name, words in _EXPECTED.items() if name in able), "")
    if found == "=":
        why = "write == for equal"
    elif isinstance(error, UnexpectedToken) and error.token.type == "LEVEL":
        why = f"a level such as {found} stands beside a comparison, and a column of that name in backquotes"
    return _refused(text, len(text) if ended else at, "" if ended else found, f"{why}; {_ALLOWED}")


def _refused(text: str, at: int, found: str, why: str) -> UsageError:
    place = f"at column {at + 1} ({found[:20]!r})" if found else "at its end"
    if len(text) <= SHOWN and text.isprintable():
        return UsageError(f'--where: I cannot read "{text}" {place}; {why}')
    return UsageError(f"--where: I cannot read it {place}, after {text[max(at - 30, 0) : at]!r}; {why}")


def _start(token: Token) -> int:
    assert token.start_pos is not None
    return token.start_pos


def _short(text: str) -> str:
    return repr(text if len(text) <= SHOWN else text[: SHOWN - 1] + "…")


def _name(token: Token) -> str:
    """The name of a column, out of its backquotes."""
    return str(token) if token.type == "COLUMN" else token[1:-1].replace("``", "`")


def _unquoted(token: Token) -> str:
    return re.sub(r"\\(.)", r"\1", token[1:-1])


# ---------------------------------------------------------------- from tree to polars


@dataclass(frozen=True)
class _Value:
    """What a part of an expression is: an expression of polars, what it gives, and how it is written.

    ``fixed`` tells what records are held against: numbers, texts and levels.
    """

    expr: pl.Expr
    kind: _Kind
    text: str
    compared: tuple[Comparison, ...] = ()
    fixed: bool = False


class _Reader:
    """Turns the tree of one expression into polars; ``thresholds`` are its levels by their position."""

    def __init__(self, text: str, table: ScoreTable, thresholds: Mapping[int, pl.Expr]) -> None:
        self.text = text
        self.table = table
        self.thresholds = thresholds

    def read(self, node: _Node) -> _Value:
        """The value of any node."""
        if isinstance(node, Token):
            return self._leaf(node)
        value: _Value = getattr(self, f"_{node.data}")(node.children, self._text(node))
        return value

    def truth(self, node: _Node) -> _Value:
        """The value of a node that must be true or false."""
        value = self._of(node, "truth")
        if isinstance(node, Token) and not value.fixed:
            return replace(value, compared=(Comparison(value.text, value.expr),))
        return value

    def _text(self, node: _Node) -> str:
        where = node if isinstance(node, Token) else node.meta
        return self.text[where.start_pos : where.end_pos]

    def _misfit(self, why: str) -> UsageError:
        return UsageError(f"--where {_short(self.text)}: {why}")

    def _of(self, node: _Node, kind: _Kind) -> _Value:
        value = self.read(node)
        if value.kind != kind:
            needed = "a comparison" if kind == "truth" else _KINDS[kind]
            raise self._misfit(f"{value.text} is {_KINDS[value.kind]}, where {needed} is expected")
        return value

    def _leaf(self, token: Token) -> _Value:
        text = str(token)
        if token.type == "LEVEL":
            return _Value(self.thresholds[_start(token)], "number", text, fixed=True)
        if token.type == "NUMBER":
            if not math.isfinite(float(text)):
                raise self._misfit(f"{text} is too large a number")
            return _Value(pl.lit(float(text)), "number", text, fixed=True)
        if token.type == "TEXT":
            return _Value(pl.lit(_unquoted(token), dtype=pl.String), "text", text, fixed=True)
        if token.type == "TRUTH":
            return _Value(pl.lit(text == "true"), "truth", text, fixed=True)
        name = _name(token)
        hint = f'a text stands in quotes: "{name}"' if token.type == "COLUMN" else ""
        deviation = re.fullmatch(r"(z|mad)([0-9]+)", name)
        if deviation:
            hint = "a level in an expression has its side: {0}-{1} or {0}+{1}".format(*deviation.groups())
        self.table.check(name, hint=hint)
        dtype = self.table.schema[name]
        if dtype.is_numeric():
            return _Value(present(name), "number", name)
        if dtype in (pl.String, pl.Categorical, pl.Enum):
            return _Value(pl.col(name).cast(pl.String), "text", name)
        if dtype == pl.Boolean:
            return _Value(pl.col(name), "truth", name)
        raise self._misfit(f"{name} is neither a number nor a text nor true or false")

    def _any_of(self, nodes: Sequence[_Node], text: str) -> _Value:
        parts = [self.truth(node) for node in nodes]
        return _Value(pl.any_horizontal(p.expr for p in parts), "truth", text, _compared(parts))

    def _all_of(self, nodes: Sequence[_Node], text: str) -> _Value:
        parts = [self.truth(node) for node in nodes]
        return _Value(pl.all_horizontal(p.expr for p in parts), "truth", text, _compared(parts))

    def _negated(self, nodes: Sequence[_Node], text: str) -> _Value:
        part = self.truth(nodes[-1])
        return _Value(~part.expr, "truth", text, other_side(part.compared))

    def _signed(self, nodes: Sequence[_Node], text: str) -> _Value:
        part = self._of(nodes[-1], "number")
        return _Value(-part.expr if nodes[0] == "-" else part.expr, "number", text, fixed=part.fixed)

    def _sum(self, nodes: Sequence[_Node], text: str) -> _Value:
        parts = [self._of(node, "number") for node in nodes[::2]]
        total = parts[0].expr
        for sign, part in zip(nodes[1::2], parts[1:], strict=True):
            if sign == "/":
                total = pl.when(part.expr != 0).then(total / part.expr)
            else:
                total = _COMPUTED[str(sign)](total, part.expr)
        # Beyond the largest number, a difference may be none.
        return _Value(total.fill_nan(None), "number", text, fixed=all(part.fixed for part in parts))

    _product = _sum

    def _comparison(self, nodes: Sequence[_Node], text: str) -> _Value:
        operands = [self.read(node) for node in nodes[::2]]
        steps = [
            self._step(left, str(sign), right)
            for left, sign, right in zip(operands[:-1], nodes[1::2], operands[1:], strict=True)
        ]
        return _Value(pl.all_horizontal(s.expr for s in steps), "truth", text, _compared(steps))

    def _step(self, left: _Value, sign: str, right: _Value) -> _Value:
        self._alike(left, right)
        if left.kind != "number" and sign not in ("==", "!="):
            raise self._misfit(f"{left.text} is {_KINDS[left.kind]}, which is compared with == or != alone")
        holds = _COMPARED[sign](left.expr, right.expr)
        if left.fixed:
            left, right, sign = right, left, _MIRRORED[sign]
        if left.fixed:
            return _Value(holds, "truth", "")
        if left.kind == "number":
            compared = Comparison(left.text, left.expr, right.expr, _SIDES.get(sign, ""))
        else:
            compared = Comparison(left.text, left.expr, texts=_texts([right]))
        return _Value(holds, "truth", "", (compared,))

    def _alike(self, left: _Value, right: _Value) -> None:
        if left.kind != right.kind:
            raise self._misfit(
                f"{left.text} is {_KINDS[left.kind]} and {right.text} is {_KINDS[right.kind]}; "
                f"only alike things are compared, and texts stand in quotes"
            )

    def _member(self, nodes: Sequence[_Node | None], text: str) -> _Value:
        first, negated, *rest = nodes
        assert first is not None
        value, items = self.read(first), [self.read(node) for node in rest if node is not None]
        for item in items:
            self._alike(value, item)
        wanted = pl.select(item.expr.alias(str(i)) for i, item in enumerate(items)).row(0)
        found = value.expr.is_in(wanted)
        compared = () if value.fixed else (Comparison(value.text, value.expr, texts=_texts(items)),)
        return _Value(~found if negated else found, "truth", text, compared)

    def _issue(self, nodes: Sequence[_Node | None], text: str) -> _Value:
        first, negated, _ = nodes
        if not (isinstance(first, Token) and first.type == "TEXT"):
            raise self._misfit('a kind of issue is a text, as in "small_image" in issues')
        kind = _unquoted(first)
        self.table.check_kind(kind)
        found = self.table.has_issue(frozenset((kind,)))
        compared = Comparison("issues", self.table.issues_named(frozenset((kind,))))
        return _Value(~found if negated else found, "truth", text, (compared,))

    def _missing(self, nodes: Sequence[_Node | None], text: str) -> _Value:
        first, negated = nodes
        assert first is not None
        value = self.read(first)
        missing = value.expr.is_not_null() if negated else value.expr.is_null()
        compared = () if value.fixed else (Comparison(value.text, value.expr),)
        return _Value(missing, "truth", text, compared)


def _texts(values: Iterable[_Value]) -> tuple[str, ...]:
    """The texts among these that are written out."""
    return tuple(pl.select(v.expr).item() for v in values if v.kind == "text" and v.fixed)


def _compared(parts: Iterable[_Value]) -> tuple[Comparison, ...]:
    return tuple(comparison for part in parts for comparison in part.compared)
