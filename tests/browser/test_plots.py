"""The plots as they are seen: nothing overlaps or is cut off, and each can be saved as SVG and PNG."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from PIL import Image
from playwright.sync_api import Locator, Page, expect

from vlitqc.engine.run import Run

from .rest import at_rest, click

OVERLAPS = """() => {
  const found = [];
  for (const chart of document.querySelectorAll("svg.chart")) {
    const frame = chart.getBoundingClientRect();
    if (!frame.width) continue;
    const words = [...chart.querySelectorAll("text")].filter((e) => e.textContent.trim());
    const boxes = words.map((e) => e.getBoundingClientRect());
    boxes.forEach((a, i) => {
      const name = `${chart.dataset.name}: ${words[i].textContent}`;
      if (a.left < frame.left - 2 || a.right > frame.right + 2) found.push(`${name} sticks out`);
      boxes.slice(i + 1).forEach((b, j) => {
        const across = Math.min(a.right, b.right) - Math.max(a.left, b.left);
        const down = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
        if (across > 1 && down > 0.3 * Math.min(a.height, b.height)) {
          found.push(`${name} / ${words[i + 1 + j].textContent}`);
        }
      });
    });
  }
  return found;
}"""

SMALLEST = """() => Math.min(...[...document.querySelectorAll("svg.chart text")].map((e) => {
  const chart = e.closest("svg");
  return parseFloat(getComputedStyle(e).fontSize) * chart.getBoundingClientRect().width / chart.viewBox.baseVal.width;
}).filter((size) => size > 0))"""


@pytest.fixture(params=["demo_run", "llava_run"])
def scored(request: pytest.FixtureRequest) -> Run:
    run: Run = request.getfixturevalue(request.param)
    return run


def plot(page: Page, name: str) -> Locator:
    frame = page.locator(f'.plot:has(svg[data-name="{name}"])')
    return at_rest(frame)


def saved(page: Page, frame: Locator, kind: str, folder: Path) -> Path:
    at_rest(frame).hover()
    with page.expect_download() as download:
        frame.get_by_role("button", name=f"Save as {kind}").click()
    path = folder / download.value.suggested_filename
    download.value.save_as(path)
    return path


def colours(path: Path) -> list[tuple[int, Any]]:
    with Image.open(path) as picture:
        found = picture.convert("RGB").getcolors(1 << 24)
    assert found is not None
    return sorted(found, reverse=True)


@pytest.mark.parametrize("width", [1440, 768])
def test_no_words_of_a_plot_run_into_each_other(
    page_of: Callable[..., Page], scored: Run, width: int
) -> None:
    page = page_of(scored, viewport=(width, 900))
    assert page.evaluate(OVERLAPS) == []
    assert page.evaluate(SMALLEST) >= 9


def test_every_principle_has_its_value_interval_and_plot(page_of: Callable[..., Page], scored: Run) -> None:
    page = page_of(scored, script=False)
    for metric in scored.metrics().values():
        drawn = page.locator(f'#principles svg[data-name="{metric["name"]}-value"]')
        expect(drawn).to_have_count(0 if metric["value"] is None else 1)
        if metric["value"] is not None and metric["reference"]:
            expect(page.locator(f'#principles svg[data-name="{metric["name"]}-paper"]')).to_contain_text(
                "do not compare"
            )
    assert page.locator("#principles .principle").count() == len(scored.scorecard["principles"])


def test_every_plot_is_described(page_of: Callable[..., Page], scored: Run) -> None:
    page = page_of(scored, script=False)
    charts = page.locator("svg.chart")
    names = charts.evaluate_all("all => all.map((one) => one.dataset.name)")
    assert len(names) == len(set(names)) > 15
    labels = charts.evaluate_all("all => all.map((one) => one.getAttribute('aria-label'))")
    assert all(len(label) > 15 for label in labels)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize(
    "name", ["matching_degree-value", "matching_degree", "correlations", "tasks", "picture_sizes"]
)
def test_a_plot_is_saved_as_it_is_seen(
    page_of: Callable[..., Page], demo_run: Run, tmp_path: Path, name: str, dark: bool
) -> None:
    page = page_of(demo_run, dark=dark)
    frame = plot(page, name)
    data = re.sub(r"\.\w{1,8}$", "", page.locator("h1").inner_text())
    drawing = saved(page, frame, "SVG", tmp_path)
    assert drawing.name == f"{data}-{name}.svg"
    root = ElementTree.parse(drawing).getroot()
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert "style" not in drawing.read_text("utf-8").lower().replace("font-style", "")
    shapes = [e for e in root.iter() if e.tag.rsplit("}", 1)[1] in {"rect", "text", "path", "circle"}]
    assert all(shape.attrib["fill"] for shape in shapes)
    picture = saved(page, frame, "PNG", tmp_path)
    assert picture.name == f"{data}-{name}.png"
    with Image.open(picture) as opened:
        assert opened.size == (2 * float(root.attrib["width"]), 2 * float(root.attrib["height"]))
    (_, ground), *others = colours(picture)
    assert len(others) > 20, "more than one colour is drawn"
    assert (sum(ground) < 3 * 128) == dark


def test_a_moved_threshold_is_in_the_saved_histogram(
    page_of: Callable[..., Page], demo_run: Run, tmp_path: Path
) -> None:
    page = page_of(demo_run)
    frame = plot(page, "matching_degree")
    before = saved(page, frame, "PNG", tmp_path).read_bytes()
    frame.get_by_role("slider").first.focus()
    for _ in range(4):
        page.keyboard.press("PageUp")
    assert saved(page, frame, "PNG", tmp_path).read_bytes() != before


def test_the_keyboard_reaches_each_plot_once(page_of: Callable[..., Page], demo_run: Run) -> None:
    page = page_of(demo_run)
    frame = plot(page, "tasks")
    first, second = frame.get_by_role("button").all()
    first.focus()
    expect(frame.locator(".save")).to_have_css("opacity", "1")
    page.keyboard.press("ArrowRight")
    expect(second).to_be_focused()
    page.keyboard.press("ArrowRight")
    expect(first).to_be_focused()
    page.keyboard.press("Tab")
    expect(page.locator(":focus")).to_have_count(1)
    expect(frame.locator(":focus")).to_have_count(0)


def test_the_buttons_show_only_when_wanted(
    page_of: Callable[..., Page],
    page_at: Callable[..., Page],
    report_of: Callable[..., Path],
    demo_run: Run,
) -> None:
    page = page_of(demo_run)
    frame = plot(page, "tasks")
    page.mouse.move(0, 0)
    expect(frame.locator(".save")).to_have_css("opacity", "0")
    frame.hover()
    expect(frame.locator(".save")).to_have_css("opacity", "1")
    touched = page_at(report_of(demo_run).as_uri(), has_touch=True, is_mobile=True)
    expect(plot(touched, "tasks").locator(".save")).to_have_css("opacity", "1")


def test_the_map_is_saved(page_of: Callable[..., Page], demo_run: Run, tmp_path: Path) -> None:
    page = page_of(demo_run)
    at_rest(page.locator(".map-plot"))
    with page.expect_download() as download:
        click(page.get_by_role("button", name="Save the map as PNG"))
    path = tmp_path / download.value.suggested_filename
    download.value.save_as(path)
    assert path.name.endswith("-map.png")
    assert len(colours(path)) > 20


def test_plots_print(page_of: Callable[..., Page], demo_run: Run, tmp_path: Path) -> None:
    page = page_of(demo_run)
    page.emulate_media(media="print")
    expect(page.locator(".save").first).to_be_hidden()
    page.set_viewport_size({"width": 703, "height": 1000})
    page.wait_for_function("innerWidth === 703")
    assert page.evaluate(OVERLAPS) == []
    page.pdf(path=tmp_path / "page.pdf", format="A4")
    assert (tmp_path / "page.pdf").read_bytes().startswith(b"%PDF-")
