"""axe-core finds nothing serious, and the page can be used by the keyboard alone."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from vlitqc.engine.run import Run

from .rest import at_rest

GRAVE = ("serious", "critical")
RULES = {
    "resultTypes": ["violations"],
    "runOnly": ["wcag2a", "wcag2aa", "wcag21aa", "wcag22aa", "best-practice"],
}

# What is drawn as it comes into sight may shift the page for some frames: the place is looked at until it is seen.
# A gallery that has come near takes two frames until its cards can be reached.
FOCUSED = """async () => {
  for (let frame = 0; frame < 2; frame++) await new Promise(requestAnimationFrame);
  const at = document.activeElement;
  const style = getComputedStyle(at);
  const seen = () => {
    const box = at.getBoundingClientRect();
    return box.bottom > 0 && box.top < innerHeight && box.right > 0 && box.left < innerWidth;
  };
  for (let frame = 0; frame < 60 && !seen(); frame++) await new Promise(requestAnimationFrame);
  const before = window.focusedBefore;
  window.focusedBefore = at;
  return {
    what: at.outerHTML.slice(0, 120),
    href: at.getAttribute("href"),
    toc: !!at.closest("nav"),
    handle: at.getAttribute("role") === "slider",
    card: !!at.closest(".card"),
    back: !!before && !!(before.compareDocumentPosition(at) & Node.DOCUMENT_POSITION_PRECEDING),
    ring: style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2,
    seen: seen(),
  };
}"""


def grave(page: Page, *, within: str | None = None, but: str = "") -> list[str]:
    """What axe-core calls serious or critical on the page or ``within`` a part, with the places, ``but`` for one
    rule."""
    found = Axe().run(page, within, RULES).response["violations"]
    return [
        f"{one['impact']} {one['id']}: {one['help']}; {len(one['nodes'])} places, such as "
        + " | ".join(
            f"{node['target']} {node['html'][:160]} {node['failureSummary']}" for node in one["nodes"][:3]
        )
        for one in found
        if one["impact"] in GRAVE and one["id"] != but
    ]


def move_a_threshold(page: Page) -> None:
    at_rest(page.get_by_role("slider").first).focus()
    for _ in range(3):
        page.keyboard.press("PageUp")


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("name", ["demo_run", "llava_run"])
def test_axe_finds_nothing_grave(
    page_of: Callable[..., Page], request: pytest.FixtureRequest, name: str, dark: bool
) -> None:
    run: Run = request.getfixturevalue(name)
    page = page_of(run, dark=dark)
    move_a_threshold(page)
    expect(page.locator("#thresholds")).to_be_visible()
    at_rest(page.locator("#map"))
    page.locator("main details").evaluate_all("all => all.forEach((one) => { one.open = true; })")
    at_rest(page.locator("#map"))
    assert grave(page) == []


def validated(run: Run, folder: Path) -> Run:
    """A copy of a run with a ``validity.json`` that has a square of every shade in every role."""
    copy = Run(shutil.copytree(run.path, folder / "run"))
    common = {"n": 40, "became_null": 0.0, "spearman": -0.5, "reason": None}
    wanted = {"target": {"at_least": 0.9}, "may_move": None, "off": {"below": 0.6}}
    holds = {"target": range(9, 11), "off": range(5, 6)}
    card = copy.scorecard
    told = {
        "format": 1,
        "vlitqc": "1",
        "data_sha256": card["input"]["sha256"],
        "profile_sha256": card["profile"]["sha256"],
        "records": 40,
        "seed": 0,
        "metrics": {name: {"reason": None} for name in wanted} | {"unserved": {"reason": "needs a judge"}},
        "corruptions": {f"to_{step}": {"summary": "Made up.", "strengths": [1.0]} for step in range(5, 11)},
        "cells": [
            {
                **common,
                "metric": role,
                "corruption": f"to_{step}",
                "role": role,
                "direction": "falls" if role == "target" else None,
                "why": "for a reason" if role == "may_move" else None,
                "auc": step / 10,
                "interval": [step / 10, step / 10],
                "wanted": limit,
                "holds": step in holds[role] if role in holds else None,
            }
            for role, limit in wanted.items()
            for step in range(5, 11)
        ],
    }
    (copy.path / "validity.json").write_text(json.dumps(told))
    return copy


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_axe_finds_nothing_grave_in_the_matrix_of_validity(
    page_of: Callable[..., Page], demo_run: Run, tmp_path: Path, dark: bool
) -> None:
    page = page_of(validated(demo_run, tmp_path), dark=dark)
    section = page.locator("#validity")
    section.locator("details").evaluate_all("all => all.forEach((one) => { one.open = true; })")
    for shade in range(6):
        expect(section.locator(f"td.v-{shade}")).to_have_count(3)
    at_rest(section)
    assert grave(page, within="#validity") == []


def test_axe_finds_nothing_grave_in_the_help(page_of: Callable[..., Page], demo_run: Run) -> None:
    page = page_of(demo_run, viewport=(768, 900))
    page.keyboard.press("?")
    expect(page.locator("dialog[open]")).to_be_visible()
    assert grave(page) == []
    page.keyboard.press("Escape")
    expect(page.locator("dialog[open]")).to_have_count(0)


def test_axe_finds_nothing_grave_on_paper(page_of: Callable[..., Page], demo_run: Run) -> None:
    page = page_of(demo_run)
    page.emulate_media(media="print")
    assert grave(page, but="target-size") == [], "paper is not touched"


def test_the_keyboard_reaches_everything_in_order(page_of: Callable[..., Page], demo_run: Run) -> None:
    page = page_of(demo_run)
    stops: list[dict[str, Any]] = []
    while len(stops) < 120 and not (stops and stops[-1]["card"]):
        page.keyboard.press("Tab")
        stops.append(page.evaluate(FOCUSED))
    assert stops[0]["href"] == "#verdict", "the first stop skips the table of contents"
    assert [stop["what"] for stop in stops if not stop["ring"]] == [], "where the focus is cannot be seen"
    assert [stop["what"] for stop in stops if not stop["seen"]] == [], "what has the focus is off the screen"
    assert [stop["what"] for stop in stops if stop["back"]] == [], (
        "the order of the focus is that of the page"
    )
    toc, handle, card = (
        next(i for i, s in enumerate(stops) if s[kind]) for kind in ("toc", "handle", "card")
    )
    assert toc < handle < card
    page.keyboard.press("Shift+Tab")
    assert not page.evaluate(FOCUSED)["card"]


def test_the_skip_link_leads_to_the_verdict(page_of: Callable[..., Page], demo_run: Run) -> None:
    page = page_of(demo_run)
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile("#verdict$"))
    page.keyboard.press("Tab")
    expect(page.locator("#verdict :focus")).to_have_count(1)


def test_a_threshold_moves_by_the_keyboard_and_is_told(page_of: Callable[..., Page], demo_run: Run) -> None:
    page = page_of(demo_run)
    handle = page.get_by_role("slider").first
    before = handle.get_attribute("aria-valuetext")
    handle.focus()
    page.keyboard.press("PageUp")
    expect(handle).not_to_have_attribute("aria-valuetext", before or "")
    told = page.locator("[aria-live=polite]").filter(has_text=re.compile(r"\d+ of \d+ records stay"))
    expect(told).to_be_attached()


def test_nothing_moves_for_those_who_asked_for_rest(page_of: Callable[..., Page], demo_run: Run) -> None:
    page = page_of(demo_run)
    page.emulate_media(reduced_motion="reduce")
    moving = page.locator("body *").evaluate_all(
        "all => all.filter((e) => parseFloat(getComputedStyle(e).transitionDuration) > 0.01"
        " || parseFloat(getComputedStyle(e).animationDuration) > 0.01).map((e) => e.outerHTML.slice(0, 100))"
    )
    assert moving == []
    assert page.evaluate("getComputedStyle(document.documentElement).scrollBehavior") == "auto"
