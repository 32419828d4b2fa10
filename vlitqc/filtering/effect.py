"""What a filter would do, before it does it: by rule, by group, to the scorecard, and at the edge of each threshold."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from vlitqc.engine.run import Run
from vlitqc.engine.subset import LIMIT, summaries
from vlitqc.filtering.audit import batches
from vlitqc.filtering.decisions import Decided
from vlitqc.filtering.rules import Rule
from vlitqc.filtering.selection import random_control
from vlitqc.filtering.table import ScoreTable

GROUPED_BY = ("task", "source")
MOST_GROUPS = 20
CLOSEST = 3

BLOCK = 1 << 16
"""Patterns of failed rules looked at together; with many rules there are nearly as many patterns as records."""

NEAR = {
    "row": pl.Int64,
    "id": pl.String,
    "value": pl.Float64,
    "threshold": pl.Float64,
    "distance": pl.Float64,
}


@dataclass(frozen=True)
class RuleEffect:
    """One rule: how many readable records fail it, fail nothing else, and cannot be told for want of a score.

    ``share`` is ``n`` of the readable records, 0 to 1; 0 where there are none.
    """

    words: str
    because: str
    n: int
    only: int
    share: float
    unknown: int


@dataclass(frozen=True)
class Group:
    """The readable records of one group, and those of them that are kept; ``share`` is 0 to 1.

    ``name`` is None for records that have none.
    """

    name: str | None
    n: int
    kept: int
    share: float


@dataclass(frozen=True)
class Groups:
    """The largest groups of a column, and the sum over the ``n_rest`` others, None where there is no other."""

    column: str
    largest: tuple[Group, ...]
    n_rest: int
    rest: Group | None


@dataclass(frozen=True)
class Value:
    """A metric's value over some records with its 95% interval, or the reason why there is none."""

    value: float | None
    interval: tuple[float, float] | None
    n_scored: int
    reason: str | None


@dataclass(frozen=True)
class Moved:
    """How a metric moves: over the input, what is kept, and as many records drawn at random.

    The random draw is what ``kept`` is to be held against: a smaller set has fewer clusters and tasks by its size
    alone, so the input would make every filter look like a loss of diversity. ``beyond`` tells whether the intervals
    of ``kept`` and ``random`` lie apart, which chance seldom does; None where one of them is missing.
    """

    name: str
    title: str
    principle: str
    unit: str
    higher_is_better: bool | None
    input: Value
    kept: Value
    random: Value
    beyond: bool | None


@dataclass(frozen=True)
class Call:
    """A record near a threshold; ``distance`` is that of its value from it, 0 and up."""

    row: int
    id: str
    value: float
    threshold: float
    distance: float


@dataclass(frozen=True)
class Closest:
    """The records nearest to a threshold on each side, the nearest first; equal ones in the order of the input.

    A value that equals the threshold is in ``above``. ``side`` is as in ``Comparison``.
    """

    words: str
    column: str
    side: str
    below: tuple[Call, ...]
    above: tuple[Call, ...]


@dataclass(frozen=True)
class Effect:
    """What a filter does; all counts are of readable records, but ``unreadable``.

    ``not_selected`` are dropped although they fail no rule. ``overlaps[i][j]`` counts the records that fail both rule
    ``i`` and rule ``j``; on the diagonal stand the rules' own counts. ``drawn_from`` tells in words what the random
    draw of ``principles`` is of, ``note`` why there are none.
    """

    readable: int
    kept: int
    dropped: int
    not_selected: int
    unreadable: int
    rules: tuple[RuleEffect, ...]
    overlaps: tuple[tuple[int, ...], ...]
    groups: tuple[Groups, ...]
    principles: tuple[Moved, ...]
    drawn_from: str
    note: str | None
    closest: tuple[Closest, ...]

    def as_json(self) -> dict[str, Any]:
        """Every field as plain values that JSON can hold."""
        return asdict(self)


def effect(
    run: Run,
    table: ScoreTable,
    decided: Decided,
    kept: NDArray[np.bool_],
    *,
    seed: int,
    rules: Sequence[Rule] = (),
    pool: NDArray[np.bool_] | None = None,
    principles: bool = True,
    limit: int | None = LIMIT,
) -> Effect:
    """What it means to keep the records of ``kept``, one value a record in the order of the input.

    Args:
        run: the run that ``table`` is of; asked for its metrics alone.
        table: its scores, read one column at a time.
        decided: what every rule says of every record.
        kept: what stays, of rules and selection together.
        seed: of the random draw.
        rules: those that were settled as ``decided.rules``, for their ``because``; may be left out.
        pool: of a selection what it had to choose from, so that the random draw is the control that it writes;
            by default the draw is of all readable records.
        principles: whether to compute the metrics over what is kept and over the draw.
        limit: records over which data-set metrics are resolved, as in ``summaries``.

    Raises RunError where the run's files cannot be read.
    """
    readable = ~decided.unreadable
    kept = kept & readable
    n, n_kept = int(readable.sum()), int(kept.sum())
    metrics: tuple[Moved, ...] = ()
    note = None
    if not principles:
        note = "not asked for"
    elif n_kept == n:
        note = "nothing is dropped, so nothing moves"
    elif n_kept == 0:
        note = "nothing is kept"
    else:
        drawn = random_control(readable if pool is None else pool, n_kept, seed=seed)
        metrics = moved(run.metrics(), summaries(run, kept, limit=limit), summaries(run, drawn, limit=limit))
    return Effect(
        n,
        n_kept,
        n - n_kept,
        int((readable & ~kept & (decided.failed == 0)).sum()),
        len(kept) - n,
        *_rules(decided, n, rules),
        tuple(_groups(table, column, readable, kept) for column in GROUPED_BY if column in table.schema),
        metrics,
        "the input" if pool is None else "what the rules keep",
        note,
        _closest(table, decided),
    )


def _rules(
    decided: Decided, n: int, rules: Sequence[Rule]
) -> tuple[tuple[RuleEffect, ...], tuple[tuple[int, ...], ...]]:
    together, alone = _together(*decided.patterns, len(decided.rules))
    because = [rule.because for rule in rules] or [""] * len(decided.rules)
    told = tuple(
        RuleEffect(settled.words, why, fails, only, fails / n if n else 0.0, unknown)
        for settled, why, fails, only, unknown in zip(
            decided.rules, because, together.diagonal().tolist(), alone.tolist(), decided.unknown, strict=True
        )
    )
    return told, tuple(map(tuple, together.tolist()))


def _together(
    patterns: NDArray[np.uint64], counts: NDArray[np.int64], n_rules: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """For each pair of rules the records that fail both, and for each rule those that fail no other."""
    together = np.zeros((n_rules, n_rules))
    alone = np.zeros(n_rules)
    numbers = np.arange(n_rules, dtype=np.uint64)[:, None]
    for at in range(0, len(patterns), BLOCK):
        # In floats, which hold these counts exactly, the product is that of a fast library.
        bits = ((patterns[at : at + BLOCK] >> numbers) & np.uint64(1)).astype(np.float64)
        weighted = bits * counts[at : at + BLOCK]
        together += weighted @ bits.T
        alone += weighted[:, bits.sum(axis=0) == 1].sum(axis=1)
    return together.astype(np.int64), alone.astype(np.int64)


def _groups(table: ScoreTable, column: str, readable: NDArray[np.bool_], kept: NDArray[np.bool_]) -> Groups:
    # As categories a column of texts is read in a quarter of the memory.
    groups = table.collect(pl.col(column).cast(pl.Categorical).alias("group"))["group"]
    counted = (
        pl.DataFrame({"group": groups, "kept": kept})
        .filter(pl.Series(readable))
        .group_by("group")
        .agg(pl.len().alias("n"), pl.col("kept").sum())
        .with_columns(pl.col("group").cast(pl.String))
        .sort("n", "group", descending=[True, False], nulls_last=True)
    )
    largest = tuple(
        Group(name, n, k, k / n)
        for name, k, n in counted.head(MOST_GROUPS).select("group", "kept", "n").iter_rows()
    )
    others = counted.slice(MOST_GROUPS)
    n, k = int(others["n"].sum()), int(others["kept"].sum())
    return Groups(column, largest, len(others), Group(None, n, k, k / n) if n else None)


def moved(
    whole: Mapping[str, Mapping[str, Any]],
    kept: Mapping[str, Mapping[str, Any]],
    drawn: Mapping[str, Mapping[str, Any]],
) -> tuple[Moved, ...]:
    """The metrics' sections of three scorecards, side by side: of all records, of those kept, of a random draw."""
    return tuple(
        Moved(
            name,
            section["title"],
            section["principle"],
            section["unit"],
            section["higher_is_better"],
            _value(section),
            of_kept := _value(kept[name]),
            of_drawn := _value(drawn[name]),
            _apart(of_kept.interval, of_drawn.interval),
        )
        for name, section in whole.items()
    )


def _value(section: Mapping[str, Any]) -> Value:
    interval = tuple(section["interval"]) if section["interval"] else None
    return Value(section["value"], interval, section["n_scored"], section["reason"])


def _apart(one: tuple[float, float] | None, other: tuple[float, float] | None) -> bool | None:
    return None if one is None or other is None else one[0] > other[1] or one[1] < other[0]


def _closest(table: ScoreTable, decided: Decided) -> tuple[Closest, ...]:
    measured = [
        (settled.words, comparison, comparison.threshold)
        for settled in decided.rules
        for comparison in settled.compared
        if comparison.threshold is not None
    ]
    if not measured:
        return ()
    query = [pl.col("row"), pl.col("id").fill_null("")]
    for i, (_, comparison, bound) in enumerate(measured):
        query += [comparison.value.cast(pl.Float64).alias(f"value {i}"), bound.alias(f"threshold {i}")]
    sides = [(_Side(), _Side()) for _ in measured]
    # One pass for all thresholds: to open every part of a large run takes as long as to read a column.
    for batch in batches(table.scores.filter(pl.col("state") != "unreadable").select(query)):
        for i in range(len(measured)):
            found = batch.select("row", "id", value=f"value {i}", threshold=f"threshold {i}")
            value, threshold = found["value"].to_numpy(), found["threshold"].to_numpy()
            lower = value < threshold
            below, above = sides[i]
            below.meet(found, lower)
            above.meet(found, ~lower)
    return tuple(
        Closest(words, comparison.column, comparison.side, below.calls(), above.calls())
        for (words, comparison, _), (below, above) in zip(measured, sides, strict=True)
    )


class _Side:
    """The nearest records seen so far on one side of a threshold."""

    def __init__(self) -> None:
        self._near = pl.DataFrame(schema=NEAR)
        # A level without a spread to measure in is infinite, and no record is near it.
        self._worst = math.inf

    def meet(self, records: pl.DataFrame, here: NDArray[np.bool_]) -> None:
        """Look at further records, in the order of the input; only those of ``here`` are on this side."""
        with np.errstate(invalid="ignore"):
            distance = np.abs(records["value"].to_numpy() - records["threshold"].to_numpy())
        nearer = np.flatnonzero(here & (distance < self._worst))
        if len(nearer):
            found = records[nearer].with_columns(distance=distance[nearer])
            self._near = pl.concat([self._near, found]).bottom_k(CLOSEST, by=["distance", "row"])
            if len(self._near) == CLOSEST:
                self._worst = float(self._near["distance"].to_numpy().max())

    def calls(self) -> tuple[Call, ...]:
        """The nearest first."""
        return tuple(Call(*record) for record in self._near.sort("distance", "row").iter_rows())
