"""The benchmark of the filter engine, on few records: every side decides alike, and the limits are kept."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

BENCHMARK = Path(__file__).resolve().parents[1] / "benchmarks" / "filter.py"
ROWS = 5000  # three parts, and some 400 records a task


def run(*options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(BENCHMARK), "--rows", str(ROWS), *options]
    return subprocess.run(command, check=False, capture_output=True, text=True, env=dict(os.environ))


def test_every_side_decides_alike_and_the_limits_are_kept(tmp_path: Path) -> None:
    kept = tmp_path / "run"
    done = run("--keep", str(kept))
    assert done.returncode == 0, done.stderr + done.stdout
    first, head, *lines = done.stdout.splitlines()
    assert first.startswith("5,000 records, 12 rules")
    assert head.split()[:2] == ["side", "seconds"]
    assert [line.split()[0] for line in lines] == ["decide", "audit", "effect", "loop", "vectorised"]
    written = (kept / "run.json").stat().st_mtime_ns
    over = run("--keep", str(kept), "--sides", "decide", "--limit-mb", "1")
    assert over.returncode == 1
    assert "over the limit of inf s or 1 MB" in over.stdout
    assert (kept / "run.json").stat().st_mtime_ns == written
