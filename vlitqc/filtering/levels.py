"""Levels: a number that scores are held against, given as such or by how the scores of the run are spread."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from vlitqc.errors import UsageError

if TYPE_CHECKING:
    from vlitqc.filtering.table import ScoreTable

Side = Literal["below", "above"]

FEWEST = 20
"""A group with fewer scores has no level."""

AT_ONCE = 4
"""Columns that are read together: a run has its scores in many files, and opening them takes most of the time."""

MAD_TO_DEVIATION = 1.4826
"""The standard deviation of a normal distribution, measured in its median absolute deviations."""

EXPECTED = (
    "a number such as 12.5, p0 to p100 for a percentile, z2 for 2 standard deviations from the mean, "
    "or mad3 for 3 scaled median absolute deviations from the median"
)

_RANGES = {"at": (-math.inf, math.inf), "p": (0, 100), "z": (0, math.inf), "mad": (0, math.inf)}
_NUMBER = r"(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?"
_LEVEL = re.compile(rf"(?P<kind>p|z|mad)?(?P<sign>[+-])?(?P<number>{_NUMBER})")


@dataclass(frozen=True)
class Level:
    """A number, a percentile (0–100), or a distance from the centre in units of the spread.

    - ``at``: ``number`` itself;
    - ``p``: the percentile, interpolated linearly between the scores present, as ``numpy.percentile`` does;
    - ``z``: mean ± ``number`` · standard deviation (of the population);
    - ``mad``: median ± ``number`` · 1.4826 · median|x − median|.

    ``sign`` says on which side of the centre ``z`` and ``mad`` lie; "" leaves it to the threshold. Raises UsageError
    for a number that is none, is not finite or not of its kind.
    """

    kind: Literal["at", "p", "z", "mad"]
    number: float
    sign: Literal["-", "+", ""] = ""

    def __post_init__(self) -> None:
        try:
            number = math.nan if isinstance(self.number, str | bool) else float(self.number)
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        least, most = _RANGES.get(self.kind, (math.nan, math.nan))
        signs = ("", "-", "+") if self.kind in ("z", "mad") else ("",)
        if not (math.isfinite(number) and least <= number <= most and self.sign in signs):
            told = f"{'' if self.kind == 'at' else self.kind}{self.sign}{number:g}"
            raise UsageError(f"{told!r} is no level: expected {EXPECTED}")
        object.__setattr__(self, "number", number)

    @classmethod
    def parse(cls, text: str) -> Level:
        """From ``12.5``, ``p10``, ``z2``, ``mad3``, or with a sign of its own ``z-2``, ``mad+3``.

        Raises UsageError saying what was expected.
        """
        match = _LEVEL.fullmatch(text.strip())
        if match:
            kind, sign, number = match["kind"], match["sign"] or "", float(match["number"])
            if kind is None:
                return cls("at", -number if sign == "-" else number)
            return cls(kind, number, sign)  # type: ignore[arg-type]
        raise UsageError(f"{text!r} is no level: expected {EXPECTED}")

    def on(self, side: Side) -> Level:
        """The level with its sign: below or above the centre, where it has none of its own."""
        if self.kind in ("at", "p") or self.sign:
            return self
        return replace(self, sign="-" if side == "below" else "+")

    @property
    def words(self) -> str:
        """As it is written."""
        return f"{'' if self.kind == 'at' else self.kind}{self.sign}{self.number:.12g}"


@dataclass(frozen=True)
class Asked:
    """The level of one column, over all readable records or within each group of ``by``."""

    column: str
    level: Level
    by: str | None = None


@dataclass(frozen=True)
class Found:
    """A level as a number, or as one number a group.

    ``overall`` is that of all scores, None where there is none or each group has its own. ``groups`` and ``values``
    are the groups with a level; ``small`` counts those with too few scores. A level without a spread to measure in
    is infinite, so that no score lies beyond it.
    """

    overall: float | None = None
    groups: pl.Series | None = None
    values: pl.Series | None = None
    small: int = 0

    def threshold(self, by: str | None) -> pl.Expr:
        """The number that a record is held against: a Float64, null where there is no level."""
        if by is None or self.groups is None or self.values is None:
            return pl.lit(self.overall, dtype=pl.Float64)
        own = pl.DataFrame({"group": self.groups, "level": self.values})
        named = own.drop_nulls("group")
        # The places of texts in an enumeration are looked up batch by batch; replace_strict would hold the column.
        place = pl.col(by).cast(pl.String).cast(pl.Enum(named["group"]), strict=False).to_physical()
        levels = pl.lit(named["level"]).gather(place)
        nameless = own.filter(pl.col("group").is_null())["level"]
        return pl.when(pl.col(by).is_null()).then(nameless[0]).otherwise(levels) if len(nameless) else levels

    def words(self, level: Level, by: str | None) -> str:
        """``12.31 (p10)``, or ``p10 by task (-3.2 to 1.4)``, and what is not as asked."""
        if self.groups is None or self.values is None:
            if self.overall is None:
                return f"{level.words} (no record has a score)"
            if not np.isfinite(self.overall):
                return f"{level.words} (no spread)"
            return f"{self.overall:.6g} ({level.words})"
        values = self.values.to_numpy()
        spread = values[np.isfinite(values)]
        flat = len(values) - len(spread)
        told = []
        if len(spread):
            ends = dict.fromkeys((f"{spread.min():.6g}", f"{spread.max():.6g}"))
            told.append(" to ".join(ends))
        if flat:
            told.append(f"no spread in {flat} of {len(values)}")
        if self.small:
            group = by if by in ("task", "source") else "group"
            some = f"{self.small:,} {group}s" if self.small > 1 else f"1 {group}"
            told.append(f"none for {some} with fewer than {FEWEST} scores")
        return f"{level.words} by {by} ({'; '.join(told)})"


def present(column: str) -> pl.Expr:
    """A column of numbers as Float64, null where there is none: NaN is no number."""
    return pl.col(column).cast(pl.Float64).fill_nan(None)


def check_group(table: ScoreTable, by: str | None) -> None:
    """Raises UnknownName for a column ``by`` that is not there, UsageError for one that holds no text."""
    if by is not None and table.schema[table.check(by)] not in (pl.String, pl.Categorical, pl.Enum):
        raise UsageError(f"--by {by}: groups need a column of text, such as task, and {by} is none")


def find(table: ScoreTable, asked: Iterable[Asked]) -> None:
    """Compute levels into ``table.found``; a column is read once for all of its levels with the same ``by``.

    Raises UnknownName for a column that is not there or holds no scores, UsageError where ``by`` holds no text.
    """
    missing = {a for a in asked if a not in table.found and a.level.kind != "at"}
    for by in sorted({a.by for a in missing}, key=str):
        columns = sorted({a.column for a in missing if a.by == by})
        for some in (columns[i : i + AT_ONCE] for i in range(0, len(columns), AT_ONCE)):
            frame = _read(table, some, by)
            for i, column in enumerate(some):
                wanted = [a for a in missing if (a.column, a.by) == (column, by)]
                scores = pl.DataFrame([frame["group"], frame.drop_in_place(str(i)).alias("score")])
                scores = scores.drop_nulls("score")
                found = _found(scores, [a.level for a in wanted], grouped=by is not None)
                table.found.update(zip(wanted, found, strict=True))


def look_up(table: ScoreTable, asked: Asked) -> tuple[pl.Expr, str]:
    """The threshold as a Float64 expression, and in words: ``12.31 (p10)``, ``p10 by task (-3.2 to 1.4)``.

    Raises as ``find`` does.
    """
    level = asked.level
    if level.kind == "at":
        check_group(table, asked.by)
        return pl.lit(level.number, dtype=pl.Float64), f"{level.number:.6g}"
    find(table, [asked])
    found = table.found[asked]
    return found.threshold(asked.by), found.words(level, asked.by)


def _read(table: ScoreTable, columns: Sequence[str], by: str | None) -> pl.DataFrame:
    """The scores of readable records, and the ``group`` that each is in; null where there is no finite number."""
    for column in columns:
        table.check_number(column)
    check_group(table, by)
    # As categories a column of texts takes a quarter of the memory.
    group = pl.lit(None) if by is None else pl.col(by).cast(pl.Categorical)
    counts = pl.col("state") != "unreadable"
    scores = [
        pl.when(counts, present(column).is_finite()).then(present(column)).alias(str(i))
        for i, column in enumerate(columns)
    ]
    return table.collect(group.alias("group"), *scores)


def _found(scores: pl.DataFrame, levels: Sequence[Level], *, grouped: bool) -> list[Found]:
    if not len(scores):
        return [Found()] * len(levels)
    if not grouped:
        together = scores.select(pl.col("score").sort().implode())["score"]
        return [Found(float(_numbers(together, level)[0])) for level in levels]
    apart = scores.group_by("group").agg("score")
    own = apart.filter(pl.col("score").list.len() >= FEWEST).with_columns(pl.col("score").list.sort())
    names, small = own["group"].cast(pl.String), len(apart) - len(own)
    return [
        Found(None, names, pl.Series(_numbers(own["score"], level), dtype=pl.Float64), small)
        for level in levels
    ]


def _numbers(lists: pl.Series, level: Level) -> NDArray[np.float64]:
    """The level within each list of sorted scores, none of which is empty."""
    if level.kind == "p":
        return _percentile(lists, level.number)
    if level.kind == "z":
        centre, spread = lists.list.mean(), lists.list.std(ddof=0)
    else:
        centre = lists.list.median()
        away = (pl.element() - pl.element().median()).abs().median() * MAD_TO_DEVIATION
        spread = lists.list.eval(away).list.first()
    distance = level.number if level.sign == "+" else -level.number
    # The rounding of a mean may leave a spread between scores that are all the same.
    flat = ((lists.list.min() == lists.list.max()) | (spread == 0)).to_numpy()
    with np.errstate(over="ignore", invalid="ignore"):
        numbers = centre.to_numpy() + distance * spread.to_numpy()
    nowhere = np.inf if level.sign == "+" else -np.inf
    return np.where(flat | ~np.isfinite(numbers), nowhere, numbers)


def _percentile(lists: pl.Series, percent: float) -> NDArray[np.float64]:
    """``numpy.percentile`` of every list at once, to the last bit."""
    counts = lists.list.len().to_numpy().astype(np.int64)
    scores = lists.explode().to_numpy()
    if not len(counts):
        return scores
    places = (counts - 1) * (percent / 100)
    before = np.floor(places).astype(np.int64)
    share = places - before
    first = np.cumsum(counts) - counts
    low, high = scores[first + before], scores[first + np.minimum(before + 1, counts - 1)]
    with np.errstate(over="ignore", invalid="ignore"):
        between = high - low
        numbers = np.where(share < 0.5, low + between * share, high - between * (1 - share))
    # The two ends may lie further apart than the largest number.
    finite: NDArray[np.float64] = np.where(np.isfinite(numbers), numbers, low * (1 - share) + high * share)
    return finite
