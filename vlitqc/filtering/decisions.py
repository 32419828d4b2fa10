"""Decisions: which record fails which rule, one bit a rule, found in one pass over the scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from vlitqc.errors import UsageError
from vlitqc.filtering.conditions import Threshold
from vlitqc.filtering.levels import Level, find
from vlitqc.filtering.rules import Missing, Rule, Settled
from vlitqc.filtering.table import ScoreTable

MAX_RULES = 64
"""Rules that can be applied at once: one bit each."""

SHOWN = 3
"""Ids that a message names."""


@dataclass(frozen=True, eq=False)
class Decided:
    """What every rule says of every record, in the order of the input.

    ``rules`` are settled and in the order given, their words told apart. Bit k of ``failed`` is set where the record
    fails rule k; it is 0 for unreadable ones. ``unknown`` counts, for every rule, the readable records of which it
    cannot be told.
    """

    rules: tuple[Settled, ...]
    failed: NDArray[np.uint64]
    unknown: tuple[int, ...]
    unreadable: NDArray[np.bool_]

    def fails(self, k: int) -> NDArray[np.bool_]:
        """Whether each record fails rule k."""
        mask: NDArray[np.bool_] = (self.failed >> np.uint64(k)) & np.uint64(1) == 1
        return mask

    @cached_property
    def by_rule(self) -> dict[str, int]:
        """The number of records that fail each rule, by its words."""
        counts = _count(*self.patterns, len(self.rules))
        return dict(zip((rule.words for rule in self.rules), counts, strict=True))

    @cached_property
    def patterns(self) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
        """The distinct values of ``failed`` among readable records, sorted, and how many records have each."""
        return _patterns(pl.Series(self.failed).filter(~pl.Series(self.unreadable)))


def decide(table: ScoreTable, rules: Sequence[Rule]) -> Decided:
    """What every rule says of every record, in one pass over the scores once their levels are known.

    A record fails a rule where its condition is true, or unknown and ``missing`` is ``drop``. The words of the latter
    end in "or missing"; words that would be the same have the rule's number behind them.

    Raises UsageError for more than ``MAX_RULES`` rules, and where ``missing`` is ``error`` and the condition of a
    readable record is unknown; and as the conditions do.
    """
    if len(rules) > MAX_RULES:
        raise UsageError(f"there are {len(rules)} rules, and at most {MAX_RULES} can be applied at once")
    find(table, (asked for rule in rules for asked in rule.drop.asks()))
    settled: list[Settled] = []
    for k, rule in enumerate(rules):
        condition = rule.drop.settle(table)
        words = f"{condition.words} or missing" if rule.missing == "drop" else condition.words
        if any(words == other.words for other in settled):
            words = f"{words} (rule {k + 1})"
        settled.append(replace(condition, words=words, name=rule.name))
    readable = pl.col("state") != "unreadable"
    # What is false and unknown is false: of an unreadable record no rule is true or unknown.
    holds = [(rule.holds & readable).alias(str(k)) for k, rule in enumerate(settled)]
    fails = [pl.col(str(k)).fill_null(rule.missing == "drop") for k, rule in enumerate(rules)]
    unsure = [pl.col(str(k)).is_null() for k in range(len(rules))]
    found = (
        table.scores.select((~readable).alias("unreadable"), *holds)
        .select("unreadable", failed=_bits(fails), unsure=_bits(unsure))
        .collect(engine="streaming")
    )
    unknown = _count(*_patterns(found["unsure"]), len(rules))
    for k, rule in enumerate(rules):
        if rule.missing == "error" and unknown[k]:
            raise UsageError(_told_missing(table, settled[k], found["unsure"], k, unknown[k]))
    return Decided(tuple(settled), found["failed"].to_numpy(), unknown, found["unreadable"].to_numpy())


def floors(metrics: Mapping[str, Mapping[str, Any]], missing: Missing = "keep") -> list[Rule]:
    """The recommended floors of a run's profile as rules, for the metrics that it scored.

    Raises UsageError where there is none.
    """
    found = [
        Rule(
            Threshold(name, "below", Level("at", float(m["floor"]))),
            missing,
            because=f"the profile recommends no less of {name}",
        )
        for name, m in metrics.items()
        if m["floor"] is not None and m["n_scored"]
    ]
    if not found:
        raise UsageError(
            "the run's profile recommends no floor for what it scored; name one, as in --drop-below METRIC=p10"
        )
    return found


def _bits(truths: Sequence[pl.Expr]) -> pl.Expr:
    """Bit k is set where the k-th is true."""
    bits = [truth.cast(pl.UInt64) * pl.lit(1 << k, dtype=pl.UInt64) for k, truth in enumerate(truths)]
    return pl.sum_horizontal(bits) if bits else pl.col("unreadable").cast(pl.UInt64) * 0


def _patterns(bits: pl.Series) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    counts = bits.alias("bits").value_counts(name="n").sort("bits")
    return counts["bits"].to_numpy(), counts["n"].to_numpy().astype(np.int64)


def _count(patterns: NDArray[np.uint64], counts: NDArray[np.int64], rules: int) -> tuple[int, ...]:
    """For every rule, the number of records whose pattern has its bit."""
    return tuple(int(counts[patterns >> np.uint64(k) & np.uint64(1) == 1].sum()) for k in range(rules))


def _told_missing(table: ScoreTable, rule: Settled, unsure: pl.Series, k: int, n: int) -> str:
    places = np.flatnonzero(unsure.to_numpy() >> np.uint64(k) & np.uint64(1))[:SHOWN]
    ids = table.collect("id")["id"].gather(places).to_list()
    shown = ", ".join(map(repr, ids)) + (", …" if n > len(ids) else "")
    return (
        f"the rule '{rule.words}' cannot be told for {n:,} of the readable records, which lack a score or stand in a "
        f"group without a level: {shown}; "
        f"say keep or drop for missing scores, or score them"
    )
