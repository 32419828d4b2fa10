"""What the pages say is true: they build into a site, links lead somewhere, code runs, commands parse."""

from __future__ import annotations

import json
import math
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from pages import DOCS, ROOT, Block, blocks, broken_links, commands, links, parse
from scipy import stats
from test_plugin import distribution

import vlitqc
from vlitqc import errors, profiles
from vlitqc.cli import cli
from vlitqc.cli.options import EXIT_CODES
from vlitqc.validity.corruptions import CORRUPTIONS

SITE = sorted(DOCS.rglob("*.md"))
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *SITE]
RECORDS = 24
MARKS = {"file", "profile", "skip"}
EXAMPLE = frozenset({"refusals"})
"""Columns of the package that docs/adding-a-metric.md writes."""


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


COMMANDS = sorted({(name(page), line) for page in PAGES for line in commands(page)})


# ---------------------------------------------------------------- the site


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as .ci/run builds it. A page that no contents name, and a link or an anchor that is not there,
    are warnings, and each warning fails it."""
    out = tmp_path_factory.mktemp("site")
    build = [sys.executable, "-m", "sphinx", "--fail-on-warning", "--nitpicky", "--quiet"]
    done = subprocess.run(
        [*build, "-d", str(out / "doctrees"), str(DOCS), str(out / "html")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return out / "html"


def test_the_site_has_every_page_and_asks_nobody_for_anything(site: Path) -> None:
    built = {path.relative_to(site).with_suffix(".md").as_posix() for path in site.rglob("*.html")}
    assert built - {"search.md"} == {page.relative_to(DOCS).as_posix() for page in SITE}
    index = (site / "searchindex.js").read_text(encoding="utf-8")
    assert "stratif" in index
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert not re.findall(r"<(?:script|link|img|iframe|source)\b[^>]*(?:src|href)=\"(?:https?:)?//", text)
    for style in site.rglob("*.css"):
        assert not re.findall(r"(?:url\(|@import)\s*['\"]?(?:https?:)?//", style.read_text(encoding="utf-8"))


def test_what_a_page_gives_to_fetch_is_what_the_repository_has(site: Path) -> None:
    wanted = {
        (page.parent / target.partition("#")[0]).resolve()
        for page in SITE
        for target in links(page)
        if target.startswith("../") and "://" not in target
    }
    files = [path for path in wanted if path.is_file() and not path.is_relative_to(DOCS)]
    given = sorted(path.read_bytes() for path in (site / "_downloads").rglob("*") if path.is_file())
    assert given == sorted(path.read_bytes() for path in files)


# ---------------------------------------------------------------- links and commands


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_link_leads_somewhere(page: Path) -> None:
    assert broken_links(page) == []


@pytest.mark.parametrize(("page", "line"), COMMANDS)
def test_a_command_parses(page: str, line: str) -> None:
    parse(line, EXAMPLE if page == "docs/adding-a-metric.md" else frozenset())


def test_the_pages_show_each_command() -> None:
    assert {line.split()[1] for _, line in COMMANDS} >= set(cli.commands)


def test_the_exit_codes_are_the_ones_in_force() -> None:
    told = (DOCS / "faq.md").read_text(encoding="utf-8").partition("exit codes mean?")[2].partition("###")[0]
    codes = set(map(int, re.findall(r"^\| (\d) \|", told, re.MULTILINE)))
    assert codes == set(map(int, re.findall(r"\b(\d) [a-z]", EXIT_CODES)))
    assert {kind.exit_code for kind in vars(errors).values() if hasattr(kind, "exit_code")} <= codes


# ---------------------------------------------------------------- code


def written(languages: tuple[str, ...]) -> list[Any]:
    return [
        pytest.param(page, block, id=f"{name(page)}:{block.line}")
        for page in PAGES
        for block in blocks(page, *languages)
    ]


@pytest.mark.parametrize(("page", "block"), written(("toml", "yaml", "json")))
def test_a_block_of_data_can_be_read(page: Path, block: Block, tmp_path: Path) -> None:
    read = {"toml": tomllib.loads, "yaml": yaml.safe_load, "json": json.loads}[block.language]
    assert read(block.text), name(page)
    if block.mark == "profile":
        path = tmp_path / "own.toml"
        path.write_text(block.text, encoding="utf-8")
        profile = profiles.load(str(path))
        assert all(metric.unavailable is None for metric in profile.metrics.values())


def test_a_mark_above_a_block_is_one_of_ours() -> None:
    found = [block for page in PAGES for block in blocks(page) if block.mark]
    assert {block.mark for block in found} <= MARKS
    assert all(block.value for block in found if block.mark != "profile"), (
        "a block is skipped without a reason"
    )


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the quick start was done as it stands in docs/index.md, with the first records only, and in
    which the other data sets lie that the pages name."""
    home = tmp_path_factory.mktemp("docs")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        patch.setenv("VLITQC_CACHE", str(home / "cache"))
        patch.setenv("VLITQC_CACHE_SIZE", "1GiB")
        (start,) = blocks(DOCS / "index.md", "sh")
        for line in start.text.splitlines():
            program, *arguments = shlex.split(line, comments=True)
            if program == "python":
                script, *rest = arguments
                subprocess.run([sys.executable, str(ROOT / script), *rest], check=True, capture_output=True)
                data = Path("demo/data.jsonl")
                data.write_bytes(b"".join(data.read_bytes().splitlines(keepends=True)[:RECORDS]))
            elif program == "vlitqc":
                cli.main(arguments, standalone_mode=False)
        assert Path("demo/data.kept.jsonl").is_file()
        assert Path("demo/data.vlitqc/report.html").is_file()

        shutil.copytree("demo/images", "images")
        lines = Path("demo/data.jsonl").read_bytes().splitlines(keepends=True)
        few = ["text_readability", "image_readability", "task_diversity"]
        for stem, part, metrics in (
            ("data", lines, None),
            ("mine", lines[:16], few),
            ("theirs", lines[8:], few),
        ):
            Path(f"{stem}.jsonl").write_bytes(b"".join(part))
            vlitqc.score(f"{stem}.jsonl", metrics=metrics, report=False)
        vlitqc.filter("data.vlitqc", recipe="clean")
        vlitqc.Run.open("data.vlitqc").report(form="parquet")
    return home


@pytest.mark.parametrize(
    "page", [page for page in SITE if any(block.mark != "file" for block in blocks(page, "python"))], ids=name
)
def test_the_python_of_a_page_runs(
    page: Path, workplace: Path, tmp_path: Path, fresh_registry: pytest.MonkeyPatch
) -> None:
    fresh_registry.chdir(workplace)
    package = tmp_path / "package"
    for block in blocks(page):
        if block.mark == "file":
            path = package / block.value
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text, encoding="utf-8")
    for project in package.glob("*/pyproject.toml"):
        _install(project, tmp_path / "site", fresh_registry)

    names: dict[str, Any] = {}
    for block in blocks(page, "python"):
        if not block.mark:
            # Of as many lines as stand above it, so that a traceback names the page's own line.
            code = "\n" * block.line + block.text
            exec(compile(code, str(page), "exec"), names)
    if package.exists():
        _check_the_example(names, package / "vlitqc-refusals")


def _install(project: Path, site: Path, patch: pytest.MonkeyPatch) -> None:
    """What pip would make of a pure Python package: its folder on the path, and its entry points."""
    told = tomllib.loads(project.read_text(encoding="utf-8"))["project"]
    groups = told["entry-points"].items()
    text = "\n".join(
        f"[{group}]\n" + "\n".join(f"{key} = {value}" for key, value in points.items())
        for group, points in groups
    )
    patch.syspath_prepend(distribution(site, told["name"], text))
    patch.syspath_prepend(project.parent)
    patch.setenv("PYTHONPATH", os.pathsep.join([str(site), str(project.parent)]))


def _check_the_example(names: dict[str, Any], package: Path) -> None:
    run = names["run"]
    refusals = run.scores["refusals"].dropna()
    assert len(refusals) > 0.8 * RECORDS
    assert refusals.between(0, 100).all()
    found = {metric["name"]: metric for p in run.scorecard["principles"] for metric in p["metrics"]}
    assert 0 < found["openings"]["value"] <= 1
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(package)],
        capture_output=True,
        text=True,
        cwd=package,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert "6 passed" in done.stdout


# ---------------------------------------------------------------- tables that follow from the code


def test_the_corruptions_are_the_ones_there_are() -> None:
    page = (DOCS / "validity.md").read_text(encoding="utf-8")
    table = page.partition("## The corruptions")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \| (.*) \| (.*) \|$", table, re.MULTILINE)
    assert rows == [
        (name, fault.summary, f"{', '.join(f'{s:g}' for s in fault.strengths)} ({fault.unit})")
        for name, fault in CORRUPTIONS.items()
    ]


def test_the_table_of_what_few_data_sets_can_show_is_right() -> None:
    page = (DOCS / "correlating.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+) \| ([\d.]+) \| (.*) \|$", page, re.MULTILINE)
    assert len(rows) == 7
    for n, least, interval in ((int(a), float(b), c) for a, b, c in rows):
        t = stats.t.ppf(0.975, n - 2)
        assert least == pytest.approx(t / math.sqrt(n - 2 + t * t), abs=5e-4)
        if n > 3:
            ends = [
                math.tanh(math.atanh(0.9) + side * stats.norm.ppf(0.975) / math.sqrt(n - 3))
                for side in (-1, 1)
            ]
            assert interval == f"{ends[0]:.2f} to {ends[1]:.2f}".replace("-", "−")
