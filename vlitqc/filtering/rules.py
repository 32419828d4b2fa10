"""Rules as data: what a condition is, what it is once its levels are numbers, and what a missing score means."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal, Protocol, get_args, runtime_checkable

import polars as pl

from vlitqc.errors import UnknownName, UsageError
from vlitqc.filtering.levels import Asked, Side
from vlitqc.filtering.table import ScoreTable

Missing = Literal["keep", "drop", "error"]
"""What becomes of a record for which a rule cannot be told, because a score that it needs is missing."""


@dataclass(frozen=True)
class Comparison:
    """One comparison of a condition: what the record has, and what it is held against.

    Both are expressions over the table of scores. ``value`` is a number, a text or a truth value. ``threshold`` is a
    ``Float64``, which may differ between records (``--by task``), or None where nothing is measured. ``below`` and
    ``above`` tell on which side of the threshold the condition is true; "" where neither is. ``texts`` are those that
    a text is held against.
    """

    column: str
    value: pl.Expr
    threshold: pl.Expr | None = None
    side: Side | Literal[""] = ""
    texts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Settled:
    """A condition whose levels are numbers. ``holds`` is a Boolean, null where a score is missing.

    ``words`` tell rules apart; ``name`` is what a table calls the rule, where that is shorter.
    """

    words: str
    holds: pl.Expr
    compared: tuple[Comparison, ...]
    name: str = ""

    def negated(self) -> Settled:
        """True where this is false, false where it is true, unknown where it is unknown."""
        return Settled(f"not ({self.words})", ~self.holds, other_side(self.compared))


def other_side(compared: tuple[Comparison, ...]) -> tuple[Comparison, ...]:
    """The comparisons of a condition that is negated."""
    turned: dict[Side | Literal[""], Side | Literal[""]] = {"below": "above", "above": "below", "": ""}
    return tuple(replace(c, side=turned[c.side]) for c in compared)


@runtime_checkable
class Condition(Protocol):
    """What is true, false or unknown of a record (Kleene's logic): a threshold, an issue, an expression, and the
    conditions made of others."""

    def asks(self) -> Iterator[Asked]:
        """Every level that the condition needs, so that those of one column can be computed together."""
        ...

    def settle(self, table: ScoreTable) -> Settled:
        """The condition with its percentiles and deviations computed from the scores present in ``table``.

        Raises UnknownName for a column or an issue that the run lacks, UsageError for one of the wrong type.
        """
        ...


@dataclass(frozen=True)
class Rule:
    """Drop the records for which ``drop`` is true; ``missing`` says what becomes of those where it is unknown.

    ``because`` is a sentence for people: why such records should go. ``name`` is a few words for it in tables, by
    default the condition's own. Raises UsageError for what is no condition, UnknownName for another ``missing``.
    """

    drop: Condition
    missing: Missing = "keep"
    because: str = ""
    name: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.drop, Condition):
            raise UsageError(f"rules: {self.drop!r} is no condition; expected one such as vlitqc.HasIssue(…)")
        if self.missing not in get_args(Missing):
            raise UnknownName("way with missing scores", str(self.missing), get_args(Missing))
