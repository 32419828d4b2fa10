"""The handles of the page: what it says would stay is what ``vlitqc filter`` keeps with the command that it prints."""

from __future__ import annotations

import json
import re
import shlex
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from playwright.sync_api import Locator, Page, Response, expect
from scipy.stats import hypergeom

from vlitqc.cli import cli
from vlitqc.engine.run import Run
from vlitqc_reports import html
from vlitqc_reports.serve import Server

from .rest import at_rest, click, click_says, ordered


def meta(page: Page) -> dict[str, Any]:
    """What the page knows of the run."""
    found: dict[str, Any] = json.loads(page.locator("#meta").text_content() or "")
    return found


def part(page: Page, name: str) -> Locator:
    """The part of one metric."""
    anchor = next(m["anchor"] for m in meta(page)["metrics"] if m["name"] == name)
    return page.locator(f"#{anchor}")


def drag(page: Page, handle: Locator, by: float) -> None:
    """Pull a handle sideways with the mouse."""
    box = at_rest(handle).bounding_box()
    assert box is not None
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    for step in range(1, 6):
        page.mouse.move(x + by * step / 5, y)
    page.mouse.up()


def typed(page: Page, metric: Locator, name: str, share: float) -> None:
    """Type a metric's stop, so far along its axis, as what is dropped below it."""
    stops = next(m["stops"] for m in meta(page)["metrics"] if m["name"] == name)
    metric.get_by_role("spinbutton").fill(stops[int(share * len(stops))])
    metric.get_by_role("spinbutton").press("Enter")


def number(text: str) -> int:
    """A count as the page writes it."""
    return int(text.replace(",", ""))


def told(page: Page) -> dict[str, int]:
    """The counts of the bar at the bottom of the window."""
    said = page.locator(".moved-sum")
    pattern = re.compile(
        r"([\d,]+) of ([\d,]+) records stay \([^,]*%\) · ([\d,]+) go(?: · ([\d,]+) unreadable)?"
    )
    expect(said).to_have_text(re.compile(f"^{pattern.pattern}$"))
    words = said.inner_text()
    found = pattern.fullmatch(words)
    assert found is not None, words
    kept, whole, dropped, unreadable = (number(text or "0") for text in found.groups())
    assert kept + dropped == whole
    return {"kept": kept, "dropped": dropped, "unreadable": unreadable}


def filtered(page: Page) -> dict[str, int]:
    """The counts of the command that the page prints, as a dry run."""
    program, *arguments = shlex.split(page.locator("#thresholds code").text_content() or "")
    assert program == "vlitqc"
    result = CliRunner().invoke(cli, [*arguments, "--dry-run", "--no-principles", "--json"])
    assert result.exit_code == 0, result.output
    counts: dict[str, int] = json.loads(result.stdout)["counts"]
    return counts


@pytest.fixture
def page(page_of: Callable[..., Page], demo_run: Run) -> Page:
    """The page of the demo data."""
    return page_of(demo_run)


def test_a_page_begins_without_thresholds(page: Page) -> None:
    expect(page.locator("#thresholds")).to_be_hidden()
    for handle in page.get_by_role("slider").all():
        expect(handle).to_have_attribute("aria-valuetext", "off")


def test_dragging_one_handle_counts_what_the_command_keeps(page: Page) -> None:
    drag(page, part(page, "matching_degree").get_by_role("slider"), 260)
    counts = told(page)
    assert 0 < counts["dropped"] < counts["kept"] + counts["dropped"]
    assert counts == filtered(page)


def test_three_moved_thresholds_count_what_the_command_keeps(page: Page) -> None:
    drag(page, part(page, "matching_degree").get_by_role("slider"), 200)
    visual = part(page, "visual_complexity")
    # By keyboard: what the first drag shows above may still move the button.
    at_rest(visual.get_by_role("button", name="Drop above as well")).press("Enter")
    drag(page, visual.get_by_role("slider", name="Drop above"), -180)
    text = part(page, "text_readability").get_by_role("slider")
    text.focus()
    for key in ("PageUp", "PageUp", "ArrowRight", "ArrowLeft", "ArrowLeft"):
        page.keyboard.press(key)
    command = page.locator("#thresholds code")
    expect(command).to_contain_text("--drop-below text_readability=")
    options = command.inner_text()
    assert options.count("--drop-below") == 2
    assert options.count("--drop-above") == 1
    assert told(page) == filtered(page)


def test_a_drag_is_told_beside_its_handle_and_by_task(page: Page) -> None:
    degree = part(page, "matching_degree")
    handle = degree.get_by_role("slider")
    drag(page, handle, 260)
    valued = re.compile(r"^below (\S+): (\d+) of (\d+) go$")
    expect(handle).to_have_attribute("aria-valuetext", valued)
    found = valued.match(handle.get_attribute("aria-valuetext") or "")
    assert found is not None
    expect(degree.get_by_role("spinbutton")).to_have_value(found[1])
    metric = next(m for m in meta(page)["metrics"] if m["name"] == "matching_degree")
    k = metric["stops"].index(found[1])
    assert int(found[2]) == metric["below"][k] == told(page)["dropped"]
    assert int(found[3]) == metric["n_scored"]
    click(degree.get_by_role("button", name=re.compile("All .* tasks")))
    expect(degree.get_by_role("button", name="Fewer tasks")).to_be_visible()
    rows = degree.locator(".kept-tasks tbody tr").all_inner_texts()
    pairs = [re.search(r"([\d,]+) of ([\d,]+)$", row) for row in rows]
    assert sum(number(pair[1]) for pair in pairs if pair) == told(page)["kept"]


def test_a_drag_is_told_where_another_threshold_is_as_well(page: Page) -> None:
    degree, text = part(page, "matching_degree"), part(page, "text_readability")
    drag(page, degree.get_by_role("slider"), 120)
    told(page)
    before = degree.locator(".live").inner_text()
    handle = at_rest(text.get_by_role("slider"))
    # Two frames later, long before anything settles, and in the middle of the drag.
    during = handle.evaluate("""async (handle) => {
      const {left, top, width, height} = handle.getBoundingClientRect();
      handle.setPointerCapture = () => {};
      const tell = (type, by) => handle.dispatchEvent(new PointerEvent(type,
        {bubbles: true, button: 0, pointerId: 1, clientX: left + width / 2 + by, clientY: top + height / 2}));
      tell("pointerdown", 0);
      tell("pointermove", 400);
      for (let k = 0; k < 2; k += 1) await new Promise(requestAnimationFrame);
      const shown = [...document.querySelectorAll(".live:not([hidden])")].map((live) => live.innerText);
      tell("pointerup", 400);
      return shown;
    }""")
    assert len(during) == 2
    assert before not in during
    assert sorted(during) == sorted(
        [degree.locator(".live").inner_text(), text.locator(".live").inner_text()]
    )
    assert told(page) == filtered(page)


def test_keys_move_a_handle_stop_by_stop(page: Page) -> None:
    handle = part(page, "matching_degree").get_by_role("slider")
    metric = next(m for m in meta(page)["metrics"] if m["name"] == "matching_degree")
    first = next(k for k, n in enumerate(metric["below"]) if n)
    handle.focus()

    def press(*keys: str, leads_to: int | None) -> None:
        """Press keys that lead to a stop, or to none."""
        for key in keys:
            page.keyboard.press(key)
        words = "^off$" if leads_to is None else f"^below {re.escape(metric['stops'][leads_to])}:"
        expect(handle).to_have_attribute("aria-valuetext", re.compile(words))

    last = len(metric["stops"]) - 1
    press("ArrowLeft", leads_to=None)
    press("ArrowRight", leads_to=first)  # the first stop is one that drops something
    press("ArrowUp", leads_to=first + 1)
    press("PageUp", leads_to=first + 11)
    press("PageDown", "ArrowDown", leads_to=first)
    press("ArrowLeft", leads_to=None)
    press("End", leads_to=last)
    press("ArrowRight", leads_to=last)
    press("Home", leads_to=None)
    expect(page.locator("#thresholds")).to_be_hidden()


def test_a_typed_number_snaps_to_the_nearest_stop(page: Page) -> None:
    degree = part(page, "matching_degree")
    field = degree.get_by_role("spinbutton")
    stops = next(m["stops"] for m in meta(page)["metrics"] if m["name"] == "matching_degree")
    field.fill("22.4813")
    field.press("Enter")
    expect(field).to_have_value(min(stops, key=lambda stop: abs(float(stop) - 22.4813)))
    assert told(page) == filtered(page)
    field.fill("1e9")
    field.press("Tab")
    expect(field).to_have_value(stops[-1])
    field.fill("")
    field.press("Tab")
    expect(page.locator("#thresholds")).to_be_hidden()


def test_the_two_thresholds_of_a_metric_do_not_cross(page: Page) -> None:
    visual = part(page, "visual_complexity")
    click(visual.get_by_role("button", name="Drop above as well"))
    below, above = (visual.get_by_role("spinbutton", name=f"Drop {side}") for side in ("below", "above"))
    below.fill("50")
    below.press("Enter")
    above.fill("20")
    above.press("Enter")
    expect(above).to_have_value(below.input_value())
    assert told(page) == filtered(page)


def test_the_floor_of_the_profile_is_one_button_away(page: Page) -> None:
    degree = part(page, "matching_degree")
    floor = next(m["floor"] for m in meta(page)["metrics"] if m["name"] == "matching_degree")
    click(degree.get_by_role("button", name="Use the profile’s floor"))
    expect(degree.get_by_role("spinbutton")).not_to_have_value("")
    assert float(degree.get_by_role("spinbutton").input_value()) == floor
    assert told(page) == filtered(page)
    expect(degree.get_by_role("slider")).to_be_focused()
    click(degree.get_by_role("button", name="Clear"))
    expect(page.locator("#thresholds")).to_be_hidden()
    expect(degree.get_by_role("slider")).to_be_focused()


def test_reset_takes_every_threshold_off(page: Page) -> None:
    for name in ("matching_degree", "visual_complexity"):
        drag(page, part(page, name).get_by_role("slider"), 200)
    click(page.locator("#thresholds").get_by_role("button", name="Reset"))
    test_a_page_begins_without_thresholds(page)
    expect(page.locator(".live:visible")).to_have_count(0)
    expect(page.get_by_role("heading", name="Measurements", exact=True)).to_be_focused()


def test_the_command_is_copied(page: Page) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    drag(page, part(page, "matching_degree").get_by_role("slider"), 200)
    bar = page.locator("#thresholds")
    click_says(bar.get_by_role("button", name="Copy"), "Copied")
    assert page.evaluate("navigator.clipboard.readText()") == bar.locator("code").text_content()


def test_closest_calls_lie_on_both_sides_and_follow_the_threshold(page: Page, demo_run: Run) -> None:
    degree = part(page, "matching_degree")
    drag(page, degree.get_by_role("slider"), 260)
    told(page)
    stop = float(degree.get_by_role("spinbutton").input_value())
    at_rest(degree.locator(".samples"))
    expect(degree.get_by_text(f"On both sides of the threshold, below {stop:g}")).to_be_visible()
    notes = degree.locator(".card .why")
    expect(notes).to_have_text(["would go", "would stay"] * 2)
    rows = [
        int(row) for row in degree.locator(".card").evaluate_all("all => all.map(one => one.dataset.row)")
    ]
    values = demo_run.scores.set_index("row").loc[rows, "matching_degree"].tolist()
    gone, left = values[::2], values[1::2]
    assert all(value < stop for value in gone)
    assert all(value >= stop for value in left)
    assert gone == sorted(gone, reverse=True), "the nearest first"
    assert left == sorted(left)


def test_without_a_threshold_nothing_would_go(page: Page) -> None:
    for name, tags in (
        ("matching_degree", {"below the floor", "above the floor"}),
        ("visual_complexity", {""}),
    ):
        place = part(page, name).locator(".samples")
        at_rest(place)
        expect(place.locator(".card").first).to_be_visible()
        assert set(place.locator(".card .why").all_text_contents()) == tags


def test_all_that_would_go_are_those_that_go(page: Page) -> None:
    degree = part(page, "matching_degree")
    drag(page, degree.get_by_role("slider"), 120)
    ordered(degree.locator(".samples"), "All that would go")
    expect(degree.locator(".card .why").first).to_have_text("would go")
    gone = told(page)["dropped"]
    assert 4 < gone < 12
    expect(degree.locator(".card")).to_have_count(4)
    click(degree.get_by_role("button", name=f"Show {gone - 4} more"))
    expect(degree.locator(".card")).to_have_count(gone)
    click(degree.get_by_role("button", name="Clear"))
    expect(degree.locator(".card")).to_have_count(0)


def test_the_bar_covers_nothing_that_has_the_focus(page: Page) -> None:
    degree = part(page, "matching_degree")
    handle = degree.get_by_role("slider")
    drag(page, handle, 200)
    at_rest(degree.locator(".samples"))
    expect(degree.locator(".card")).to_have_count(4)
    top = page.locator("#thresholds").evaluate("bar => bar.getBoundingClientRect().top")
    at_rest(handle).focus()
    for _ in range(30):
        page.keyboard.press("Tab")
        focused = page.locator(":focus")
        assert focused.evaluate("one => one.closest('.metric') !== null")
        # Galleries that fill as they come near move what has the focus for a frame.
        page.wait_for_function(
            "(top) => document.activeElement.getBoundingClientRect().bottom <= top", arg=top
        )


def test_paper_tells_the_thresholds_once_beside_the_verdict(page: Page) -> None:
    drag(page, part(page, "matching_degree").get_by_role("slider"), 200)
    counts = told(page)
    page.emulate_media(media="print")
    expect(page.locator("#thresholds")).to_be_hidden()
    printed = page.locator("#verdict").get_by_text("With the thresholds set on this page")
    expect(printed).to_be_visible()
    expect(printed).to_contain_text(f"{counts['kept']} of {counts['kept'] + counts['dropped']} records stay")


# ---------------------------------------------------------------- runs of which the page holds a part


def test_closest_calls_among_fewer_cards_than_records(
    page_at: Callable[..., Page], demo_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(html._MOST_CARDS, "file", 40)
    page = page_at(html.write_report(demo_run, tmp_path / "report.html").as_uri())
    degree = part(page, "matching_degree")
    expect(degree.get_by_text("On both sides of the profile’s floor, below")).to_contain_text(
        f"closest of the 40 records shown in this page of {meta(page)['n']}"
    )


DRAWN = 70


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch, demo_run: Run) -> np.ndarray[Any, Any]:
    """Pages hold a draw of the readable records only: their rows."""
    readable = np.flatnonzero((demo_run.scores["state"] != "unreadable").to_numpy())
    places = np.sort(np.random.default_rng(5).choice(len(readable), DRAWN, replace=False))
    monkeypatch.setattr(html, "_stored", lambda *_: places)
    rows: np.ndarray[Any, Any] = readable[places]
    return rows


def test_a_draw_gives_estimates_with_an_interval(
    page_at: Callable[..., Page], demo_run: Run, drawn: np.ndarray[Any, Any], tmp_path: Path
) -> None:
    page = page_at(html.write_report(demo_run, tmp_path / "report.html").as_uri())
    assert meta(page)["stored"] == {"n": DRAWN, "exact": False}
    degree, visual = (part(page, name) for name in ("matching_degree", "visual_complexity"))
    typed(page, degree, "matching_degree", 0.5)
    assert told(page) == filtered(page), "one measurement is counted over the whole run"
    expect(degree.get_by_text("≈ Stay")).to_be_visible()
    typed(page, visual, "visual_complexity", 0.5)
    expect(page.locator(".moved-sum")).to_contain_text("interval")
    words = page.locator(".moved-sum").inner_text()
    found = re.match(
        r"≈ ([\d,]+) of ([\d,]+) records stay \(.*%, 95% interval ([\d,]+) to ([\d,]+)\) · ≈ ([\d,]+) go",
        words,
    )
    assert found is not None, words
    kept, n, low, high, dropped = map(number, found.groups())
    assert kept + dropped == n == meta(page)["n"]
    assert low <= kept <= high
    assert low <= filtered(page)["kept"] <= high

    levels = {
        name: float(metric.get_by_role("spinbutton").input_value())
        for name, metric in (("matching_degree", degree), ("visual_complexity", visual))
    }
    seen = int(demo_run.filter(drop_below=levels).to_numpy()[drawn].sum())
    alone = [number(metric.locator(".told").inner_text().partition(" ")[0]) for metric in (degree, visual)]
    # Without what is known of each measurement alone, the ends are where what was drawn would be a rare draw.
    whole = np.arange(n + 1)
    least = int(np.argmax(hypergeom.sf(seen - 1, n, whole, DRAWN) >= 0.025))
    most = n - int(np.argmax(hypergeom.cdf(seen, n, whole, DRAWN)[::-1] >= 0.025))
    assert low == pytest.approx(max(least, n - sum(alone)), abs=2)
    assert high == pytest.approx(min(most, n - max(alone)), abs=2)


@contextmanager
def served(run: Run) -> Iterator[str]:
    """The address of the run's page."""
    with Server(run) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.url
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.usefixtures("drawn")
def test_a_server_counts_where_the_page_estimates(page_at: Callable[..., Page], demo_run: Run) -> None:
    with served(demo_run) as url:
        page = page_at(url)
        answers: list[Response] = []
        page.on(
            "response", lambda answer: answers.append(answer) if answer.url.endswith("api/count") else None
        )
        for name in ("matching_degree", "visual_complexity"):
            drag(page, part(page, name).get_by_role("slider"), 200)
        expect(page.locator(".moved-sum")).not_to_contain_text("≈")
        assert told(page) == filtered(page)
        assert len(answers) <= 2, "one question for each drag, not for each of its steps"
        degree = part(page, "matching_degree")
        ordered(degree.locator(".samples"), "All that would go")
        alone = number((degree.locator(".told").first.inner_text()).partition(" ")[0])
        expect(degree.locator(".card")).to_have_count(min(alone, 4))
        page.goto("about:blank")
