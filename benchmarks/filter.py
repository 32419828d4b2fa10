"""How long do twelve rules take over the scores of five million records, and how much memory?

    python benchmarks/filter.py                      5 million records; a minute of that is writing them
    python benchmarks/filter.py --rows 200000
    python benchmarks/filter.py --keep DIR           the run stays there, and is used again by the next call
    python benchmarks/filter.py --limit-seconds 30 --limit-mb 1500       exit 1 where a side of ours is over

Writes a run's table of scores as a run does (parts of 2,048 records, a reason beside every metric) with synthetic
numbers. Every side then reads it in a process of its own:

* decide: which record fails which rule, ``vlitqc.filtering.decisions.decide``
* audit: decide, and ``decisions.parquet`` with value and threshold of every rule that a record fails
* effect: decide, and the report of what the rules do: overlaps, tasks, sources, closest calls; no principles
* loop: the same rules in a plain loop over the records of a pandas table; their levels are computed by pandas at once
* vectorised: the same rules as operations on whole pandas columns

Seconds are those of the work, from the first file to the last bit decided, by the clock and of all cores; ``peak`` is
the process's peak of resident memory, of which ``imports`` were there before the work began. All sides must decide
alike, bit for bit.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Bits = NDArray[np.uint64]
PART = 2048
OURS = ("decide", "audit", "effect")
OF_PICTURES = (
    "image_readability",
    "image_readability_min",
    "matching_degree",
    "matching_percentile",
    "visual_complexity",
    "visual_complexity_min",
    "object_diversity",
)
METRICS = (
    *OF_PICTURES,
    "text_readability",
    "text_readability_slor",
    "text_readability_oov_share",
    "granularity_complexity",
    "instruction_complexity",
    "correctness",
    "ifd",
)
TASKS = 12
ISSUES = {
    "exact_duplicate": ("error", 0.01),
    "empty_turn": ("warning", 0.005),
    "near_duplicate_text": ("warning", 0.01),
    "small_image": ("note", 0.03),
}
UNREADABLE, TEXT_ONLY, MISSING = 0.001, 0.1, 0.05
COLUMNS = [
    "row",
    "state",
    "n_media",
    "task",
    "matching_degree",
    "image_readability",
    "image_readability_min",
    "text_readability",
    "text_readability_slor",
    "text_readability_oov_share",
    "visual_complexity",
    "granularity_complexity",
    "instruction_complexity",
    "matching_percentile",
    "ifd",
]
"""What the rules look at, all that pandas reads."""


# ---------------------------------------------------------------- the run


def write(folder: Path, rows: int) -> None:
    """A run directory with the scores of so many records: the same ones every time."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rng = np.random.default_rng(0)
    (folder / "scores").mkdir(parents=True)
    tasks = pa.array([f"task{i}" for i in range(TASKS)])
    sources = pa.array(["coco", "gqa", "ocr_vqa", "textvqa", "vg"])
    reasons = pa.array(["text-only", "language ms not supported by this model", "record unreadable"])
    issues: dict[str, list[Any]] = {"row": [], "kind": [], "severity": []}
    for i, start in enumerate(range(0, rows, PART)):
        n = min(PART, rows - start)
        row = np.arange(start, start + n)
        unreadable, text_only = rng.random(n) < UNREADABLE, rng.random(n) < TEXT_ONLY
        task = rng.integers(0, TASKS, n)
        digests = rng.bytes(32 * n).hex()
        columns: dict[str, Any] = {
            "row": row,
            "id": [f"{r:012d}" for r in row.tolist()],
            "file": pa.repeat("/data/set.jsonl", n),
            "line": row + 1,
            "start": row * 1000,
            "end": row * 1000 + 998,
            "sha256": [digests[64 * k : 64 * k + 64] for k in range(n)],
            "state": pa.array(["scored", "unreadable"]).take(pa.array(unreadable.astype(np.int8))),
            "n_turns": pa.array(np.where(unreadable, 0, 1), pa.int32()),
            "n_images": pa.array(np.where(unreadable | text_only, 0, 1), pa.int32()),
            "n_media": pa.array(np.where(unreadable | text_only, 0, 1), pa.int32()),
            "source": sources.take(pa.array(rng.integers(0, 5, n))),
        }
        for metric in METRICS:
            none = rng.random(n) < MISSING
            why = none.astype(np.int8)
            if metric in OF_PICTURES:
                none |= text_only
                why[text_only] = 0
            none |= unreadable
            why[unreadable] = 2
            columns[metric] = pa.array(rng.normal(task / TASKS, 1), mask=none)
            columns[f"{metric}_reason"] = reasons.take(pa.array(why, mask=~none))
        columns["task"] = tasks.take(pa.array(task, mask=unreadable))
        pq.write_table(pa.table(columns), folder / "scores" / f"part-{i:05d}.parquet", compression="zstd")
        found = {kind: row[(rng.random(n) < share) & ~unreadable] for kind, (_, share) in ISSUES.items()}
        for kind, where in (found | {"malformed_record": row[unreadable]}).items():
            severity = ISSUES[kind][0] if kind in ISSUES else "error"
            issues["row"].extend(where.tolist())
            issues["kind"].extend([kind] * len(where))
            issues["severity"].extend([severity] * len(where))
    pq.write_table(pa.table(issues).sort_by("row"), folder / "issues.parquet", compression="zstd")
    card = {"counts": {"records": rows}, "principles": [], "issues": []}
    (folder / "scorecard.json").write_text(json.dumps(card), encoding="utf-8")
    # Written last: a folder that has it is complete.
    info = {"input": {"paths": ["/data/set.jsonl"], "files": []}, "plan": {}, "profile": {}}
    (folder / "run.json").write_text(json.dumps(info), encoding="utf-8")


def rows_of(folder: Path) -> int | None:
    """How many records the run in a folder has; None where there is no finished one."""
    if not (folder / "run.json").is_file():
        return None
    rows: int = json.loads((folder / "scorecard.json").read_text(encoding="utf-8"))["counts"]["records"]
    return rows


# ---------------------------------------------------------------- ours

Side = Callable[[Path, Path], Bits]
"""Given the run and a folder to write into, the rules that each record fails: bit k is rule k."""


def ours(more: str) -> Side:
    """The filter engine: decides, and does what else is asked for."""
    from vlitqc.engine.run import Run
    from vlitqc.filtering.audit import Verdicts, write_decisions
    from vlitqc.filtering.conditions import HasIssue, Not, Threshold, Where
    from vlitqc.filtering.decisions import decide
    from vlitqc.filtering.effect import effect
    from vlitqc.filtering.rules import Condition, Rule
    from vlitqc.filtering.table import ScoreTable
    from vlitqc.formats.folder import FATES

    conditions: list[Condition] = [
        Threshold.parse("matching_degree=-1.5", "below"),
        Threshold.parse("image_readability=p5", "below"),
        Threshold.parse("text_readability=p2,by=task", "below"),
        Threshold.parse("visual_complexity=p99", "above"),
        Threshold.parse("granularity_complexity=z3", "above"),
        Threshold.parse("instruction_complexity=mad3", "below"),
        Threshold.parse("ifd=mad3,by=task", "above"),
        HasIssue(("exact_duplicate", "empty_turn")),
        HasIssue((), "error"),
        Not(Where("text_only or image_readability_min > p1")),
        Where("matching_percentile < p20 and text_readability_slor < p20"),
        Where("0 <= text_readability_oov_share < 0.05 and task not in ['task3', 'task7']"),
    ]

    def work(folder: Path, out: Path) -> Bits:
        run = Run.open(folder)
        table = ScoreTable.of(run)
        decided = decide(table, [Rule(condition) for condition in conditions])
        kept = (decided.failed == 0) & ~decided.unreadable
        if more == "audit":
            told = [FATES.index(name) for name in ("unreadable", "kept", "dropped")]
            fates = np.where(decided.unreadable, told[0], np.where(kept, told[1], told[2])).astype(np.int8)
            verdicts = Verdicts(decided, fates, np.zeros(len(kept), np.bool_), None)
            write_decisions(out / "decisions.parquet", table, verdicts, {})
        if more == "effect":
            effect(run, table, decided, kept, seed=0, principles=False)
        return decided.failed

    return work


# ---------------------------------------------------------------- pandas


def frame_and_issues(folder: Path) -> tuple[Any, Any]:
    """The columns that the rules look at, and the issues."""
    import pandas as pd

    return pd.read_parquet(folder / "scores", columns=COLUMNS), pd.read_parquet(folder / "issues.parquet")


def mad(scores: Any) -> tuple[float, float]:
    """Median, and the median absolute deviation on the scale of a standard deviation."""
    centre = scores.median()
    return centre, 1.4826 * (scores - centre).abs().median()


def levels(frame: Any) -> dict[str, Any]:
    """The level of every rule that has a relative one; a dictionary by task where it differs between tasks."""
    centre, spread = mad(frame.instruction_complexity)
    by_task = {task: mad(scores) for task, scores in frame.groupby("task").ifd}
    complexity = frame.granularity_complexity
    return {
        "image": frame.image_readability.quantile(0.05),
        "text": frame.groupby("task").text_readability.quantile(0.02).to_dict(),
        "visual": frame.visual_complexity.quantile(0.99),
        "granularity": complexity.mean() + 3 * complexity.std(ddof=0),
        "instruction": centre - 3 * spread,
        "ifd": {task: middle + 3 * wide for task, (middle, wide) in by_task.items()},
        "worst": frame.image_readability_min.quantile(0.01),
        "percentile": frame.matching_percentile.quantile(0.2),
        "slor": frame.text_readability_slor.quantile(0.2),
    }


def loop() -> Side:
    """Record by record, as one would write it down; a comparison with NaN is false, as it should be."""

    def work(folder: Path, out: Path) -> Bits:
        frame, issues = frame_and_issues(folder)
        at = levels(frame[frame.state != "unreadable"])
        bad = set(issues.row[issues.kind.isin(["exact_duplicate", "empty_turn"])])
        errors = set(issues.row[issues.severity == "error"])
        failed = np.zeros(len(frame), np.uint64)
        for i, r in enumerate(frame.itertuples(index=False)):
            if r.state == "unreadable":
                continue
            bits = 0
            if r.matching_degree < -1.5:
                bits |= 1
            if r.image_readability < at["image"]:
                bits |= 2
            if r.text_readability < at["text"][r.task]:
                bits |= 4
            if r.visual_complexity > at["visual"]:
                bits |= 8
            if r.granularity_complexity > at["granularity"]:
                bits |= 16
            if r.instruction_complexity < at["instruction"]:
                bits |= 32
            if r.ifd > at["ifd"][r.task]:
                bits |= 64
            if r.row in bad:
                bits |= 128
            if r.row in errors:
                bits |= 256
            if r.n_media != 0 and r.image_readability_min <= at["worst"]:
                bits |= 512
            if r.matching_percentile < at["percentile"] and r.text_readability_slor < at["slor"]:
                bits |= 1024
            if 0 <= r.text_readability_oov_share < 0.05 and r.task not in ("task3", "task7"):
                bits |= 2048
            failed[i] = bits
        return failed

    return work


def vectorised() -> Side:
    """Column by column."""

    def work(folder: Path, out: Path) -> Bits:
        frame, issues = frame_and_issues(folder)
        readable = frame.state != "unreadable"
        at = levels(frame[readable])
        share = frame.text_readability_oov_share
        fails = [
            frame.matching_degree < -1.5,
            frame.image_readability < at["image"],
            frame.text_readability < frame.task.map(at["text"]),
            frame.visual_complexity > at["visual"],
            frame.granularity_complexity > at["granularity"],
            frame.instruction_complexity < at["instruction"],
            frame.ifd > frame.task.map(at["ifd"]),
            frame.row.isin(issues.row[issues.kind.isin(["exact_duplicate", "empty_turn"])]),
            frame.row.isin(issues.row[issues.severity == "error"]),
            (frame.n_media != 0) & (frame.image_readability_min <= at["worst"]),
            (frame.matching_percentile < at["percentile"]) & (frame.text_readability_slor < at["slor"]),
            (share >= 0) & (share < 0.05) & ~frame.task.isin(["task3", "task7"]),
        ]
        failed = np.zeros(len(frame), np.uint64)
        for k, mask in enumerate(fails):
            failed |= (mask & readable).to_numpy(np.uint64) << np.uint64(k)
        return failed

    return work


SIDES: dict[str, Callable[[], Side]] = {
    **{name: partial(ours, name) for name in OURS},
    "loop": loop,
    "vectorised": vectorised,
}


# ---------------------------------------------------------------- measuring


def peak_mb() -> float:
    """The most resident memory that this process has had, in 10^6 bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def child(side: str, folder: Path, out: Path) -> None:
    """Do one side's work in this process; what it found and took goes into ``out``."""
    started = time.perf_counter()
    work = SIDES[side]()
    if side not in OURS:
        import pandas  # noqa: F401 - its import is told apart from the work
        import pyarrow.dataset  # noqa: F401
    imported, import_mb, before = time.perf_counter(), peak_mb(), time.process_time()
    failed = work(folder, out)
    took = {
        "imports": imported - started,
        "seconds": time.perf_counter() - imported,
        "cpu": time.process_time() - before,
        "import_mb": import_mb,
        "mb": peak_mb(),
    }
    np.save(out / f"{side}.npy", failed)
    (out / f"{side}.json").write_text(json.dumps(took), encoding="utf-8")


def measure(side: str, folder: Path, out: Path) -> dict[str, float]:
    """One side in a process of its own."""
    command = [sys.executable, __file__, "--child", side, str(folder), str(out)]
    subprocess.run(command, check=True)
    took: dict[str, float] = json.loads((out / f"{side}.json").read_text(encoding="utf-8"))
    return took


def show(rows: int, taken: dict[str, dict[str, float]]) -> None:
    """One table: a line a side, and how many times its seconds and its memory the loop takes."""
    base = taken.get("loop")
    print(f"{rows:,} records, 12 rules, {os.cpu_count()} cores")
    print(
        f"{'side':<11}{'seconds':>9}{'CPU s':>8}{'records/s':>12}{'loop takes':>12}{'peak MB':>9}{'imports MB':>12}"
        f"{'loop takes':>12}{'imports s':>11}"
    )
    for side, took in taken.items():
        times = f"{base['seconds'] / took['seconds']:.1f} ×" if base else ""
        sizes = f"{base['mb'] / took['mb']:.1f} ×" if base else ""
        print(
            f"{side:<11}{took['seconds']:>9.2f}{took['cpu']:>8.2f}{rows / took['seconds']:>12,.0f}{times:>12}"
            f"{took['mb']:>9.0f}{took['import_mb']:>12.0f}{sizes:>12}{took['imports']:>11.2f}"
        )


def differences(out: Path, sides: list[str]) -> dict[tuple[str, str], int]:
    """How many records two sides decide differently, for every pair that differs."""
    found = {side: np.load(out / f"{side}.npy") for side in sides}
    pairs = {(a, b): int((found[a] != found[b]).sum()) for a, b in combinations(sides, 2)}
    return {pair: n for pair, n in pairs.items() if n}


def main() -> int:
    """Write, measure, print one table."""
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4]))
        return 0
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=5_000_000, help="how many records")
    parser.add_argument(
        "--keep", type=Path, help="write the run there and leave it; one that is there is used"
    )
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES), help="only these")
    parser.add_argument("--limit-seconds", type=float, default=float("inf"), help="for each side of ours")
    parser.add_argument(
        "--limit-mb", type=float, default=float("inf"), help="for each side of ours, at its peak"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep or Path(temporary, "run")
        there = rows_of(folder)
        if there is None:
            write(folder, options.rows)
        elif there != options.rows:
            parser.error(f"the run in {folder} has {there:,} records; pass --rows {there} or another folder")
        for path in sorted((folder / "scores").iterdir()):
            path.read_bytes()  # no side pays for a cold disk
        taken = {side: measure(side, folder, Path(temporary)) for side in options.sides}
        unlike = differences(Path(temporary), options.sides)
    show(options.rows, taken)
    for (one, other), n in unlike.items():
        print(f"{one} and {other} decide {n:,} records differently")
    mine = [taken[side] for side in OURS if side in taken]
    over = any(t["seconds"] > options.limit_seconds or t["mb"] > options.limit_mb for t in mine)
    if over:
        print(f"over the limit of {options.limit_seconds:g} s or {options.limit_mb:g} MB")
    return 1 if unlike or over else 0


if __name__ == "__main__":
    sys.exit(main())
