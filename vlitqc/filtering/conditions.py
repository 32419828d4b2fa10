"""Conditions: thresholds, issues and expressions, and what ``and``, ``or`` and ``not`` make of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import polars as pl

from vlitqc.errors import UnknownName, UsageError
from vlitqc.filtering import expressions
from vlitqc.filtering.levels import EXPECTED, Asked, Level, Side, look_up, present
from vlitqc.filtering.rules import Comparison, Condition, Settled
from vlitqc.filtering.table import ScoreTable

SEVERITIES = ("error", "warning", "note")


class Composable(Condition):
    """A condition that ``&``, ``|`` and ``~`` make others of: ``And``, ``Or`` and ``Not``."""

    def __and__(self, other: Composable) -> And:
        return And((self, other)) if isinstance(other, Composable) else NotImplemented

    def __or__(self, other: Composable) -> Or:
        return Or((self, other)) if isinstance(other, Composable) else NotImplemented

    def __invert__(self) -> Not:
        return Not(self)


@dataclass(frozen=True)
class Threshold(Composable):
    """A score that lies strictly below (or above) a level; unknown where there is no score.

    With ``by``, a column of text, a level that is no number is that of the record's group; null is a group too.
    """

    column: str
    side: Side
    level: Level
    by: str | None = None

    @classmethod
    def parse(cls, text: str, side: Side, by: str | None = None) -> Threshold:
        """From ``metric=level`` or ``metric=level,by=task``. Raises UsageError saying what was expected."""
        metric, equals, rest = text.partition("=")
        level, comma, group = rest.partition(",")
        key, _, name = group.partition("=")
        if not equals or not metric.strip() or (comma and (key.strip() != "by" or not name.strip())):
            raise UsageError(
                f"--drop-{side} {text!r}: expected METRIC=NUMBER or METRIC=pPERCENT, as in matching_degree=p10, "
                f"or with a level for each group, as in matching_degree=p10,by=task"
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
    """An issue of one of these kinds, of this severity, or both. No kinds stand for every kind."""

    kinds: tuple[str, ...] = ()
    severity: str | None = None

    @classmethod
    def parse(cls, text: str) -> HasIssue:
        """From the name of a kind, or of a severity."""
        return cls(severity=text) if text in SEVERITIES else cls((text,))

    def asks(self) -> Iterator[Asked]:
        """Nothing."""
        return iter(())

    def settle(self, table: ScoreTable) -> Settled:
        """A kind that the run did not find holds for no record.

        Raises UnknownName for a kind that vlitqc does not know either, UsageError without a kind and a severity.
        """
        for kind in self.kinds:
            table.check_kind(kind)
        if self.severity is not None and self.severity not in SEVERITIES:
            raise UnknownName("severity of issues", self.severity, SEVERITIES)
        if not self.kinds and self.severity is None:
            raise UsageError("an issue needs a kind, such as exact_duplicate, or a severity, such as error")
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

    ``by`` is a column of text: levels such as ``p5`` are then those of the record's group.
    Raises UsageError for text that is no expression.
    """

    text: str
    by: str | None = None

    def __post_init__(self) -> None:
        expressions.parse(self.text)

    def asks(self) -> Iterator[Asked]:
        """Every level in the text."""
        return iter(expressions.levels(self.text, self.by))

    def settle(self, table: ScoreTable) -> Settled:
        """Raises UnknownName for a column or an issue, UsageError where types do not fit."""
        return expressions.settle(self.text, table, self.by)


@dataclass(frozen=True)
class And(Composable):
    """True where all are true, false where one is false."""

    conditions: tuple[Condition, ...]

    def __post_init__(self) -> None:
        _check(self.conditions, "and")

    def asks(self) -> Iterator[Asked]:
        """What its conditions ask."""
        return (asked for condition in self.conditions for asked in condition.asks())

    def settle(self, table: ScoreTable) -> Settled:
        """Raises as its conditions do."""
        settled = [condition.settle(table) for condition in self.conditions]
        return Settled(
            _joined(settled, "and"), pl.all_horizontal(s.holds for s in settled), _compared(settled)
        )


@dataclass(frozen=True)
class Or(Composable):
    """True where one is true, false where all are false."""

    conditions: tuple[Condition, ...]

    def __post_init__(self) -> None:
        _check(self.conditions, "or")

    def asks(self) -> Iterator[Asked]:
        """What its conditions ask."""
        return (asked for condition in self.conditions for asked in condition.asks())

    def settle(self, table: ScoreTable) -> Settled:
        """Raises as its conditions do."""
        settled = [condition.settle(table) for condition in self.conditions]
        return Settled(
            _joined(settled, "or"), pl.any_horizontal(s.holds for s in settled), _compared(settled)
        )


@dataclass(frozen=True)
class Not(Composable):
    """True where the condition is false."""

    condition: Condition

    def asks(self) -> Iterator[Asked]:
        """What its condition asks."""
        return self.condition.asks()

    def settle(self, table: ScoreTable) -> Settled:
        """Raises as its condition does."""
        return self.condition.settle(table).negated()


def _check(conditions: tuple[Condition, ...], word: str) -> None:
    if not conditions:
        raise UsageError(f"'{word}' needs at least one condition")


def _joined(settled: list[Settled], word: str) -> str:
    if len(settled) == 1:
        return settled[0].words
    return f" {word} ".join(f"({s.words})" for s in settled)


def _compared(settled: list[Settled]) -> tuple[Comparison, ...]:
    return tuple(comparison for s in settled for comparison in s.compared)
