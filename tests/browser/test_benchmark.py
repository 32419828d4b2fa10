"""The benchmark of the page, on few records: its run is one that the engine could have left, its limits are kept."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import jsonschema
import numpy as np

import vlitqc
from vlitqc.engine import scorecard

BENCHMARK = Path(__file__).resolve().parents[2] / "benchmarks" / "report_page.py"
RECORDS = 600


def measured(home: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(BENCHMARK), "--records", str(RECORDS), "--opens", "1", "--keep", str(home)]
    return subprocess.run([*command, *options], check=False, capture_output=True, text=True)


def test_the_limits_are_kept_on_a_run_that_the_engine_could_have_left(chromium: str, tmp_path: Path) -> None:
    done = measured(tmp_path, "--limit-seconds", "120")
    assert done.returncode == 0, done.stderr + done.stdout
    head, line, verdict = done.stdout.splitlines()
    assert head.split() == ["records", "write", "peak", "page", "ready", "step", "map"]
    assert line.split()[0] == str(RECORDS)
    assert verdict == "limits: 10 MB, ready within 120 s: kept"

    run = vlitqc.Run.open(tmp_path / str(RECORDS) / "data.vlitqc")
    jsonschema.validate(run.scorecard, scorecard.schema())
    assert len(run.scores) == RECORDS
    readable = int((run.scores["state"] != "unreadable").sum())
    for kind in ("response", "picture"):
        vectors = run.vectors(kind)
        assert not isinstance(vectors, str)
        assert vectors[0].shape[0] == readable
        assert 0.8 < vectors[1].mean() <= 1
    kept = run.filter(drop_below={"matching_degree": "p10"})
    low = run.scores["matching_degree"] < np.nanquantile(run.scores["matching_degree"], 0.1)
    assert not (kept & low).any()
    assert len(run.record(readable // 2).turns) >= 1  # type: ignore[union-attr]

    over = measured(tmp_path, "--limit-mb", "0.001")
    assert over.returncode == 1
    assert over.stdout.splitlines()[1].endswith("over the limit")
    assert over.stdout.splitlines()[2] == "limits: 0.001 MB, ready within 2 s: failed"
