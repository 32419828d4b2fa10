"""What every benchmark of speed is made of: one comparison a row, measured within one run on one machine.

An area is a script of this folder:

    from row import Options, Row, main

    def rows(options: Options) -> Iterator[Row]:
        ours, theirs = interleaved(5, lambda: ..., lambda: ...)
        yield Row("dbscan", "50,000 × 384", ours, "s", "scikit-learn, brute force", theirs, wanted=3.0)

    if __name__ == "__main__":
        main(rows)

``python benchmarks/speed/dbscan.py [--quick] [--data DIR] [--json]`` runs one, ``python benchmarks/speed`` all of them.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.box import ASCII, HEAVY_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

LESS_IS_BETTER = frozenset({"s", "ms", "MB", "GB", "exponent"})
"""Units in which the smaller number wins; every other unit is a rate or a share."""
NOISE = 1.1
"""How many times as fast as possible a rate may come out."""


@dataclass(frozen=True)
class Row:
    """One comparison: ``ours`` beside ``theirs``, both in ``unit``, on the same input in the same run."""

    area: str
    what: str
    ours: float
    unit: str
    against: str
    theirs: float
    wanted: float | None
    """The least ratio that is good enough; ``None`` where the row only informs."""
    note: str = ""
    peak_mb: float | None = None
    """Resident memory at its highest, in 10⁶ bytes, where the area measures it."""

    @property
    def ratio(self) -> float:
        """How many times better ours is: ours/theirs for rates, theirs/ours for ``LESS_IS_BETTER``."""
        better, worse = (self.theirs, self.ours) if self.unit in LESS_IS_BETTER else (self.ours, self.theirs)
        return better / worse if worse else float("inf")

    @property
    def met(self) -> bool | None:
        """Whether the ratio is as wanted; ``None`` where nothing is wanted."""
        return None if self.wanted is None else self.ratio >= self.wanted

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"ratio": self.ratio, "met": self.met}


@dataclass(frozen=True)
class Options:
    """What the command line says; each area takes what concerns it."""

    quick: bool = False
    """Small sizes, in seconds: that the benchmark runs, not what it measures."""
    full: bool = False
    """The largest sizes as well, where an area has some that take an hour or much disk."""
    data: Path | None = None
    """Folder with real data; without it an area makes its input."""
    venvs: Path | None = None
    """Folder for the environments that an area makes for other tools; by default in the user's cache."""
    karateclub: Path | None = None
    """A Python that can import karateclub; by default that of an environment that is made for it."""


class Skipped(Exception):
    """What an area raises, with the reason, where it cannot go on here: a tool or a device is missing."""


def turns(repeats: int, *calls: Callable[[], object]) -> list[list[float]]:
    """Wall times of each call in seconds, taken in turns so that load meets all alike."""
    took: list[list[float]] = [[] for _ in calls]
    for _ in range(repeats):
        for call, own in zip(calls, took, strict=True):
            start = time.perf_counter()
            call()
            own.append(time.perf_counter() - start)
    return took


def interleaved(repeats: int, *calls: Callable[[], object]) -> list[float]:
    """Wall time of each call in seconds, the best of ``repeats`` turns."""
    return [min(own) for own in turns(repeats, *calls)]


def without_start(
    few: int, many: int, seconds: tuple[Sequence[float], Sequence[float]], ceiling: float
) -> tuple[float, str]:
    """Items a second that the start of a run does not slow: what many take longer than few, in the median turn.

    Also why that is no measurement, else nothing: few took as long as many (then the rate is that with the start),
    or the rate is above ``ceiling``, which nothing can reach, by more than ``NOISE``.
    """
    longer = statistics.median(long - short for short, long in zip(*seconds, strict=True))
    if longer <= 0:
        return many / statistics.median(seconds[1]), f"no verdict: {few} took as long as {many}"
    rate = (many - few) / longer
    impossible = rate > NOISE * ceiling
    return rate, f"no verdict: faster than the models alone, {number(ceiling)} a second" if impossible else ""


def peak_mb() -> float:
    """The most resident memory that this process has had, in 10⁶ bytes."""
    # Not ru_maxrss, which a new process takes over from the one that started it.
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return (
        next(int(entry.split()[1]) for entry in status.splitlines() if entry.startswith("VmHWM:"))
        * 1024
        / 1e6
    )


def exponent(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """The slope of log(cost) over log(size): 1 where a cost grows with the data, 2 where with its square."""
    return float(np.polyfit(np.log(sizes), np.log(costs), 1)[0])


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options that every area and the whole have in common."""
    parser.add_argument(
        "--quick", action="store_true", help="small sizes: only shows that the benchmark runs"
    )
    parser.add_argument(
        "--full", action="store_true", help="the largest sizes as well: memory at 5 million samples"
    )
    parser.add_argument("--data", type=Path, metavar="DIR", help="folder with real data, else input is made")
    parser.add_argument(
        "--venvs", type=Path, metavar="DIR", help="where environments of other tools are made"
    )
    parser.add_argument(
        "--karateclub", type=Path, metavar="PYTHON", help="a Python that can import karateclub"
    )
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")


def options_of(arguments: argparse.Namespace) -> Options:
    return Options(arguments.quick, arguments.full, arguments.data, arguments.venvs, arguments.karateclub)


def main(rows: Callable[[Options], Iterable[Row]]) -> None:
    """Run one area: print its rows, and leave with 1 where a wanted ratio is not met.

    As JSON each row is a line as soon as it is measured, and the last line says why there are no more.
    """
    parser = argparse.ArgumentParser(description=(sys.modules["__main__"].__doc__ or "").split("\n\n")[0])
    add_options(parser)
    arguments = parser.parse_args()
    found: list[Row] = []
    skipped = failed = None
    try:
        for row in rows(options_of(arguments)):
            # Of small sizes no speed is wanted.
            found.append(replace(row, wanted=None) if arguments.quick else row)
            print(line(found[-1]), file=sys.stderr, flush=True)
            if arguments.json:
                print(json.dumps(found[-1].as_json(), ensure_ascii=False), flush=True)
    except Skipped as why:
        skipped = str(why)
    except Exception as error:
        failed = f"{type(error).__name__}: {error}"
        raise
    finally:
        # Also of an area that failed: what it had measured until then.
        if arguments.json:
            print(json.dumps({"skipped": skipped, "failed": failed}, ensure_ascii=False))
        else:
            show(found)
    if skipped:
        print(f"skipped: {skipped}", file=sys.stderr)
    sys.exit(any(row.met is False for row in found))


HEADINGS = ("area", "what", "ours", "against", "theirs", "ratio", "wanted", "met", "peak MB", "note")


def cells(row: Row) -> Sequence[str]:
    """A row as the table shows it, in the order of ``HEADINGS``."""
    met = {None: "", True: "yes", False: "NO"}[row.met]
    return (
        row.area,
        row.what,
        f"{number(row.ours)} {row.unit}",
        row.against,
        f"{number(row.theirs)} {row.unit}",
        number(row.ratio),
        "" if row.wanted is None else f"≥ {row.wanted:g}",
        met,
        "" if row.peak_mb is None else f"{row.peak_mb:,.0f}",
        row.note,
    )


def number(value: float) -> str:
    """Three digits that count, without an exponent."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) >= 0.001 or not value else f"{value:.2e}"


def line(row: Row) -> str:
    """A row while the others are still being measured."""
    return " · ".join(cell for cell in cells(row) if cell)


def show(rows: Iterable[Row], console: Console | None = None) -> None:
    """Print the table; ``note`` under its row, for it is a sentence."""
    console = console or Console()
    # A pipe has no width of its own: there each row stays on one line.
    piped = not console.is_terminal
    if piped:
        console = Console(file=console.file, width=240)
    table = Table(box=ASCII if piped else HEAVY_HEAD)
    for heading in HEADINGS[:-1]:
        right = heading in {"ours", "theirs", "ratio", "wanted", "peak MB"}
        table.add_column(heading, justify="right" if right else "left", overflow="fold")
    for row in rows:
        *shown, note = cells(row)
        style = "red" if row.met is False else None
        table.add_row(*(escape(cell) for cell in shown), style=style)
        if note:
            table.add_row("", f"[dim]{escape(note)}[/dim]")
    console.print(table)


def from_json(entry: Mapping[str, Any]) -> Row:
    """A row that an area printed with ``--json``."""
    return Row(**{key: value for key, value in entry.items() if key not in {"ratio", "met"}})
