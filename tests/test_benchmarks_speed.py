"""The benchmarks of speed: areas run on small input; the table, the file and the exit code say what was found."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
import time
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest

SPEED = Path(__file__).resolve().parents[1] / "benchmarks" / "speed"
CHEAP = ("dbscan", "ego_splitting")
OTHERS = ("end_to_end", "pictures", "data_juicer", "text", "memory", "startup", "filter", "report")
"""Even small sizes take these minutes together: they are imported alone."""
LIMIT = 120
"""Seconds of one command, on a machine that does much else."""
COLUMNS = {
    "area",
    "what",
    "ours",
    "unit",
    "against",
    "theirs",
    "wanted",
    "note",
    "peak_mb",
    "ratio",
    "met",
}

FAKES = {
    "dbscan": """
yield Row("dbscan", "a thing", 1.0, "s", "another | thing", 4.0, 3.0, "a remark", 12.0)
yield Row("dbscan", "a rate", 10.0, "pairs/s", "another", 20.0, 0.9)
""",
    "text": """
yield Row("text", "before it fails", 2.0, "texts/s", "another", 1.0, None)
raise ValueError("no such text")
""",
    "startup": """
yield Row("startup", "before it stops", 1.0, "s", "another", 2.0, 1.0)
raise Skipped("no other tool here")
""",
    "report": "raise SystemExit(7)\nyield",
}


def speed(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(folder), *options]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=LIMIT)


def module(name: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A script of the folder, whose modules find each other there and are forgotten afterwards."""
    monkeypatch.syspath_prepend(SPEED)
    for own in (*(path.stem for path in SPEED.glob("*.py")), "speed"):
        monkeypatch.delitem(sys.modules, own, raising=False)
    spec = spec_from_file_location("speed", SPEED / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    made = module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "speed", made)
    spec.loader.exec_module(made)
    return made


@pytest.fixture
def fakes(tmp_path: Path) -> Path:
    """The table's own scripts beside areas that fail, stop and miss what is wanted."""
    folder = tmp_path / "benchmarks" / "speed"
    folder.mkdir(parents=True)
    for name in ("__main__.py", "row.py", "venvs.py"):
        shutil.copy(SPEED / name, folder)
    for area, body in FAKES.items():
        lines = "".join(f"    {line}\n" for line in body.strip().splitlines())
        text = f"from row import Row, Skipped, main\ndef rows(options):\n{lines}main(rows)\n"
        (folder / f"{area}.py").write_text(text, encoding="utf-8")
    return folder


def test_cheap_areas_run_on_small_input(tmp_path: Path) -> None:
    written = tmp_path / "R.md"
    done = speed(SPEED, "--areas", ",".join(CHEAP), "--quick", "--json", "--write", str(written))
    told = json.loads(done.stdout)
    assert not told["failed"], told
    assert int(told["machine"]["cores"]) >= 1
    assert {row["area"] for row in told["rows"]} == {*CHEAP, "near duplicates"}
    for row in told["rows"]:
        assert set(row) == COLUMNS
        assert math.isfinite(row["ours"])
        assert math.isfinite(row["theirs"])
        assert row["what"]
        assert row["against"]
        # Small sizes show that it runs, not how fast.
        assert row["met"] is None
    assert done.returncode == 0
    assert "| dbscan |" in written.read_text(encoding="utf-8")


def test_every_other_area_has_rows_to_yield() -> None:
    script = f"""
import importlib, inspect
for area in {OTHERS}:
    rows = importlib.import_module(area).rows
    assert inspect.isgeneratorfunction(rows), area
    assert str(inspect.signature(rows)) == "(options: 'Options') -> 'Iterator[Row]'", area
"""
    command = [sys.executable, "-c", script]
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, timeout=LIMIT, cwd=SPEED, env=dict(os.environ)
    )
    assert done.returncode == 0, done.stderr


def test_the_whole_knows_every_area() -> None:
    listed = {path.stem for path in SPEED.glob("*.py") if "\ndef rows(" in path.read_text(encoding="utf-8")}
    assert listed == {*CHEAP, *OTHERS}
    wrong = speed(SPEED, "--areas", "nothing")
    assert wrong.returncode == 2
    assert all(area in wrong.stderr for area in listed)


def test_a_rate_without_the_start_is_the_median_of_the_turns_or_no_verdict(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    without_start = module("row", monkeypatch).without_start
    # 2 s, 4 s and 3 s for 30 more, each turn under a load of its own; the best of each would differ by 1 s.
    assert without_start(10, 40, ([5.0, 1.0, 4.0], [7.0, 5.0, 7.0]), 10.0) == (10.0, "")
    rate, doubt = without_start(10, 40, ([5.0], [8.0]), 9.0)
    assert rate == 10.0
    assert doubt == "no verdict: faster than the models alone, 9 a second"
    rate, doubt = without_start(10, 40, ([5.0], [4.0]), 100.0)
    assert rate == 10.0
    assert doubt == "no verdict: 10 took as long as 40"


def test_an_area_out_of_time_leaves_its_rows_and_nothing_that_runs(
    fakes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = """
import subprocess, time
from row import Row, main
def rows(options):
    child = subprocess.Popen(["sleep", "600"])
    yield Row("text", "pid", child.pid, "samples/s", "another", 1.0, None)
    time.sleep(600)
main(rows)
"""
    (fakes / "text.py").write_text(lines, encoding="utf-8")
    whole = module("__main__", monkeypatch)
    monkeypatch.setattr(whole, "HERE", fakes)
    outcome = whole.run("text", [], 5)
    assert outcome.failed == "not done after 5 seconds"
    (row,) = outcome.rows
    assert row.what == "pid"
    assert ended(int(row.ours))


def ended(pid: int) -> bool:
    """Within seconds; one that nobody has asked for its exit code counts."""
    for _ in range(100):
        status = Path(f"/proc/{pid}/stat")
        try:
            state = status.read_text(encoding="utf-8").rsplit(")", 1)[1].split()[0]
        except FileNotFoundError:
            return True
        if state in "ZX":
            return True
        time.sleep(0.05)
    return False


def test_environments_are_made_before_an_areas_time_begins(
    fakes: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = module("__main__", monkeypatch)
    happened: list[str] = []

    def run(area: str, *_: object) -> Any:
        happened.append(area)
        return whole.Outcome()

    monkeypatch.setattr(whole, "environment", lambda name, _: happened.append(f"made {name}"))
    monkeypatch.setattr(whole, "run", run)
    monkeypatch.setattr(sys, "argv", ["speed", "--areas", "data_juicer,text,ego_splitting"])
    assert whole.main() == 0
    assert happened == ["made data-juicer", "data_juicer", "text", "made karateclub", "ego_splitting"]
    happened.clear()
    monkeypatch.setattr(sys, "argv", ["speed", "--areas", "ego_splitting", "--karateclub", sys.executable])
    assert whole.main() == 0
    assert happened == ["ego_splitting"]
    assert "ego_splitting" in capsys.readouterr().err


def test_one_area_that_fails_costs_itself_only(fakes: Path, tmp_path: Path) -> None:
    written = tmp_path / "RESULTS.md"
    done = speed(fakes, "--areas", "text,startup,report,dbscan", "--json", "--write", str(written))
    assert done.returncode == 1
    told: dict[str, Any] = json.loads(done.stdout)
    assert [row["what"] for row in told["rows"]] == [
        "before it fails",
        "before it stops",
        "a thing",
        "a rate",
    ]
    assert [row["ratio"] for row in told["rows"]] == [2.0, 2.0, 4.0, 0.5]
    assert [row["met"] for row in told["rows"]] == [None, True, True, False]
    assert told["skipped"] == {"startup": "no other tool here"}
    assert told["failed"] == {"text": "ValueError: no such text", "report": "exit 7: it said nothing"}
    text = written.read_text(encoding="utf-8")
    assert (
        "| dbscan | a thing [1] | 1 s | another \\| thing | 4 s | 4 | ≥ 3 | yes | 12 |\n"
        "| dbscan | a rate | 10 pairs/s | another | 20 pairs/s | 0.5 | ≥ 0.9 | NO |  |\n"
    ) in text
    assert "1. a remark" in text
    assert "- startup: no other tool here" in text
    assert "- text: ValueError: no such text" in text
    assert "`python benchmarks/selection.py`" in text


def test_a_miss_is_the_exit_code_and_is_said(fakes: Path) -> None:
    missed = speed(fakes, "--areas", "dbscan")
    assert missed.returncode == 1
    assert "NO" in missed.stdout
    assert "a remark" in missed.stdout
    met = speed(fakes, "--areas", "startup")
    assert met.returncode == 0
    assert "skipped: no other tool here" in met.stderr


def test_the_file_of_results_holds_every_area_at_full_size(fakes: Path) -> None:
    for options in (("--quick",), ("--areas", "dbscan")):
        refused = speed(fakes, *options, "--write")
        assert refused.returncode == 2
        assert "name another FILE" in refused.stderr
    assert not (fakes.parent / "RESULTS.md").exists()
