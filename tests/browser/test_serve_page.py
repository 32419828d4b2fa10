"""The page from its own server: every record has its card, and each count is the filter's."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator, Page, Response, expect

from vlitqc.engine.run import Run
from vlitqc_reports.serve import Server

from .rest import at_rest, click, ordered

METRIC = "matching_degree"
FIRST, PAGE = 4, 12


@pytest.fixture(scope="module")
def server(demo_run: Run) -> Iterator[Server]:
    with Server(demo_run) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def page(page_at: Callable[..., Page], server: Server) -> Iterator[Page]:
    page = page_at(server.url)
    yield page
    # What is still on its way would be cut off, which the console tells.
    page.goto("about:blank")


def meta(page: Page) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(page.locator("#meta").text_content() or "")
    return found


def part(page: Page) -> Locator:
    """The part of one metric, in the window."""
    anchor = next(m["anchor"] for m in meta(page)["metrics"] if m["name"] == METRIC)
    found = page.locator(f"#{anchor}")
    at_rest(found.locator(".samples"))
    expect(found.locator(".card").first).to_be_visible()
    return found


def test_the_page_opens_and_asks_nobody_else(page: Page, server: Server, demo_run: Run) -> None:
    known = meta(page)
    assert known["mode"] == "serve"
    assert known["n"] == len(demo_run.scores) - known["n_unreadable"]
    expect(page.locator("#verdict .headline")).to_have_text(demo_run.scorecard["verdict"]["headline"])
    assert page.url == server.url


def test_what_the_page_says_of_a_threshold_is_what_the_server_counts(page: Page, demo_run: Run) -> None:
    handle = part(page).get_by_role("slider").first
    for _ in range(3):
        handle.press("PageUp")
    command = page.locator("#thresholds code")
    expect(command).to_contain_text(f"--drop-below {METRIC}=")
    stop = (command.text_content() or "").rpartition("=")[2]
    answer = page.evaluate(
        """async (body) => {
            const headers = { "Content-Type": "application/json" };
            return (await fetch("api/count", { method: "POST", headers, body: JSON.stringify(body) })).json();
        }""",
        {"below": {METRIC: stop}, "above": {}},
    )
    kept = demo_run.filter(drop_below={METRIC: stop})
    assert answer["kept"] == int(kept.sum())
    assert answer["dropped"] > 0
    whole = answer["kept"] + answer["dropped"]
    expect(page.locator(".moved-sum")).to_contain_text(f"{answer['kept']} of {whole} records stay")
    tasks = demo_run.scores["task"]
    assert {t["label"]: (t["kept"], t["total"]) for t in answer["tasks"]} == {
        task: (int((kept & (tasks == task)).sum()), int((tasks == task).sum()))
        for task in tasks.dropna().unique()
    }


def is_worst_first(found: Locator, run: Run, n: int) -> None:
    scores = run.scores.dropna(subset=METRIC).sort_values(METRIC, kind="stable")["id"][:n]
    ids = [re.sub(r"\s+", "", text) for text in found.locator(".card .card-head").all_inner_texts()]
    assert all(name in text for name, text in zip(scores, ids, strict=True))


def test_a_gallery_goes_on_to_the_last_record(page: Page, demo_run: Run) -> None:
    found = part(page)
    ordered(found.locator(".samples"), "Worst")
    cards, more = found.locator(".card"), found.locator(".show-more")
    n = int(demo_run.scores[METRIC].count())
    shown = FIRST
    expect(cards).to_have_count(shown)
    while shown < n:
        click(more)
        shown = min(shown + PAGE, n)
        expect(cards).to_have_count(shown)
    expect(more).to_be_hidden()
    is_worst_first(found, demo_run, n)


@pytest.mark.parametrize("asked", [False, True])
def test_more_of_an_order_that_is_still_on_its_way(page: Page, demo_run: Run, asked: bool) -> None:
    found = part(page)
    at_rest(found.get_by_role("button", name="Worst"))
    worst, more = found.get_by_role("button", name="Worst"), found.locator(".show-more")
    page.route("**/api/order?*", lambda _: None)
    if asked:
        with page.expect_request("**/api/order?*"):
            worst.click()
        more.click()
    else:
        found.evaluate("(part, worst) => { worst.click(); part.querySelector('.show-more').click(); }",
                       worst.element_handle())  # fmt: skip
    expect(found.locator(".cards")).to_have_attribute("aria-busy", "true")
    # Longer than a gallery waits for another wish, by the page's own clock.
    page.evaluate("() => new Promise((done) => setTimeout(done, 300))")
    page.unroute("**/api/order?*")  # which lets go what is held
    expect(found.locator(".card")).to_have_count(FIRST + PAGE)
    expect(found.locator(".cards")).to_have_attribute("aria-busy", "false")
    is_worst_first(found, demo_run, FIRST + PAGE)


def test_pictures_come_when_they_are_seen(page: Page) -> None:
    answers: list[Response] = []
    page.on("response", lambda answer: answers.append(answer) if "picture?" in answer.url else None)
    with page.expect_response(lambda answer: "picture?" in answer.url):
        found = part(page)
        picture = at_rest(found.locator(".card img").first)
    expect(picture).to_have_js_property("complete", value=True)
    assert 0 < picture.evaluate("image => image.naturalWidth") <= 320
    assert answers
    assert {(answer.status, answer.headers["content-type"]) for answer in answers} == {(200, "image/jpeg")}


def test_no_script_but_the_own_one_runs(browser: Browser, server: Server) -> None:
    context = browser.new_context()
    page = context.new_page()
    page.goto(server.url)
    refused = page.evaluate(
        """() => new Promise((resolve) => {
            document.addEventListener("securitypolicyviolation", (event) => resolve(event.effectiveDirective));
            const script = document.createElement("script");
            script.textContent = "window.ran = true";
            document.body.append(script);
            setTimeout(() => resolve("nothing"), 2000);
        })"""
    )
    assert refused.startswith("script-src")
    assert page.evaluate("window.ran") is None
    context.close()
