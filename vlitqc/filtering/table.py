"""A run's scores as rules see them: columns that are scanned, never held whole."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, cached_property

import numpy as np
import polars as pl
from numpy.typing import NDArray

from vlitqc.analysis.issues import KINDS
from vlitqc.engine.run import Run
from vlitqc.errors import RunError, UnknownName
from vlitqc.filtering.levels import Asked, Found

SEVERITIES = ("error", "warning", "note")

PLACES = frozenset(("row", "line", "start", "end"))
"""Whole numbers that say where a record stands, which no threshold makes sense for."""


@contextmanager
def reading(run: Run) -> Iterator[None]:
    """Within it a file of the run that is gone or damaged becomes a RunError with its cure."""
    try:
        yield
    except (OSError, pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        why = next(iter(str(error).splitlines()), "")  # behind it polars tells its query
        raise RunError(f"the run in {run.place} cannot be read ({why}); score the data again") from error


@dataclass(frozen=True)
class ScoreTable:
    """The scores of a run, one row a record in the order of the input, and the issues beside them.

    ``scores`` has the run's columns and ``text_only`` (no picture, video or sound). ``issues`` has the columns of
    ``issues.parquet``; a record may have many. ``found`` keeps the levels that were computed (``levels.find``).
    """

    scores: pl.LazyFrame
    issues: pl.DataFrame
    found: dict[Asked, Found] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(cls, run: Run) -> ScoreTable:
        """The table of a finished run. Raises RunError where it cannot be read, or an earlier version wrote it."""
        parts = sorted((run.path / "scores").glob("part-*.parquet"))
        scores = pl.scan_parquet(parts, glob=False)
        with reading(run):
            columns = scores.collect_schema()
            issues = pl.read_parquet(
                run.path / "issues.parquet", columns=["row", "kind", "severity"], glob=False
            )
        if "n_media" not in columns:
            raise RunError(f"the run in {run.place} is of an earlier version; score the data again")
        for name in columns:
            if name == "*" or (name.startswith("^") and name.endswith("$")):
                raise RunError(
                    f"the column {name!r} of the run in {run.place} reads as a pattern of columns; rename it"
                )
        return cls(scores.with_columns(text_only=pl.col("n_media") == 0), issues)

    @cached_property
    def schema(self) -> Mapping[str, pl.DataType]:
        """Every column and its type."""
        return self.scores.collect_schema()

    @cached_property
    def numbers(self) -> list[str]:
        """The columns that a threshold makes sense for: metrics, their parts, and counts."""
        return [name for name, kind in self.schema.items() if kind.is_numeric() and name not in PLACES]

    def check(self, column: str, what: str = "column of this run's scores", hint: str = "") -> str:
        """The name of a column that is there. Raises UnknownName for another, with ``hint`` at its end."""
        if column not in self.schema:
            raise UnknownName(what, column, self.schema, hint)
        return column

    def check_number(self, column: str) -> str:
        """The name of a column that a threshold makes sense for. Raises UnknownName for another."""
        if column not in self.numbers:
            raise UnknownName("metric with scores in this run", column, self.numbers)
        return column

    def check_kind(self, kind: str) -> str:
        """A kind of issue that may be in this run, or a severity. Raises UnknownName for another."""
        known = {*KINDS, *SEVERITIES, *self.issues["kind"].unique()}
        if kind not in known:
            raise UnknownName("kind of issue", kind, known)
        return kind

    def collect(self, *columns: pl.Expr | str) -> pl.DataFrame:
        """These columns of every record, in the order of the input."""
        return self.scores.select(*columns).collect(engine="streaming")

    def rows_with(self, kinds: frozenset[str], severity: str | None = None) -> pl.Series:
        """The rows of records that have an issue of one of these kinds, or of this severity, or both; sorted.

        The name of a severity is a kind too: all of its issues. No kinds stand for every kind.
        """
        return self._issues_of(kinds, severity)["row"].unique().sort()

    def has_issue(self, kinds: frozenset[str], severity: str | None = None) -> pl.Expr:
        """Whether a record is one of ``rows_with``."""
        return pl.col("row").is_in(self.rows_with(kinds, severity).implode())

    def issues_named(self, kinds: frozenset[str], severity: str | None = None) -> pl.Expr:
        """The kinds of issues that make a record one of ``rows_with``, as one text; null where there is none.

        The texts are made when the expression is first collected: a decision alone does not need them.
        """

        @cache
        def named() -> tuple[NDArray[np.int64], pl.Series]:
            each = self._issues_of(kinds, severity).group_by("row").agg(pl.col("kind").unique().sort())
            each = each.sort("row")
            # Behind the last row stands null, for the records that have none.
            return each["row"].to_numpy(), each["kind"].list.join(", ").extend_constant(None, 1)

        def name(rows: pl.Series) -> pl.Series:
            known, texts = named()
            wanted = rows.to_numpy()
            places = np.searchsorted(known, wanted)
            there = np.append(known, -1)[places] == wanted
            return texts.gather(np.where(there, places, len(known)))

        return pl.col("row").map_batches(name, return_dtype=pl.String, is_elementwise=True)

    def _issues_of(self, kinds: frozenset[str], severity: str | None) -> pl.DataFrame:
        wanted = pl.lit(True)
        if kinds:
            wanted &= pl.col("kind").is_in(sorted(kinds)) | pl.col("severity").is_in(sorted(kinds))
        if severity is not None:
            wanted &= pl.col("severity") == severity
        return self.issues.filter(wanted)
