"""What Ray costs, and what a second worker brings.

Overhead: one worker on one Ray node against one process, on the same records, in turns, the best of each.
*whole* is the command with its start, *rate* the records a second from the moment at which the first shard is
finished: what comes before is start-up, the loading of libraries and models above all. Scaling: two workers
against one, likewise; *rate* then counts from the moment at which each worker could have finished a shard, up
to the last shard, which one of them finishes alone. Every process has one thread.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from nodes import Nodes
from place import Place, Ran, differences
from result import Section, number

HEADINGS = (
    "what",
    "records",
    "A",
    "B",
    "A, s",
    "B, s",
    "whole B/A",
    "A, records/s",
    "B, records/s",
    "rate B/A",
)
PACED_MS, BUSY_MS = 25.0, 20.0


@dataclass(frozen=True)
class Work:
    """Something to score: a name, the records, what of the profile, and variables of the environment."""

    name: str
    data: Path
    options: tuple[str, ...]
    profile: Path
    environment: Mapping[str, str]

    def local(self, place: Place, workers: int) -> Ran:
        """In this machine's own processes."""
        return self._score(
            place, f"local-{workers}", "--workers", str(workers), environment=place.environment
        )

    def ray(self, place: Place, workers: int) -> Ran:
        """On as many nodes as workers, of one processor each."""
        with Nodes(workers, {**place.environment, **self.environment}) as nodes:
            return self._score(
                place, f"ray-{workers}", *nodes.options(workers), environment=nodes.environment
            )

    def _score(self, place: Place, out: str, *options: str, environment: Mapping[str, str]) -> Ran:
        return place.score(
            self.data,
            out,
            *self.options,
            *options,
            profile=self.profile,
            environment={**environment, **self.environment},
        )


@dataclass(frozen=True)
class Best:
    """The best of several turns."""

    seconds: float
    rate: float

    @classmethod
    def of(cls, found: list[tuple[float, float]]) -> Best:
        return cls(min(seconds for seconds, _ in found), max(rate for _, rate in found))


def section(place: Place, sets: Mapping[str, Path], records: Mapping[str, int], turns: int) -> Section:
    """``sets`` are the files *mixed* and *pictures*; ``records``: how many of them, and of the made-up work."""
    mixed = ("--batch-size", "512", "--limit", str(records["mixed"]))
    lite = Work("lite, mixed records", sets["mixed"], mixed, place.lite, {})
    network = Work(
        "EfficientNet-Lite0",
        sets["pictures"],
        ("--metrics", "visual_semantic_diversity", "--limit", str(records["pictures"])),
        place.lite,
        {},
    )
    paced, busy = (
        Work(
            f"{milliseconds:g} ms a record, {'computing' if computing else 'waiting'}",
            sets["mixed"],
            ("--limit", str(records["made up"])),
            place.alone,
            place.paced(milliseconds, busy=computing),
        )
        for milliseconds, computing in ((PACED_MS, False), (BUSY_MS, True))
    )
    rows = []
    told: list[str] = []
    for work in (lite, paced):
        rows.append(
            against(place, work, turns, told, work.local, 1, work.ray, 1, "one process", "Ray, 1 worker")
        )
    for work in (busy, network):
        rows.append(
            against(place, work, turns, told, work.ray, 1, work.ray, 2, "Ray, 1 worker", "Ray, 2 workers")
        )
        rows.append(
            against(place, work, turns, told, work.local, 1, work.local, 2, "one process", "2 local workers")
        )
    return Section("Overhead and scaling", __doc__ or "", HEADINGS, rows, told, not told)


def against(
    place: Place,
    work: Work,
    turns: int,
    told: list[str],
    one: Callable[[Place, int], Ran],
    ones: int,
    other: Callable[[Place, int], Ran],
    others: int,
    *names: str,
) -> list[str]:
    """A row: two ways to do the same work, by turns. What differs in the results goes to ``told``."""
    found: list[list[tuple[float, float]]] = [[], []]
    for turn in range(turns):
        runs = one(place, ones), other(place, others)
        for own, run in zip(found, runs, strict=True):
            own.append((run.seconds, run.rate))
        print(work.name, *names, *(pair[-1] for pair in found), sep=" | ", file=sys.stderr, flush=True)
        if turn == 0:
            told += [f"{work.name}, {names[1]}: {what} differs" for what in differences(*runs)]
            records = int(runs[0].records)
    a, b = map(Best.of, found)
    return [
        work.name,
        f"{records:,}",
        *names,
        number(a.seconds),
        number(b.seconds),
        f"{b.seconds / a.seconds:.2f}",
        number(a.rate),
        number(b.rate),
        f"{b.rate / a.rate:.2f}",
    ]
