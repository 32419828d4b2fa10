"""Are the results on two nodes those of one process, and are they still when one of the nodes is lost?

Every data set is scored by one process, on two nodes, and on two nodes of which one is killed with all of its
processes when a fifth of the shards are finished and it has begun another. Shards, scores, features and
issues are compared byte by byte, and the scorecards field by field.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from pathlib import Path

from nodes import Nodes
from place import Place, Ran, differences, markers, rows_of_shards
from result import Section, number
from vlitqc.engine.shards import shard_size

HEADINGS = (
    "data",
    "records",
    "shards",
    "one process, s",
    "two nodes, s",
    "a node lost, s",
    "lost after",
    "scored again",
    "identical",
)
LOST_AFTER = 0.2
"""The share of the shards that are finished when a node is killed."""
LIMIT = 900.0


def section(place: Place, sets: Iterable[tuple[str, Path, tuple[str, ...]]]) -> Section:
    """A row for each set: its name, its file, and options of the command."""
    rows, notes, met = [], [], True
    for name, data, options in sets:
        shown, told = compare(place, name, data, options)
        print(*shown, *told, sep=" | ", file=sys.stderr, flush=True)
        rows.append(shown)
        notes += told
        met = met and not told
    return Section("Same results", __doc__ or "", HEADINGS, rows, notes, met)


def compare(place: Place, name: str, data: Path, options: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """The row of one set, and what differs."""
    local = place.score(data, "local", *options)
    with Nodes(2, place.environment) as nodes:
        both = place.score(data, "both", *options, *nodes.options(2), environment=nodes.environment)
    expected = {"name": "ray", "workers": 2, "gpus_per_worker": 0.0, "nodes": 2}
    told = [f"{name}, two nodes: {what} differs" for what in differences(local, both)]
    if both.info["engine"] != expected:
        told.append(f"{name}: the engine was {both.info['engine']}")
    with Nodes(2, place.environment) as nodes:
        loss = Loss(place, nodes, local.shards)
        lost = place.score(
            data,
            "lost",
            *options,
            *nodes.options(2),
            environment=nodes.environment,
            meanwhile=loss,
        )
    told += [f"{name}, a node lost: {what} differs" for what in differences(local, lost)]
    again = loss.given_again(lost)
    if not again:
        told.append(f"{name}: no shard was given again, so the loss of the node was none")
    return [
        name,
        f"{local.records:,}",
        str(local.shards),
        *(number(run.seconds) for run in (local, both, lost)),
        f"{loss.finished} of {local.shards}",
        "shard " + ", ".join(map(str, again)),
        "NO" if told else "yes",
    ], told


class Loss:
    """Kills the second node in the middle of a shard, when ``LOST_AFTER`` of ``shards`` are finished."""

    def __init__(self, place: Place, nodes: Nodes, shards: int) -> None:
        self._place = place
        self._nodes = nodes
        self._least = max(1, round(LOST_AFTER * shards))
        self._killed: frozenset[int] = frozenset()
        self.finished = 0

    def __call__(self, out: Path) -> None:
        until = time.monotonic() + LIMIT
        while not self._begun(out):
            if time.monotonic() > until:
                raise RuntimeError(f"a fifth of {out} was not scored in {LIMIT:g} seconds")
            time.sleep(0.05)
        self._killed = self._nodes.kill(1)
        self.finished = len(markers(out))

    def given_again(self, run: Ran) -> list[int]:
        """The shards that the lost node had begun and another process scored again."""
        by = self._place.scored_by()
        return [
            shard
            for shard, rows in rows_of_shards(run.out).items()
            if any(by.get(row, set()) & self._killed and by[row] - self._killed for row in rows)
        ]

    def _begun(self, out: Path) -> bool:
        """Whether enough is finished, and the second node has begun a shard that is not."""
        done = {int(path.parent.name) for path in markers(out)}
        if len(done) < self._least or not self._place.log.exists():
            return False
        own = set(self._nodes.processes(1))
        begun = {row for row, pids in self._place.scored_by().items() if pids & own}
        return not {shard_of(row) for row in begun} <= done


def shard_of(row: int) -> int:
    """The shard of a record in a set whose records hold no media themselves."""
    index, end = 0, shard_size(0)
    while row >= end:
        index += 1
        end += shard_size(index)
    return index
