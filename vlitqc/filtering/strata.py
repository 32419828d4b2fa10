"""A pool in strata: what each gives, and of every record why it was not taken."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlitqc.filtering.diverse import Take, facilities, go_down
from vlitqc.filtering.quotas import quotas

CANDIDATES = 3
"""Facility location chooses among so many times the quota, the first of the order."""
ID_SHOWN = 60

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Groups:
    """The group of every record: ``names[codes[i]]``, None for a record without. ``column`` says what they are; None:
    there is one group, of all."""

    column: str | None
    names: Sequence[str | None]
    codes: Ints

    def words(self, code: int) -> str:
        """The group as a reason names it."""
        if self.column is None:
            return "all records"
        name = self.names[code]
        return f"no {self.column}" if name is None else f"{self.column} {name}"


@dataclass
class Pool:
    """Records to choose from, by position: ``rows[i]`` is the row of position ``i`` in the run.

    ``most`` are the most records of each group, by its code. ``order`` lists all positions, best first; ``cluster`` is
    the semantic cluster of each, -1 where it has no vector, and None without clusters: all are then compared with all.
    ``take`` gives vectors by position.
    """

    rows: Ints
    groups: Groups
    most: Ints
    cluster: Ints | None
    order: Ints
    must: NDArray[np.bool_]
    take: Take | None
    taken: NDArray[np.bool_] = field(init=False)

    def __post_init__(self) -> None:
        n = len(self.rows)
        self.taken = self.must.copy()
        self._skipped = np.zeros(n, np.bool_)
        self._twin = np.full(n, -1, np.int64)
        self._cosine = np.zeros(n, np.float32)
        codes = self.groups.codes[self.rows]
        sizes = np.bincount(codes, minlength=len(self.groups.names))
        # The largest group is number 0, so that ties go to it.
        self.codes = np.argsort(-sizes, kind="stable")[: np.count_nonzero(sizes)]
        self.most = self.most[self.codes]
        self.capped = self.most < sizes[self.codes]
        number = np.zeros(len(sizes), np.int64)
        number[self.codes] = np.arange(len(self.codes))
        self._compared = np.zeros(n, np.int64) if self.cluster is None else self.cluster
        width = int(self._compared.max()) + 2
        keys, self.stratum = np.unique(number[codes] * width + self._compared + 1, return_inverse=True)
        self.group, self.clusters = keys // width, keys % width - 1
        self.size = np.bincount(self.stratum)
        self.quota = np.zeros_like(self.size)
        self._by_stratum = self.order[np.argsort(self.stratum[self.order], kind="stable")]
        self._starts = np.concatenate([[0], np.cumsum(self.size)])
        self._rank = np.empty(n, np.int64)
        self._rank[self._by_stratum] = np.arange(n) - np.repeat(self._starts[:-1], self.size)

    @property
    def have(self) -> Ints:
        """How many of each stratum are taken."""
        return np.bincount(self.stratum[self.taken], minlength=len(self.size))

    def in_groups(self) -> Ints:
        """How many of each group are taken."""
        taken = np.zeros(len(self.codes), np.int64)
        np.add.at(taken, self.group, self.have)
        return taken

    # ------------------------------------------------------------ taking

    def take_all(self) -> None:
        """Take every record."""
        self.taken[:] = True
        self.quota = self.size.copy()

    def fill(self, n: int, *, balanced: bool, diversity: str, tau: float, seed: int) -> None:
        """Take ``n`` records in all, of each group its ``most``; ``quota`` is then what each stratum was to give.

        What the greedy filter cannot find in a stratum the others give, round by round.
        """
        high = self.size.copy()
        first = True
        while True:
            have = self.have
            quota = quotas(n, self.size, self.group, have, high, self.most, balanced=balanced)
            if first:
                self.quota, first = quota, False
            room = quota - have
            if not room.any():
                return
            # Records without a vector are like no other, and may be many.
            take = None if diversity == "none" else self.take
            self._first(room, (self.clusters < 0) | (take is None))
            if take is not None and diversity == "greedy":
                self._greedy(room, take, tau)
            elif take is not None:
                self._facilities(room, take, seed)
            short = room > 0
            high[short] = self.have[short]

    def _first(self, room: Ints, where: NDArray[np.bool_]) -> None:
        free = self._by_stratum[~self.taken[self._by_stratum]]
        of = self.stratum[free]
        place = np.arange(len(free)) - np.searchsorted(of, of)
        self.taken[free[where[of] & (place < room[of])]] = True
        room[where] = 0

    def _greedy(self, room: Ints, take: Take, tau: float) -> None:
        for inside in self._by_cluster:
            if room[self.stratum[inside]].any():
                free = inside[~(self.taken[inside] | self._skipped[inside])]
                walked = go_down(take, free, inside[self.taken[inside]], self.stratum, room, tau)
                self.taken[walked.taken] = True
                self._skipped[walked.skipped] = True
                self._twin[walked.skipped] = walked.twin
                self._cosine[walked.skipped] = walked.cosine

    def _facilities(self, room: Ints, take: Take, seed: int) -> None:
        for s in np.flatnonzero(room):
            inside = self._by_stratum[self._starts[s] : self._starts[s + 1]]
            here = self.taken[inside]
            candidates = inside[~here][: CANDIDATES * room[s]]
            rng = np.random.default_rng([seed, int(s)])
            self.taken[facilities(take, inside, candidates, inside[here], int(room[s]), rng=rng)] = True
            room[s] = 0

    @cached_property
    def _by_cluster(self) -> list[Ints]:
        """The positions of each cluster, best first."""
        of = self._compared[self.order]
        by_cluster = np.argsort(of, kind="stable")
        return np.split(self.order[by_cluster], np.flatnonzero(np.diff(of[by_cluster])) + 1)

    # ------------------------------------------------------------ telling

    def as_dicts(self) -> list[dict[str, Any]]:
        """Every stratum: ``task`` (its group), ``cluster``, ``pool``, ``quota``, ``kept``."""
        return [
            {
                "task": self.groups.names[self.codes[group]],
                "cluster": cluster if self.cluster is not None and cluster >= 0 else None,
                "pool": size,
                "quota": quota,
                "kept": kept,
            }
            for group, cluster, size, quota, kept in zip(
                *(a.tolist() for a in (self.group, self.clusters, self.size, self.quota, self.have)),
                strict=True,
            )
        ]

    @property
    def twins(self) -> Ints:
        """The rows of records that others are too near to."""
        return np.unique(self.rows[self._twin[self._skipped]])

    def why(self, rows: Ints, ids: Mapping[int, str | None]) -> list[str | None]:
        """For each row why it was not taken; None for one that was, or that is not of the pool.

        ``ids`` are those of ``twins``, by row.
        """
        at = np.searchsorted(self.rows, rows)
        at[at == len(self.rows)] = 0
        left = (self.rows[at] == rows) & ~self.taken[at]
        have = self.have
        full = self.capped & (self.in_groups() == self.most)
        reasons: list[str | None] = [None] * len(rows)
        for i in np.flatnonzero(left).tolist():
            p = int(at[i])
            s = int(self.stratum[p])
            if self._skipped[p]:
                reasons[i] = self._too_near(p, ids)
                continue
            g = int(self.group[s])
            told = f"{self.groups.words(int(self.codes[g]))} has its {self.most[g]:,}; " if full[g] else ""
            reasons[i] = (
                f"{told}rank {self._rank[p] + 1:,} of {self.size[s]:,} in {self._words(s)}, of which {have[s]:,} "
                f"{'was' if have[s] == 1 else 'were'} kept"
            )
        return reasons

    def _words(self, s: int) -> str:
        words = self.groups.words(int(self.codes[self.group[s]]))
        if self.cluster is None:
            return words
        return (
            f"{words}, cluster {self.clusters[s]}" if self.clusters[s] >= 0 else f"{words}, without a vector"
        )

    def _too_near(self, p: int, ids: Mapping[int, str | None]) -> str:
        twin = int(self._twin[p])
        row = int(self.rows[twin])
        name = ids[row]
        shown = f"{name[:ID_SHOWN]} (row {row})" if name else f"row {row}"
        why = (
            "must be kept"
            if self.must[twin]
            else "ranks higher"
            if self._ahead(twin, p)
            else "was taken before it"
        )
        return f"cosine {min(float(self._cosine[p]), 1.0):.2f} with {shown}, which {why}"

    def _ahead(self, one: int, other: int) -> bool:
        return bool(self._place[one] < self._place[other])

    @cached_property
    def _place(self) -> Ints:
        """Where in the order each position stands."""
        place = np.empty(len(self.order), np.int64)
        place[self.order] = np.arange(len(self.order))
        return place
