"""What a command takes before it works: its start, and a whole run whose features are all in the cache.

Each command is a process of its own. The cache lies in a folder of the benchmark's; the first run fills it, and every
run after it has a folder of its own and takes over nothing but features.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from inputs import pairs, write_llava
from row import Options, Row, main

RECORDS, QUICK = 160, 6
RUNS = 3
START_LIMIT, RUN_LIMIT = 0.5, 3.0
"""Seconds of processor time, and of wall time."""
COMMANDS = (("--help",), ("metrics",), ("score", "--help"))
LLAVA = Path("llava_pretrain_2k/playground/data/LLaVA-Pretrain/blip_laion_cc_sbu_dev.json")
"""160 records, below the folder with real data."""


class Took(NamedTuple):
    """Seconds."""

    wall: float
    cpu: float


def rows(options: Options) -> Iterator[Row]:
    """Three commands that compute nothing, then a warm run and what its page takes."""
    runs = 1 if options.quick else RUNS
    limit = f"{START_LIMIT:g} s of processor time"
    for arguments in COMMANDS:
        what = " ".join(("vlitqc", *arguments))
        took = median([command(*arguments) for _ in range(runs)])
        note = f"{took.wall:.2f} s on the clock"
        yield Row("startup", what, took.cpu, "s", limit, START_LIMIT, 1.0, note)
    with tempfile.TemporaryDirectory() as scratch:
        yield from warm(options, runs, Path(scratch))


def warm(options: Options, runs: int, root: Path) -> Iterator[Row]:
    """``vlitqc score`` with the default profile, into an empty folder."""
    data = options.data / LLAVA if options.data is not None else None
    if options.quick or data is None or not data.is_file():
        n = QUICK if options.quick else RECORDS
        data = write_llava(pairs(n, root / "pictures", options.data), root / "data.jsonl")
    cold = score(data, root, "cold")
    took = [score(data, root, f"warm-{i}") for i in range(runs)]
    told = json.loads((root / "warm-0" / "run.json").read_text(encoding="utf-8"))
    n = json.loads((root / "warm-0" / "scorecard.json").read_text(encoding="utf-8"))["counts"]["records"]
    what = f"vlitqc score of {n} records, all features known"
    whole = median(took)
    note = f"{whole.cpu:.2f} s of processor time; {cold.wall:.1f} s when nothing is known"
    yield Row("startup", what, whole.wall, "s", f"{RUN_LIMIT:g} s", RUN_LIMIT, 1.0, note)
    yield Row("startup", "its page", told["times"]["stages"]["report"], "s", "that run", whole.wall, None)


def score(data: Path, root: Path, name: str) -> Took:
    """A run of its own."""
    return command("score", str(data), "--out", str(root / name), "--quiet", cache=root / "cache")


def command(*arguments: str, cache: Path | None = None) -> Took:
    """One command line, in a process of its own."""
    environment = os.environ | ({"VLITQC_CACHE": str(cache)} if cache else {})
    # Python keeps what it has compiled, as pip does where it installs.
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    whole = [sys.executable, "-m", "vlitqc", *arguments]
    subprocess.run(whole, env=environment, stdout=subprocess.DEVNULL, check=True)
    wall, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    return Took(wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def median(took: list[Took]) -> Took:
    """Of each of the two."""
    return Took(*map(statistics.median, zip(*took, strict=True)))


if __name__ == "__main__":
    main(rows)
