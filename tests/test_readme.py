"""What README says is true: its Python runs, its tables name what there is. Its commands and links: test_docs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pages import ROOT, blocks

from vlitqc import profiles, registry

PAGE = ROOT / "README.md"
README = PAGE.read_text(encoding="utf-8")
RECORDS = 24
BETTER = {True: "higher", False: "lower", None: "neither"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the first records of the demo data as ``data.jsonl``."""
    folder = tmp_path_factory.mktemp("readme") / "demo"
    make = [sys.executable, str(ROOT / "examples" / "make_demo_data.py"), str(folder)]
    subprocess.run(make, check=True, capture_output=True)
    path = folder / "data.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:RECORDS]))
    return folder


def test_the_python_block_runs(
    data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(data)
    (code,) = blocks(PAGE, "python")
    names: dict[str, Any] = {}
    exec(compile(code.text, "README.md", "exec"), names)

    assert names["run"].path == Path("data.vlitqc")
    assert len(names["run"].scores) == RECORDS
    assert names["run"].scorecard["counts"]["records"] == RECORDS
    result = names["result"]
    assert sum(result.counts.values()) == RECORDS
    assert result.counts["dropped"] > 0
    kept = Path("data.kept.jsonl").read_bytes().splitlines(keepends=True)
    assert len(kept) == result.counts["kept"]
    assert set(kept) < set(Path("data.jsonl").read_bytes().splitlines(keepends=True))
    assert names["small"].scores["id"].tolist() == ["1"]
    assert Path("runs/in-memory/report.html").is_file()
    assert names["run"].scorecard["verdict"]["headline"] in capsys.readouterr().out

    # The files that "What you get" promises, and no other.
    table = README.partition("## What you get")[2].partition("##")[0]
    told = {
        name.strip("/")
        for cell in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE)
        for name in re.findall(r"`(.*?)`", cell)
    }
    there = {path.name for path in Path("data.vlitqc").iterdir() if not path.name.startswith(".")}
    assert there == told


def test_the_table_names_every_metric_with_its_unit_and_direction() -> None:
    table = README.partition("## The ten principles")[2].partition("##")[0]
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in table.splitlines()
        if line.startswith("|")
    ]
    told = {row[1].strip("`"): (row[0], row[2], row[3], row[4]) for row in rows[2:]}
    assert list(told) and set(told) == set(registry.entries(registry.METRICS))
    for name, (_, by, unit, better) in told.items():
        spec = registry.load_metric(name).spec
        low, high = spec.bounds
        assert unit == (spec.unit or f"{low:g} to {high:g}"), name
        assert better == BETTER[spec.higher_is_better], name
        entry = profiles.load("lite").metrics[name]
        assert by.startswith("not in lite") == (entry.unavailable is not None), name


def test_the_limits_of_the_verdict_are_the_ones_in_force() -> None:
    from vlitqc.analysis import verdict

    assert f"*good* under {100 * verdict.GOOD_BELOW:g}%, *fair* under {100 * verdict.FAIR_BELOW:g}%" in README


def test_every_profile_is_told_of() -> None:
    told = README.partition("## Profiles and licences")[2].partition("##")[0]
    assert set(re.findall(r"^- \*\*(\w+)\*\*", told, re.MULTILINE)) == set(profiles.names())


def test_the_changelog_tells_of_the_current_version() -> None:
    import tomllib

    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    assert f"## {version}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
