"""The order in which a selection takes records: quality × complexity, from the scores of the run."""

from __future__ import annotations

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
    principle that no record has a score of. One that only this record has no score of counts as the middle, 0.5:
    left out, it would lift records with few scores, whose means lie farther from the middle, to the top.
    """
    value = np.ones(len(table.collect("row")))
    notes = []
    for what, principles in (("quality", QUALITY), ("complexity", COMPLEXITY)):
        ranks = [pl.mean_horizontal(found) for p in principles if (found := _ranks(run, table, p))]
        columns = table.collect(*(rank.alias(str(i)) for i, rank in enumerate(ranks)))
        known = [rank.fill_null(UNKNOWN).to_numpy() for rank in columns if rank.count()]
        if not known:
            notes.append(
                f"this run has no scores of {what}, which leaves the order to the others and to chance"
            )
        value *= np.mean(known, axis=0) if known else UNKNOWN
    return value, notes


def _ranks(run: Run, table: ScoreTable, principle: Principle) -> list[pl.Expr]:
    """The rank of each record in each of the principle's sample metrics, 1 for the best, null without a score."""
    ranks = []
    for name, metric in sorted(run.metrics().items()):
        better = metric["higher_is_better"]
        wanted = metric["principle"] == principle and metric["level"] == "sample" and better is not None
        if wanted and name in table.numbers:
            score = pl.col(name).fill_nan(None) if table.schema[name].is_float() else pl.col(name)
            rank = (score.rank("average") - 0.5) / score.count()
            ranks.append(rank if better else 1 - rank)
    return ranks
