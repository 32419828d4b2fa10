"""The table of issues, the sections' list and the commands to copy, in a browser."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, expect

import vlitqc
from vlitqc.engine.run import Run

from .rest import click_says

PageOf = Callable[..., Page]


@pytest.fixture(scope="module")
def faulty_run(tmp_path_factory: pytest.TempPathFactory, tiny: str) -> Run:
    """Records with faults of several kinds."""
    root = tmp_path_factory.mktemp("faulty")

    def record(id: str, answer: str, **more: Any) -> dict[str, Any]:
        turns = [{"from": "human", "value": f"what is {id}?"}, {"from": "gpt", "value": answer}]
        return {"id": id, "conversations": turns} | more

    records = [
        *(record(f"gone{i}", "a cat", image=f"gone{i}.png") for i in range(3)),
        *(record(f"empty{i}", "") for i in range(2)),
        record("good", "a dog"),
    ]
    return vlitqc.score(records, tiny, out=root / "run", image_root=root, report=False)


def kinds(page: Page) -> Locator:
    return page.locator("#issue-table tbody tr:visible > th")


def test_issues_are_sorted_by_each_column(page_of: PageOf, faulty_run: Run) -> None:
    page = page_of(faulty_run)
    head = page.locator("#issue-table thead")
    first = kinds(page).all_inner_texts()
    assert len(first) > 1
    head.get_by_role("button", name="Kind").click()
    expect(kinds(page)).to_have_text(sorted(first))
    expect(head.locator("th").nth(1)).to_have_attribute("aria-sort", "ascending")
    head.get_by_role("button", name="Kind").press("Enter")
    expect(kinds(page)).to_have_text(sorted(first, reverse=True))
    head.get_by_role("button", name="Found").click()
    expect(head.locator("[aria-sort]")).to_have_count(1)
    expect(head.locator("[aria-sort]")).to_contain_text("Found")
    found = [int(n) for n in page.locator("#issue-table tbody td.r").all_inner_texts()]
    assert found == sorted(found, reverse=True)


def test_issues_are_found_by_word_and_severity(page_of: PageOf, faulty_run: Run) -> None:
    page = page_of(faulty_run)
    every = kinds(page).all_inner_texts()
    page.get_by_label("Find").fill("GONE1.png")
    expect(kinds(page)).to_have_text(["Missing image"])
    expect(page.locator("#issue-count")).to_have_text(f"1 of {len(every)} kinds")
    page.get_by_label("Find").fill("")
    expect(kinds(page)).to_have_text(every)
    page.get_by_label("Severity").select_option("note")
    expect(kinds(page).filter(has_text="Missing image")).to_have_count(0)


def test_the_section_in_view_is_marked(page_of: PageOf, faulty_run: Run) -> None:
    page = page_of(faulty_run)
    expect(page.locator(".toc [aria-current]")).to_have_text("Verdict")
    page.locator("#issues").evaluate("part => part.scrollIntoView({ behavior: 'instant' })")
    expect(page.locator(".toc [aria-current]")).to_have_text("Issues")


def test_a_command_is_copied_as_it_is(page_of: PageOf, faulty_run: Run) -> None:
    page = page_of(faulty_run)
    page.evaluate(
        "navigator.clipboard.writeText = (words) => { window.copied = words; return Promise.resolve(); }"
    )
    first = page.locator(".fixes .copyable").first
    click_says(first.get_by_role("button"), "Copied")
    assert page.evaluate("window.copied") == faulty_run.scorecard["verdict"]["to_fix"][0]["command"]
    expect(first.get_by_role("button")).to_have_text("Copy")
