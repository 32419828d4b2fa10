"""What README says is true: its Python runs, its commands parse, its tables name what there is."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest

from vlitqc import profiles, registry
from vlitqc.cli import cli

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = README + "".join(
    (ROOT / "docs" / name).read_text(encoding="utf-8")
    for name in (
        "cluster.md",
        "comparing.md",
        "filtering.md",
        "formats.md",
        "performance.md",
        "profiles.md",
        "reports.md",
    )
)
RECORDS = 24
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
BETTER = {True: "higher", False: "lower", None: "neither"}


def blocks(language: str, pages: str = PAGES) -> list[str]:
    return [text for found, text in BLOCK.findall(pages) if found == language]


def commands() -> list[str]:
    lines = (line for block in blocks("sh") for line in block.splitlines())
    return [line.partition(" #")[0].strip() for line in lines if line.startswith("vlitqc ")]


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
    (code,) = blocks("python", README)
    names: dict[str, Any] = {}
    exec(compile(code, "README.md", "exec"), names)

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


def test_the_readme_shows_each_command() -> None:
    assert {line.split()[1] for line in commands()} >= set(cli.commands) - {"report", "metrics"}


@pytest.mark.parametrize("line", commands())
def test_a_command_of_the_readme_parses(line: str) -> None:
    _, name, *arguments = shlex.split(line)
    command: Any = cli.commands[name]
    if isinstance(command, click.Group):
        name, *arguments = arguments
        command = command.commands[name]
    with command.make_context(name, arguments) as context:
        assert isinstance(context, click.Context)
    scored = {
        column
        for entry in registry.entries(registry.METRICS)
        for spec in [registry.load_metric(entry).spec]
        for column in (spec.name if spec.level == "sample" else "", *spec.columns)
    }
    thresholds = [
        word.partition("=")[0]
        for before, word in zip(["", *arguments], arguments, strict=False)
        if before != "--map" and re.fullmatch(r"\w+=p?[\d.-]+", word)
    ]
    assert set(thresholds) <= scored


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


def test_every_link_to_a_file_leads_to_one() -> None:
    for page in (
        "README.md",
        "CONTRIBUTING.md",
        "CHANGELOG.md",
        "docs/cluster.md",
        "docs/comparing.md",
        "docs/filtering.md",
        "docs/formats.md",
        "docs/profiles.md",
        "docs/reports.md",
    ):
        for target in re.findall(r"\]\(([^)#]+)\)", (ROOT / page).read_text(encoding="utf-8")):
            assert target.startswith("https://") or ((ROOT / page).parent / target).exists(), (
                f"{page}: {target}"
            )


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
