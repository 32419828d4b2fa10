"""Finds the records of a shard that end whatever process scores them."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

from vlitqc.engine.disk import writing
from vlitqc.engine.mirror import Mirror
from vlitqc.engine.shards import Shard
from vlitqc.errors import RunError

MAX_DEATHS = 6
"""So many workers may die of one search, for each time that a record must have been fatal."""


class DeadlySearch:
    """One record after another is scored by itself, and the last that the journal names when a worker dies is one.

    It is one when ``times`` workers have died over it: more than one where a worker may also end by no fault of a
    record, as with its node. ``cure`` ends the sentence of the error that is raised where more than ``times`` times
    ``MAX_DEATHS`` find no end.
    """

    def __init__(self, shard: Shard, target: Path, cure: str, *, times: int = 1) -> None:
        self.deadly: frozenset[int] = frozenset()
        self.journal = target / f".{shard.index:05d}.{os.getpid()}"
        self._shard = shard
        self._cure = cure
        # A worker elsewhere writes its journal to the URL of the run.
        self._mirror = Mirror.at(target.parent)
        self._name = f"{target.name}/{self.journal.name}"
        self._times = times
        self._over: Counter[str] = Counter()

    def begin(self) -> None:
        """Before a worker is given the shard with ``deadly`` and ``journal``."""
        # It is there from the start: on a shared file system a file that was missed once can be missed for a while.
        with writing(self.journal):
            self.journal.write_text("")
        if self._mirror:
            self._mirror.push(self._name)

    def died(self) -> None:
        """The worker died. Raises RunError where too many did, or ``times`` of them before any record."""
        if self._mirror:
            self._mirror.pull(self._name)
        row = self.journal.read_text()
        self._over[row] += 1
        if self._over.total() > self._times * MAX_DEATHS:
            raise self._lost()
        if self._over[row] < self._times:
            return
        if not row:
            raise self._lost()
        self.deadly |= {int(row)}

    def _lost(self) -> RunError:
        if self._mirror:
            self._mirror.remove(self._name)
        first, last = self._shard.records[0].origin, self._shard.records[-1].origin
        return RunError(
            f"worker processes die again and again, last over rows {first.row} to {last.row} of {first.file}, "
            f"perhaps for want of memory; the same command goes on, {self._cure}"
        )
