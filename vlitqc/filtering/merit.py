"""The order in which a selection takes records: quality × complexity, from the scores of the run."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray

from vlitqc.engine.run import Run
from vlitqc.filtering.table import ScoreTable
from vlitqc.types import Principle

QUALITY = (Principle.READABILITY, Principle.CORRECTNESS)
COMPLEXITY = (Principle.INSTRUCTION_COMPLEXITY, Principle.OBJECT_COMPLEXITY, Principle.VISUAL_COMPLEXITY)
UNKNOWN = 0.5
"""The middle of all ranks."""


def merit(run: Run, table: ScoreTable) -> tuple[NDArray[np.float64], list[str]]:
    """Quality × complexity of every record, 0 to 1, and notes on what the run has no scores of.

    Each is the mean over its principles of the mean percentile rank (mid-rank, 0 to 1, among all scores of the run;
    1 is best) of the principle's sample metrics. A metric of which neither end is better is left out, and so is a
    principle that a record has no score of; without any the value is 0.5.
    """
    value = np.ones(len(table.collect("row")))
    notes = []
    for what, principles in (("quality", QUALITY), ("complexity", COMPLEXITY)):
        of_principles = [_mean([_rank(table, *m) for m in _metrics(run, table, p)]) for p in principles]
        found = _mean([column for column in of_principles if column is not None])
        if found is None or np.isnan(found).all():
            notes.append(
                f"this run has no scores of {what}, which leaves the order to the others and to chance"
            )
            found = np.full(len(value), np.nan)
        value *= np.where(np.isnan(found), UNKNOWN, found)
    return value, notes


def _metrics(run: Run, table: ScoreTable, principle: Principle) -> list[tuple[str, bool]]:
    """The principle's sample metrics, and whether higher is better."""
    return [
        (name, metric["higher_is_better"])
        for name, metric in sorted(run.metrics().items())
        if metric["principle"] == principle
        and metric["level"] == "sample"
        and metric["higher_is_better"] is not None
        and name in table.numbers
    ]


def _rank(table: ScoreTable, name: str, higher_is_better: bool) -> NDArray[np.float64]:
    score = pl.col(name).fill_nan(None) if table.schema[name].is_float() else pl.col(name)
    rank = (score.rank("average") - 0.5) / score.count()
    found = table.collect((rank if higher_is_better else 1 - rank).fill_null(float("nan")).alias("rank"))
    return found["rank"].to_numpy()


def _mean(columns: Sequence[NDArray[np.float64]]) -> NDArray[np.float64] | None:
    """The mean of what each record has, NaN where it has nothing; None of no columns."""
    if not columns:
        return None
    total, n = np.zeros(len(columns[0])), np.zeros(len(columns[0]))
    for column in columns:
        here = ~np.isnan(column)
        total[here] += column[here]
        n += here
    mean = np.full(len(n), np.nan)
    np.divide(total, n, out=mean, where=n > 0)
    return mean
