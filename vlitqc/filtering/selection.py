"""Which records to take where not all are wanted: strata, an order inside each, and no near-duplicates.

Keeping the best k by one score often does worse than chance, since it takes one corner of the data. So the records
are divided into strata (task × semantic cluster), every stratum gives its share, inside a stratum the order is
quality × complexity, and a record too near to one already taken is passed over. The pattern, scores first and then
down the order with an eye on diversity, is that of DEITA (Liu et al., "What makes good data for alignment?", ICLR
2024), whose judges of quality and complexity are here the run's own metrics of those principles.

Everything random follows from the seed, and products of matrices run in one thread, so that the result does not
depend on how many threads there are.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np
import polars as pl
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from vlitqc.engine.run import Run
from vlitqc.errors import UnknownName, UsageError
from vlitqc.filtering.merit import merit
from vlitqc.filtering.quotas import Counts
from vlitqc.filtering.strata import Groups, Pool
from vlitqc.filtering.table import ScoreTable
from vlitqc.filtering.vectors import Vectors, clusters, read_vectors

Diversity = Literal["greedy", "facility_location", "none"]

TASK = "task"
PLACES = 4
"""Records that a stratum gives on average, at least: there are no more semantic clusters than leave it so many. The
best of many tiny strata are weak, and what each gives is rounded."""
MOST_GROUPS = 10_000

_KEEP = re.compile(r"(?P<count>[0-9]{1,15})|(?P<percent>[0-9]{1,3}(\.[0-9]{1,12})?)%", re.ASCII)


@dataclass(frozen=True)
class Selection:
    """What to select of the pool, the records that the rules keep.

    Attributes:
        keep: how many, ``"20000"``, or which share of the pool, ``"20%"`` (rounded, at least one, and at least what
            must be kept).
        balance: a column, mostly ``"task"``, whose groups give the same number each; what a group cannot give the
            others give. Without ``keep`` every group is cut to the median of the groups' sizes: the paper samples
            its data sets evenly over tasks and does not print how, and this is our reading.
        quotas: at most so many records of a task; the others give the rest.
        diversity: ``greedy`` passes over a record too near to one already taken; ``facility_location`` takes those
            that stand best for their whole stratum; ``none`` takes the first of the order.
        tau: the cosine, above 0 and at most 1, from which two records of one semantic cluster are too near for
            ``greedy``.

    Raises UsageError where one of them makes no sense.
    """

    keep: str | None = None
    balance: str | None = None
    quotas: Mapping[str, int] = field(default_factory=dict)
    diversity: Diversity = "greedy"
    tau: float = 0.9

    def __post_init__(self) -> None:
        if self.keep is not None:
            self.count(1)
        for task, most in self.quotas.items():
            if most < 0:
                raise UsageError(f"the quota of {task} is {most}: expected 0 or more")
        if self.diversity not in get_args(Diversity):
            raise UnknownName("diversity filter", self.diversity, get_args(Diversity))
        if not 0 < self.tau <= 1:
            raise UsageError(f"tau={self.tau}: expected a cosine above 0 and at most 1, such as 0.9")
        if self.balance == "":
            raise UsageError("balance='': expected the name of a column, such as task")
        if self.quotas and self.balance not in (None, TASK):
            raise UsageError(
                f"quotas are per task and cannot go with balance={self.balance}; leave one of them out"
            )

    def count(self, pool: int) -> int:
        """How many records ``keep`` is of a pool of this size."""
        if self.keep is None:
            return pool
        match = _KEEP.fullmatch(self.keep.strip())
        number = Decimal(match["count"] or match["percent"]) if match else Decimal(0)
        if match is None or number <= 0 or (match["percent"] and number > 100):
            raise UsageError(
                f"keep {self.keep}: expected a number of 1 or more, or a share such as 20%, up to 100%"
            )
        if match["count"]:
            return int(number)
        return max(int((number * pool / 100).to_integral_value("ROUND_HALF_UP")), min(1, pool))


@dataclass(frozen=True)
class Selected:
    """What a selection took, and why not the others.

    ``kept`` has one truth value a record of the run. ``strata`` are dicts with ``task`` (or what the column of
    ``balance`` says; None for none), ``cluster`` (None where there are no semantic clusters, or for records without
    a vector), ``pool`` (records of the stratum), ``quota`` (what it was to give), and ``kept``, which is less where
    near-duplicates were left out and more where another stratum's were. ``notes`` are sentences on what could not be
    done as asked.
    """

    kept: NDArray[np.bool_]
    strata: list[dict[str, Any]]
    notes: list[str]
    _reasons: _Reasons | None = field(default=None, repr=False, compare=False)

    def why(self, rows: NDArray[np.int64]) -> list[str | None]:
        """For each row why it was not selected; None for one that was, or that was not to choose from."""
        if self._reasons is None:
            return [None] * len(rows)
        return self._reasons.pool.why(rows, self._reasons.ids)


@dataclass(frozen=True)
class _Reasons:
    """What ``why`` needs: the pool, and the table for ids."""

    pool: Pool
    table: ScoreTable

    @cached_property
    def ids(self) -> Mapping[int, str | None]:
        """The ids of records that others are too near to, by row."""
        found = self.table.scores.filter(pl.col("row").is_in(self.pool.twins)).select("row", "id")
        return dict(found.collect(engine="streaming").iter_rows())


def select(
    run: Run,
    table: ScoreTable,
    pool: NDArray[np.bool_],
    selection: Selection,
    *,
    must_keep: NDArray[np.bool_],
    seed: int,
) -> Selected:
    """Select from the ``pool``, a truth value a record.

    Readable records of ``must_keep`` are taken first, count towards the number, and need not be in the pool. Strata
    are task × semantic cluster (the column of ``balance`` for the task where there is one), with so few clusters that
    a stratum gives four records on average; what each gives is ``vlitqc.filtering.quotas``, the order inside is
    ``vlitqc.filtering.merit`` with ties broken at random.

    The diversity filter compares the records of one semantic cluster across its tasks, and not those of different
    clusters, which lie apart: this is what makes a large pool affordable. What a stratum cannot give the others give.
    Where there are no more records than asked for all are kept, and nothing is filtered.

    Raises UsageError where nothing is to be selected by, or more records must be kept than the number says, and
    UnknownName for a column or a task that the run lacks.
    """
    if selection.keep is None and selection.balance is None and not selection.quotas:
        raise UsageError("nothing says how many to select: give keep, balance or quotas")
    groups = _groups(table, selection.balance)
    for task in selection.quotas:
        if task not in groups.names:
            raise UnknownName("task of this run", task, [name for name in groups.names if name is not None])
    unreadable = (table.collect("state")["state"] == "unreadable").to_numpy()
    pool, must_keep = pool & ~unreadable, must_keep & ~unreadable
    rows = np.flatnonzero(pool | must_keep)
    if len(rows) == 0:
        return Selected(pool, [], ["there is nothing to select from: the rules keep no record"])
    merits, notes = merit(run, table)
    n = min(_wanted(selection, int(pool.sum()), int(must_keep.sum()), notes), len(rows))
    sizes = np.bincount(groups.codes[rows], minlength=len(groups.names))
    most = _most(sizes, groups.names, selection)
    most_clusters = min(n, int(most.sum())) // (PLACES * int(np.count_nonzero(sizes)))
    tie = np.random.default_rng(seed).random(len(merits))
    order = np.lexsort((tie[rows], -merits[rows]))
    # Without this the rounding of a product of matrices, and with it a close call, depends on the number of threads.
    with threadpool_limits(limits=1, user_api="blas"):
        vectors = read_vectors(run, unreadable, rows)
        cluster = None
        if isinstance(vectors, str):
            notes.append(f"{vectors}: strata are tasks only, and records are not compared with each other")
        elif most_clusters > 1:
            cluster = clusters(vectors, most_clusters, seed=seed)
        take = vectors.take if isinstance(vectors, Vectors) else None
        strata = Pool(rows, groups, most, cluster, order, must_keep[rows], take)
        notes += _fill(strata, n, selection, seed)
    kept = np.zeros(len(pool), np.bool_)
    kept[rows[strata.taken]] = True
    return Selected(kept, strata.as_dicts(), notes, _Reasons(strata, table))


def random_control(pool: NDArray[np.bool_], n: int, *, seed: int) -> NDArray[np.bool_]:
    """``n`` records of the pool, each set of so many as likely as any other; the whole pool where it is smaller.

    Its numbers are not those that a selection of the same seed breaks ties with.
    """
    rows = np.flatnonzero(pool)
    drawn = np.zeros_like(pool)
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(1,)))
    drawn[rng.choice(rows, min(n, len(rows)), replace=False)] = True
    return drawn


def _groups(table: ScoreTable, balance: str | None) -> Groups:
    """The group of every record. Raises UnknownName, and UsageError for a column that does not make groups."""
    column = balance or TASK
    if balance is None and TASK not in table.schema:
        return Groups(None, [None], np.zeros(len(table.collect("row")), np.int64))
    kind = table.schema[table.check(column)]
    if kind.is_nested() or kind.is_float():
        raise UsageError(f"balance={column}: its values make no groups; take a column such as task")
    values = table.collect(pl.col(column).cast(pl.String))[column]
    names = values.drop_nulls().unique().sort()
    if len(names) > MOST_GROUPS:
        raise UsageError(
            f"{column} has {len(names):,} different values, more than {MOST_GROUPS:,}; balance by one with fewer"
        )
    codes = values.cast(pl.Enum(names)).to_physical().cast(pl.Int64).fill_null(len(names))
    return Groups(column, [*names, None], codes.to_numpy())


def _wanted(selection: Selection, n_pool: int, n_must: int, notes: list[str]) -> int:
    """How many to take: of a number less than must be kept an error is made, of a share a note."""
    if selection.keep is None:
        return n_pool + n_must
    n = selection.count(n_pool)
    if n >= n_must:
        return n
    told = f"keep {selection.keep} of {n_pool:,} records is {n:,}, but {n_must:,} must be kept"
    if "%" not in selection.keep:
        raise UsageError(f"{told}; keep more, or name fewer")
    notes.append(told)
    return n_must


def _most(sizes: Counts, names: Sequence[str | None], selection: Selection) -> Counts:
    """The most records of each group."""
    most = sizes.copy()
    if selection.balance is not None and selection.keep is None:
        most = np.minimum(most, int(np.median(sizes[sizes > 0])))
    for code, name in enumerate(names):
        if name is not None and name in selection.quotas:
            most[code] = min(most[code], selection.quotas[name])
    return most


def _fill(strata: Pool, n: int, selection: Selection, seed: int) -> list[str]:
    """Take ``n`` records; returns what could not be done as asked."""
    notes = []
    total = len(strata.rows)
    most = strata.most
    if n >= total and not strata.capped.any():
        strata.take_all()
        return [f"there are no more than {total:,} records to select from, and all are kept"]
    strata.fill(
        n,
        balanced=selection.balance is not None,
        diversity=selection.diversity,
        tau=selection.tau,
        seed=seed,
    )
    wanted, got = int(strata.quota.sum()), int(strata.taken.sum())
    if selection.keep is not None and wanted < n:
        notes.append(f"the quotas leave room for {wanted:,} of the {n:,} records")
    if n < len(most):
        each = strata.groups.column
        notes.append(f"{n:,} records are fewer than one for each {each}, of which there are {len(most):,}")
    if got < wanted:
        notes.append(
            f"{wanted - got:,} fewer than {wanted:,}: what is left is too near (cosine {selection.tau:g} or more) "
            "to what was taken"
        )
    notes += [
        f"{strata.groups.words(int(code))} has {have:,} records that must be kept, more than its {limit:,}"
        for code, have, limit in zip(strata.codes, strata.in_groups(), most, strict=True)
        if have > limit
    ]
    return notes
