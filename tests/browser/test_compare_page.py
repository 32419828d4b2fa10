"""The page of ``vlitqc compare`` in a browser: nothing runs, nothing is asked for, everything can be read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page

import vlitqc
from vlitqc_reports.comparison import write_comparison

PageAt = Callable[..., Page]
HOSTILE = (
    "</style><script>document.title='ran'</script>",
    "<img src=x onerror=\"document.title='ran'\">\u202egpj.exe",
    "W" * 3000,
)


@pytest.fixture(scope="session")
def found(demo_run: Any, llava_run: Any) -> dict[str, Any]:
    """The demo data against LLaVA's records."""
    return vlitqc.compare(demo_run, llava_run, replicates=3).as_json()


@pytest.fixture
def open_page(page_at: PageAt, tmp_path: Path) -> Callable[..., Page]:
    """``open_page(found, …)``: the page of a comparison; it has no script that could say when it is ready."""

    def start(found: dict[str, Any], **options: Any) -> Page:
        page = write_comparison(found, tmp_path / "page.html")
        return page_at(page.as_uri(), script=False, **options)

    return start


def hostile(found: dict[str, Any]) -> dict[str, Any]:
    """With hostile text wherever other people's text can be."""
    told = json.loads(json.dumps(found))
    for data, text in zip(told["sets"], HOSTILE, strict=False):
        data |= {"name": text, "run": text, "input": text, "filter": text, "part": "kept"}
        data["profile"]["name"] = text
    told["mixed"] = list(HOSTILE)
    for metric, text in zip(told["metrics"], HOSTILE * 8, strict=False):
        metric |= {"title": text, "unit": text}
        for difference in metric["differences"][1:]:
            difference["reason"] = text
        if metric["fair"]:
            metric["fair"]["note"] = text
    return dict(told)


def test_every_part_is_there_and_fits(open_page: Callable[..., Page], found: dict[str, Any]) -> None:
    for width in (1440, 768):
        page = open_page(found, viewport=(width, 900))
        assert page.locator("main > section").count() == 5
        assert page.locator("#table table").first.locator("tbody tr").count() == 2
        assert page.locator("#table th", has_text="Balance").count() == 1
        assert page.locator(".diffs tbody tr").count() >= 10
        assert page.locator("#distributions svg.chart").count() == 5
        for chart in page.locator("#distributions svg.chart").all():
            assert chart.locator("path.c-line").count() == 2
            assert chart.locator("text.c-letter").all_text_contents() == ["A", "B"]
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_letters_and_dashes_say_what_colours_do(
    open_page: Callable[..., Page], found: dict[str, Any]
) -> None:
    page = open_page(found)
    dashes = page.locator(".legend path").evaluate_all(
        "lines => lines.map((line) => getComputedStyle(line).strokeDasharray)"
    )
    assert len(set(dashes)) == 2
    assert page.locator(".legend .letter").all_text_contents() == ["A", "B"]


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_axe_finds_nothing(browser: Browser, found: dict[str, Any], tmp_path: Path, dark: bool) -> None:
    page = browser.new_page(color_scheme="dark" if dark else "light", bypass_csp=True)
    page.goto(write_comparison(found, tmp_path / "page.html").as_uri())
    violations = Axe().run(page).response["violations"]
    page.close()
    assert [(each["id"], [node["html"][:200] for node in each["nodes"]][:3]) for each in violations] == []


def test_what_comes_from_the_data_runs_nothing(open_page: Callable[..., Page], found: dict[str, Any]) -> None:
    page = open_page(hostile(found), viewport=(768, 900))
    assert page.locator("script, img, iframe, object, embed").count() == 0
    assert "ran" not in page.title().split("·")[-1]
    assert page.locator("[style], [onerror], [onclick], [onload]").count() == 0
    assert page.locator(".ctl", has_text="U+202E").count() >= 1
    assert page.evaluate("document.documentElement.scrollWidth") <= 768
