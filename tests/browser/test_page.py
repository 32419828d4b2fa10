"""The page of the demo data and of 160 real records, opened from its file at two widths, light and dark."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, expect

import vlitqc
from vlitqc.engine.run import Run
from vlitqc_reports.html import MAX_BYTES

from .rest import at_rest

SECTIONS = ["verdict", "principles", "issues", "measurements", "map", "composition", "reproduction"]
WITHOUT_SCRIPT = ["verdict", "principles", "issues", "measurements", "composition", "reproduction"]

WIDER_THAN_THE_WINDOW = """() => {
  const room = document.documentElement.clientWidth;
  if (document.documentElement.scrollWidth <= room) return [];
  return [...document.body.querySelectorAll("*")]
    .filter((e) => e.getBoundingClientRect().right > room + 0.5)
    .map((e) => `${e.tagName}.${e.getAttribute("class")}#${e.id} ends at ${e.getBoundingClientRect().right}`);
}"""

FOLDED = """[...document.querySelectorAll("main details:not(.raw)")]
  .filter((d) => d.checkVisibility() && !d.lastElementChild.checkVisibility()).length"""


@pytest.fixture(params=["demo_run", "llava_run"])
def scored(request: pytest.FixtureRequest) -> Run:
    run: Run = request.getfixturevalue(request.param)
    return run


def sections(page: Page) -> list[str]:
    found: list[str] = page.locator("main section[id]").evaluate_all("all => all.map((one) => one.id)")
    return [name for name in found if name in SECTIONS]


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1440, 768])
def test_the_page_opens_in_order_and_nothing_sticks_out(
    page_of: Callable[..., Page], scored: Run, width: int, dark: bool
) -> None:
    page = page_of(scored, viewport=(width, 900), dark=dark)
    assert sections(page) == SECTIONS
    assert page.evaluate(WIDER_THAN_THE_WINDOW) == []
    for name in SECTIONS:
        expect(page.locator(f"#{name} h2").first).to_be_visible()
    ink, paper = page.evaluate(
        "() => [getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]"
    )
    assert (brightness(ink) > brightness(paper)) == dark


def brightness(colour: str) -> float:
    return sum(float(part) for part in re.findall(r"[\d.]+", colour)[:3])


def test_every_link_leads_somewhere_and_no_name_is_given_twice(
    page_of: Callable[..., Page], scored: Run
) -> None:
    page = page_of(scored)
    ids: list[str] = page.locator("[id]").evaluate_all("all => all.map((one) => one.id)")
    assert sorted(ids) == sorted(set(ids))
    links: list[str] = page.locator("a[href]").evaluate_all("all => all.map((a) => a.getAttribute('href'))")
    assert {link[1:] for link in links if link.startswith("#")} <= set(ids)
    outside = {link for link in links if not link.startswith("#")}
    assert not outside, "a page that asks nothing of the network links to nothing in it"


def test_the_verdict_is_that_of_the_scorecard(page_of: Callable[..., Page], scored: Run) -> None:
    page = page_of(scored)
    verdict = scored.scorecard["verdict"]
    expect(page.locator("#verdict")).to_contain_text(verdict["headline"])
    for fix in verdict["to_fix"]:
        expect(page.locator("#verdict")).to_contain_text(fix["command"])


def pictures(page: Page) -> Locator:
    """The pictures of the first gallery, which is filled when it comes near the window."""
    at_rest(page.locator("#measurements .samples").first)
    shown = page.locator("#measurements .card img")
    expect(shown.first).to_be_visible()
    return shown


def test_pictures_are_there(page_of: Callable[..., Page], scored: Run) -> None:
    page = page_of(scored)
    shown = pictures(page)
    at_rest(shown.first)
    broken = shown.evaluate_all("all => all.filter((i) => i.complete && !i.naturalWidth).length")
    assert broken == 0


def test_the_file_is_small(report_of: Callable[..., Path], scored: Run) -> None:
    assert report_of(scored).stat().st_size <= MAX_BYTES


def test_without_script_the_numbers_and_plots_are_there(page_of: Callable[..., Page], scored: Run) -> None:
    page = page_of(scored, script=False)
    assert [name for name in sections(page) if page.locator(f"#{name}").is_visible()][:3] == SECTIONS[:3]
    for name in WITHOUT_SCRIPT:
        expect(page.locator(f"#{name} h2").first).to_be_visible()
    expect(page.locator("#verdict")).to_contain_text(scored.scorecard["verdict"]["headline"])
    for principle in scored.scorecard["principles"]:
        for metric in principle["metrics"]:
            if metric["value"] is not None:
                expect(page.locator("#principles")).to_contain_text(metric["title"])
    for anchor in ("principles", "measurements", "composition"):
        expect(page.locator(f"#{anchor} svg:visible").first).to_be_visible()
    expect(page.locator(".noscript")).to_be_visible()
    expect(page.get_by_role("slider")).to_have_count(0)
    # A control that does nothing promises what is not there.
    expect(page.locator("button:visible")).to_have_count(0)


def test_it_prints_whole(page_of: Callable[..., Page], demo_run: Run) -> None:
    page = page_of(demo_run)
    expect(pictures(page).first).to_be_visible()
    as_before = folded(page)
    assert as_before > 10
    page.emulate_media(media="print")
    assert folded(page) == 0
    expect(page.locator("nav.toc")).to_be_hidden()
    assert page.evaluate(WIDER_THAN_THE_WINDOW) == []
    printed = page.pdf(format="A4")
    assert printed.startswith(b"%PDF")
    assert 3 <= len(re.findall(rb"/Type\s*/Page\b", printed)) <= 120
    page.emulate_media(media="screen")
    page.wait_for_function(f"{FOLDED} >= {as_before}")  # After printing the page is as it was.


def test_what_was_never_scrolled_to_is_printed_as_well(page_of: Callable[..., Page], demo_run: Run) -> None:
    page = page_of(demo_run, dark=True)
    assert page.locator(".card").count() == 0
    assert page.locator(".map-plot[data-drawn]").count() == 0
    # What stands on paper, as the page is when the print begins.
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    page.emulate_media(media="print")
    galleries = page.locator(".samples")
    assert galleries.count() > 0
    expect(page.locator(".card:visible")).to_have_count(4 * galleries.count())
    page.wait_for_function(
        "() => [...document.querySelectorAll('.shot img')].every((image) => image.naturalWidth > 0)"
    )
    expect(page.locator(".samples .shot img:visible").first).to_be_visible()
    expect(page.locator(".map-plot[data-drawn]")).to_have_count(1)
    expect(page.locator(".map-legend li").first).to_be_visible()
    expect(page.get_by_text("Drag a handle")).to_be_hidden()
    page.evaluate("window.dispatchEvent(new Event('afterprint'))")
    assert len(re.findall(rb"/Type\s*/Page\b", page.pdf(format="A4"))) <= 30


def folded(page: Page) -> int:
    """Folds whose content cannot be seen, but for those of raw details, which stay folded on paper."""
    found: int = page.evaluate(FOLDED)
    return found


def test_a_folder_has_its_pictures_beside_it(page_of: Callable[..., Page], demo_run: Run) -> None:
    page = page_of(demo_run, folder=True)
    shown = pictures(page)
    expect(shown.first).to_have_js_property("complete", True)
    assert shown.first.evaluate("one => one.naturalWidth") > 0
    assert shown.first.get_attribute("src").startswith("pictures/")  # type: ignore[union-attr]


def test_without_a_map_the_rest_is_there(page_of: Callable[..., Page], tiny: str, make_data: Any) -> None:
    run = vlitqc.score(make_data(12), tiny, report=False)
    page = page_of(run)
    assert sections(page) == SECTIONS
    expect(pictures(page).first).to_be_visible()
    expect(page.locator("#map canvas:visible")).to_have_count(0)
