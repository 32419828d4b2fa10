"""Rules that compare with what no record has: they are obeyed, and most likely mistaken."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from typing import Any

import polars as pl

from vlitqc.filtering.decisions import Decided
from vlitqc.filtering.levels import present
from vlitqc.filtering.rules import Comparison
from vlitqc.filtering.table import ScoreTable

LOOKED_AT = 100_000
"""Among the texts of so many records one is looked for that is nearly the one compared with."""
NEAR = 0.75
"""How alike two texts are then, at least: 0 to 1, by ``difflib``."""
SHOWN = 3


def notes(
    table: ScoreTable, decided: Decided, metrics: Mapping[str, Mapping[str, Any]], *, first: int = 0
) -> list[str]:
    """A sentence for each metric that a rule goes by and that no record has a score of, and for each text that no
    record has.

    Rules before ``first`` are a recipe's, which is written for data of every kind. Of several texts that one value is
    held against it is enough that a record has one of them, unless another is nearly one of the values that are not
    among them.
    """
    told: dict[str, None] = {}
    for rule in decided.rules[first:]:
        for compared in rule.compared:
            column = compared.column
            if (
                compared.threshold is not None
                and column in table.numbers
                and not _scores(table, column, metrics)
            ):
                told[f"no record has a score of {column}"] = None
            told |= dict.fromkeys(_strange(table, compared))
    return list(told)


def _scores(table: ScoreTable, column: str, metrics: Mapping[str, Mapping[str, Any]]) -> int:
    if column in metrics:
        return int(metrics[column]["n_scored"])
    return int(table.collect(present(column).count()).item())


def _strange(table: ScoreTable, compared: Comparison) -> Iterator[str]:
    if not compared.texts or compared.column not in table.schema:
        return
    values = table.scores.select(pl.col(compared.column).cast(pl.String).alias("value"))
    there = values.filter(pl.col("value").is_in(compared.texts)).unique().collect(engine="streaming")["value"]
    absent = [text for text in compared.texts if text not in there]
    if not absent:
        return
    known = values.head(LOOKED_AT).unique().drop_nulls().collect(engine="streaming")["value"]
    some = sorted(known)
    close = {text: difflib.get_close_matches(text, some, n=1, cutoff=NEAR) for text in absent}
    for text, near in close.items():
        if near and near[0] not in compared.texts:
            yield f'no record\'s {compared.column} is "{text}"; did you mean "{near[0]}"?'
    if not len(there) and not any(close.values()):
        listed = " or ".join(f'"{text}"' for text in absent[:SHOWN])
        more = f" or one of {len(absent) - SHOWN} more" if len(absent) > SHOWN else ""
        yield f"no record's {compared.column} is {listed}{more}"
