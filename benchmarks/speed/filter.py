"""Twelve rules over the scores of a run, decided by the filter engine and by pandas; ``benchmarks/filter.py`` has them.

Each side reads the run in a process of its own; its imports are not counted. Both must decide alike, bit for bit.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from row import Options, Row, exponent, main

SCRIPT = Path(__file__).resolve().parents[1] / "filter.py"
SIZES, QUICK = (125_000, 250_000, 500_000), (2_000, 4_000, 8_000)
RUNS = 3


def rows(options: Options) -> Iterator[Row]:
    """Deciding against whole pandas columns and against a loop, and how it grows."""
    sizes = QUICK if options.quick else SIZES
    with tempfile.TemporaryDirectory() as scratch:
        taken = []
        for n in sizes:
            run = Path(scratch) / str(n)
            keep = ["--rows", str(n), "--keep", str(run), "--sides", "decide"]
            subprocess.run([sys.executable, SCRIPT, *keep], check=True, stdout=subprocess.DEVNULL)
            sides = ("decide", "vectorised", "loop") if n == sizes[-1] else ("decide",)
            taken.append(measured(run, Path(scratch), sides))
    decide, vectorised, loop = taken[-1].values()
    what = f"12 rules, {sizes[-1]:,} records"
    for name, theirs in (("pandas, whole columns", vectorised), ("pandas, a loop over records", loop)):
        note = f"its peak: {theirs['mb']:,.0f} MB"
        yield Row("filter", what, decide["seconds"], "s", name, theirs["seconds"], None, note, decide["mb"])
    told = ", ".join(
        f"{n:,}: {found['decide']['seconds']:.2f} s" for n, found in zip(sizes, taken, strict=True)
    )
    grows = exponent(sizes, [found["decide"]["seconds"] for found in taken])
    yield Row("filter", "growth of the time with the records", grows, "exponent", "linear", 1.0, None, told)


def measured(run: Path, scratch: Path, sides: tuple[str, ...]) -> dict[str, dict[str, float]]:
    """What each side took at its best, in turns. Raises RuntimeError where two decide differently."""
    best: dict[str, dict[str, float]] = {}
    for _ in range(RUNS):
        for side in sides:
            subprocess.run([sys.executable, SCRIPT, "--child", side, run, scratch], check=True)
            took = json.loads((scratch / f"{side}.json").read_text(encoding="utf-8"))
            if side not in best or took["seconds"] < best[side]["seconds"]:
                best[side] = took
    decided = [np.load(scratch / f"{side}.npy") for side in sides]
    if not all(np.array_equal(decided[0], other) for other in decided):
        raise RuntimeError(f"{', '.join(sides)} do not decide alike")
    return best


if __name__ == "__main__":
    main(rows)
