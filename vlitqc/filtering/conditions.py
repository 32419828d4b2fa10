"""Conditions: thresholds, issues and expressions, and what ``and``, ``or`` and ``not`` make of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import ClassVar, get_args

import polars as pl

from vlitqc.errors import UnknownName, UsageError
from vlitqc.filtering import expressions
from vlitqc.filtering.levels import EXPECTED, Asked, Level, Side, look_up, present
from vlitqc.filtering.rules import Comparison, Condition, Settled
from vlitqc.filtering.table import SEVERITIES, ScoreTable

DEEPEST = 100
"""Conditions that may stand within one another."""


class Composable(Condition):
    """A condition that ``&``, ``|`` and ``~`` make others of: ``And``, ``Or`` and ``Not``.

    ``depth`` is how many conditions stand within one another in it.
    """

    depth = 0

    def __and__(self, other: Composable) -> And:
        return And((self, other)) if isinstance(other, Composable) else NotImplemented

    def __or__(self, other: Composable) -> Or:
        return Or((self, other)) if isinstance(other, Composable) else NotImplemented

    def __invert__(self) -> Not:
        return Not(self)


@dataclass(frozen=True)
class Threshold(Composable):
    """A score that lies strictly below (or above) a level; unknown where there is no score, or no level.

    With ``by``, a column of text, a level that is no number is that of the record's group; null is a group too. A
    group with too few scores has no level. Raises UsageError for what is no column, side or level.
    """

    column: str
    side: Side
    level: Level
    by: str | None = None

    def __post_init__(self) -> None:
        _check_names(self.column, self.by)
        if self.side not in get_args(Side):
            raise UsageError(f"side={self.side!r}: expected below or above")
        if not isinstance(self.level, Level):
            raise UsageError(f"level={self.level!r}: expected vlitqc.Level, as in vlitqc.Level.parse('p10')")

    @classmethod
    def parse(cls, text: str, side: Side, by: str | None = None) -> Threshold:
        """From ``metric=level`` or ``metric=level,by=task``. Raises UsageError saying what was expected."""
        metric, equals, rest = text.partition("=")
        level, comma, group = rest.partition(",")
        key, _, name = group.partition("=")
        if not equals or not metric.strip() or (comma and (key.strip() != "by" or not name.strip())):
            raise UsageError(
                f"--drop-{side} {text!r}: expected METRIC=LEVEL with a level such as 12.5, p10, z2 or mad3, as in "
                f"matching_degree=p10; with a level for each group, as in matching_degree=p10,by=task; and with what "
                f"becomes of records without a score, as in matching_degree=p10,missing=drop"
            )
        try:
            return cls(metric.strip(), side, Level.parse(level), name.strip() or by)
        except UsageError:
            raise UsageError(f"--drop-{side} {metric.strip()}={level}: expected {EXPECTED}") from None

    def asks(self) -> Iterator[Asked]:
        """Its level."""
        yield Asked(self.column, self.level.on(self.side), self.by)

    def settle(self, table: ScoreTable) -> Settled:
        """Raises UnknownName where the run has no such metric or no such group."""
        value = present(table.check_number(self.column))
        threshold, words = look_up(table, *self.asks())
        below = self.side == "below"
        return Settled(
            f"{self.column} {'<' if below else '>'} {words}",
            value < threshold if below else value > threshold,
            (Comparison(self.column, value, threshold, self.side),),
        )


@dataclass(frozen=True)
class HasIssue(Composable):
    """An issue of one of these kinds, of this severity, or both. No kinds stand for every kind.

    The name of a severity is a kind too: all of its issues. Raises UsageError without a kind and a severity.
    """

    kinds: tuple[str, ...] = ()
    severity: str | None = None

    def __post_init__(self) -> None:
        kinds = (self.kinds,) if isinstance(self.kinds, str) else tuple(self.kinds)
        _check_names(*kinds)
        if self.severity is not None and self.severity not in SEVERITIES:
            raise UnknownName("severity of issues", str(self.severity), SEVERITIES)
        if not kinds and self.severity is None:
            raise UsageError("an issue needs a kind, such as exact_duplicate, or a severity, such as error")
        object.__setattr__(self, "kinds", kinds)

    @classmethod
    def parse(cls, text: str) -> HasIssue:
        """From the name of a kind, or of a severity."""
        return cls((text,))

    def asks(self) -> Iterator[Asked]:
        """Nothing."""
        return iter(())

    def settle(self, table: ScoreTable) -> Settled:
        """A kind that the run did not find holds for no record.

        Raises UnknownName for a kind that vlitqc does not know either.
        """
        for kind in self.kinds:
            table.check_kind(kind)
        kinds = frozenset(self.kinds)
        named = " or ".join(self.kinds)
        of = f"{named} of severity {self.severity}" if named and self.severity else named or self.severity
        return Settled(
            f"issue {of}",
            table.has_issue(kinds, self.severity),
            (Comparison("issues", table.issues_named(kinds, self.severity)),),
        )


@dataclass(frozen=True)
class Where(Composable):
    """An expression over columns, such as ``matching_degree >= 22 and (text_only or image_readability > p5)``.

    ``by`` is a column of text: levels such as ``p5`` are then those of the record's group, and in a group with too
    few scores for a level a comparison with it is unknown. Raises UsageError for text that is no expression.
    """

    text: str
    by: str | None = None

    def __post_init__(self) -> None:
        _check_names(self.text, self.by)
        expressions.parse(self.text)

    def asks(self) -> Iterator[Asked]:
        """Every level in the text."""
        return iter(expressions.levels(self.text, self.by))

    def settle(self, table: ScoreTable) -> Settled:
        """Raises UnknownName for a column or an issue, UsageError where types do not fit."""
        return expressions.settle(self.text, table, self.by)


TOGETHER = {"and": pl.all_horizontal, "or": pl.any_horizontal}


@dataclass(frozen=True)
class _Joined(Composable):
    """Conditions joined by a word."""

    conditions: tuple[Condition, ...]

    word: ClassVar[str]

    def __post_init__(self) -> None:
        object.__setattr__(self, "conditions", _parts(self.conditions, self.word))
        object.__setattr__(self, "depth", _depth(*self.conditions))

    def asks(self) -> Iterator[Asked]:
        """What its conditions ask."""
        return (asked for condition in self.conditions for asked in condition.asks())

    def settle(self, table: ScoreTable) -> Settled:
        """Raises as its conditions do."""
        settled = [condition.settle(table) for condition in self.conditions]
        return Settled(
            _joined(settled, self.word), TOGETHER[self.word](s.holds for s in settled), _compared(settled)
        )


class And(_Joined):
    """True where all are true, false where one is false."""

    word = "and"


class Or(_Joined):
    """True where one is true, false where all are false."""

    word = "or"


@dataclass(frozen=True)
class Not(Composable):
    """True where the condition is false."""

    condition: Condition

    def __post_init__(self) -> None:
        _parts((self.condition,), "not")
        object.__setattr__(self, "depth", _depth(self.condition))

    def asks(self) -> Iterator[Asked]:
        """What its condition asks."""
        return self.condition.asks()

    def settle(self, table: ScoreTable) -> Settled:
        """Raises as its condition does."""
        return self.condition.settle(table).negated()


def _check_names(*names: object) -> None:
    for name in names:
        if name is not None and not (isinstance(name, str) and name):
            raise UsageError(
                f"{name!r} is no name of a column or an issue, and no expression; expected a text"
            )


def _parts(conditions: Iterable[Condition], word: str) -> tuple[Condition, ...]:
    parts = (conditions,) if isinstance(conditions, Condition | str) else tuple(conditions)
    if not parts:
        raise UsageError(f"'{word}' needs at least one condition")
    for part in parts:
        if not isinstance(part, Condition):
            raise UsageError(f"'{word}': {part!r} is no condition; expected one such as vlitqc.HasIssue(…)")
    return parts


def _depth(*conditions: Condition) -> int:
    depth = 1 + max(getattr(condition, "depth", 0) for condition in conditions)
    if depth > DEEPEST:
        raise UsageError(
            f"more than {DEEPEST} conditions stand within one another; put them into one And or Or"
        )
    return depth


def _joined(settled: list[Settled], word: str) -> str:
    if len(settled) == 1:
        return settled[0].words
    return f" {word} ".join(f"({s.words})" for s in settled)


def _compared(settled: list[Settled]) -> tuple[Comparison, ...]:
    return tuple(comparison for s in settled for comparison in s.compared)
