"""How much memory and time a selection takes, and how both grow with the records.

    python benchmarks/selection.py                           100,000 records of 384 numbers, under a minute
    python benchmarks/selection.py --records 25000 100000    one line for each
    python benchmarks/selection.py --diversity facility_location

Writes a run of synthetic scores and vectors (bunches of near ones, a tenth of them nearer than 0.9 to another) to a
temporary folder and selects from it, each size in a process of its own; prints seconds and that process's peak of
resident memory, which counts the pages of mapped files that happen to be in memory. The run is deleted at the end.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa

from vlitqc.engine.run import Run
from vlitqc.engine.shards import Done, folder, write_shard
from vlitqc.filtering.selection import Selection, select
from vlitqc.filtering.table import ScoreTable
from vlitqc.types import Features

SHARD = 2_048
TASKS = 12
METRICS = {"clear": "readability", "right": "correctness", "busy": "visual_complexity"}


def write(path: Path, n: int, d: int) -> None:
    """The run directory, as far as a selection reads it."""
    rng = np.random.default_rng(0)
    tasks = rng.choice(
        [f"task {i}" for i in range(TASKS)], n, p=np.arange(1, TASKS + 1) / (TASKS * (TASKS + 1) / 2)
    )
    scores = {name: rng.normal(size=n) for name in METRICS}
    (path / "scores").mkdir()
    (path / "shards").mkdir()
    pl.DataFrame(
        {
            "row": np.arange(n),
            "id": [f"r{i}" for i in range(n)],
            "state": ["scored"] * n,
            "task": tasks,
            **scores,
        }
    ).write_parquet(path / "scores" / "part-00000.parquet")
    centres = rng.normal(size=(max(2, n // 300), d)).astype(np.float32)
    for index, start in enumerate(range(0, n, SHARD)):
        size = min(SHARD, n - start)
        noise = rng.normal(size=(size, d)).astype(np.float32)
        noise *= np.where(rng.random(size) < 0.1, 0.2, 1.0)[:, None].astype(np.float32)
        rows = centres[rng.integers(0, len(centres), size)] + noise
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        features = {"response-synthetic": Features(rows, np.arange(size))}
        write_shard(folder(path / "shards", index), Done("", size, size), pa.table({}), [], features)
    card = [
        {"name": name, "principle": principle, "level": "sample", "higher_is_better": True}
        for name, principle in METRICS.items()
    ]
    (path / "scorecard.json").write_text(json.dumps({"principles": [{"metrics": card}]}))
    (path / "run.json").write_text(json.dumps({"plan": {"seed": 0}}))


def measure(path: Path, keep: str, diversity: str) -> None:
    """Select, and print one line."""
    issues = pl.DataFrame(schema={"row": pl.Int64, "kind": pl.String, "severity": pl.String})
    table = ScoreTable(pl.scan_parquet(path / "scores" / "part-*.parquet"), issues)
    n = len(table.collect("row"))
    started = time.perf_counter()
    everything = np.ones(n, np.bool_)
    selection = Selection(keep=keep, diversity=diversity)  # type: ignore[arg-type]
    found = select(Run(path), table, everything, selection, must_keep=~everything, seed=0)
    selected = time.perf_counter()
    why = found.why(np.arange(n))
    near = sum(reason is not None and reason.startswith("cosine") for reason in why)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"{n:>9,} records  {len(found.strata):>6,} strata  {found.kept.sum():>8,} kept  {near:>7,} too near  "
        f"{selected - started:7.1f} s  {time.perf_counter() - selected:5.1f} s for the reasons  {peak:6,.0f} MB",
        flush=True,
    )


def main() -> None:
    """Write and measure every size."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--records", type=int, nargs="+", default=[100_000])
    parser.add_argument("--width", type=int, default=384, help="numbers in a vector")
    parser.add_argument("--keep", default="20%")
    parser.add_argument("--diversity", default="greedy", choices=["greedy", "facility_location", "none"])
    parser.add_argument("--run", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        measure(options.run, options.keep, options.diversity)
        return
    for n in options.records:
        with tempfile.TemporaryDirectory() as path:
            write(Path(path), n, options.width)
            asked = ["--run", path, "--keep", options.keep, "--diversity", options.diversity]
            subprocess.run([sys.executable, __file__, *asked], check=True)


if __name__ == "__main__":
    main()
