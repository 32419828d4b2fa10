"""Cards in a browser: they show what a record holds, as text, at any size, and by the keyboard alone."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from PIL import Image
from playwright.sync_api import Locator, Page, expect

import vlitqc
from vlitqc.engine.run import Run

from .rest import at_rest, click, ordered

PageOf = Callable[..., Page]

WORD = "w" * 30_000
HOSTILE = "<img src=x onerror=\"window.hit='text'\"><script>window.hit='script'</script>"
METRIC = "text_readability"


@pytest.fixture(scope="module")
def odd_run(tmp_path_factory: pytest.TempPathFactory, picture: Callable[[int], bytes]) -> Run:
    """Records that strain a card, each with its own id."""
    root = tmp_path_factory.mktemp("odd")
    for i in range(12):
        (root / f"{i}.jpg").write_bytes(_jpeg(picture(i), 90 + 30 * i, 120))
    whole = _jpeg(picture(99), 200, 200)
    (root / "broken.jpg").write_bytes(whole[: len(whole) // 2])

    def record(id: str, *said: str, images: tuple[str, ...] = ("0.jpg",), **more: Any) -> dict[str, Any]:
        turns = [
            {"from": ("human", "gpt")[i % 2], "value": "<image>" * len(images) * (i == 0) + text}
            for i, text in enumerate(said)
        ]
        return {"id": id, "image": list(images), "conversations": turns} | more

    many = [
        text for i in range(20) for text in (f"What is in corner {i} of it?", f"A red thing, number {i}.")
    ]
    box = {"category": "cup", "xywh": [9, 12, 45, 60]}
    records = [
        record("plain", "What is shown in the picture?", "A dog in the park."),
        record(
            "twelve", "What do they share?", "The same colour.", images=tuple(f"{i}.jpg" for i in range(12))
        ),
        record("turns", *many),
        record("word", WORD, "A very long word."),
        record("broken", "What is shown in this one?", "Nobody can say.", images=("broken.jpg",)),
        record("boxes", "Which cup is on the table?", "The red one.", objects=[box]),
        record(
            "rtl", "What is shown in the picture?", "قطة is what is shown in the picture, a cat in the park."
        ),
        record("lines", "Write them down.\n" + "one more line\n" * 30, "Done as you asked."),
        record(HOSTILE, f"{HOSTILE} What is \u202egnp.exe?", "A file that pretends."),
        *(
            record(f"more-{i}", f"What is the number of it, {i} or {i + 1}?", f"It is {i}.")
            for i in range(20)
        ),
    ]
    for each in records:
        if each["id"].startswith("more"):
            each.pop("image")
            each["conversations"][0]["value"] = each["conversations"][0]["value"].removeprefix("<image>")
    data = root / "data.json"
    data.write_text(json.dumps(records))
    return vlitqc.score(data, metrics=[METRIC, "object_diversity"], report=False)


def _jpeg(png: bytes, width: int, height: int) -> bytes:
    buffer = io.BytesIO()
    Image.open(io.BytesIO(png)).convert("RGB").resize((width, height)).save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.fixture
def gallery(page_of: PageOf, odd_run: Run) -> Locator:
    """The samples of the one metric that every record has, worst first, all of them."""
    return _gallery(page_of(odd_run))


def _gallery(page: Page) -> Locator:
    place = page.locator(".samples").first
    ordered(place, "Worst")
    cards = place.locator(".card")
    for shown in (4, 16, 28):
        expect(cards).to_have_count(shown)
        click(place.get_by_role("button", name=re.compile("^Show .* more$")))
    expect(cards).to_have_count(29)
    return place


def card(gallery: Locator, id: str) -> Locator:
    return gallery.get_by_role("article", name=f"Record {id}", exact=True)


def test_a_gallery_shows_a_page_at_a_time(page_of: PageOf, odd_run: Run) -> None:
    page = page_of(odd_run)
    place = page.locator(".samples").first
    ordered(place, "Worst")
    expect(place.get_by_text("1–4 of 29")).to_be_visible()
    click(place.get_by_role("button", name="Show 12 more"))
    expect(place.get_by_text("1–16 of 29")).to_be_visible()
    expect(place.locator(".card").nth(4)).to_be_focused()
    click(place.get_by_role("button", name="Show 12 more"))
    expect(place.get_by_text("1–28 of 29")).to_be_visible()
    click(place.get_by_role("button", name="Show 1 more"))
    expect(place.get_by_text("29 records", exact=True)).to_be_visible()
    expect(place.get_by_role("button", name=re.compile("^Show .* more$"))).to_be_hidden()


def test_the_large_view_goes_on_beyond_the_page(page_of: PageOf, odd_run: Run) -> None:
    page = page_of(odd_run)
    place = page.locator(".samples").first
    ordered(place, "Worst")
    expect(place.locator(".card")).to_have_count(4)
    click(place.locator(".card .see").nth(3))
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("button", name="Next").click()
    expect(dialog.get_by_role("heading")).to_contain_text("5 of 29")
    dialog.get_by_role("button", name="Close").click()
    expect(place.locator(".card")).to_have_count(16)


def test_a_card_shows_what_the_record_holds(gallery: Locator, odd_run: Run) -> None:
    one = card(gallery, "plain")
    expect(one.locator(".ask .text")).to_contain_text("What is shown in the picture?")
    expect(one.locator(".answer .text")).to_have_text("A dog in the park.")
    image = one.get_by_role("img", name="Picture 1 of 1")
    at_rest(image)
    expect(image).to_have_js_property("complete", True)
    assert image.evaluate("image => image.naturalWidth") > 0
    assert image.evaluate("image => [image.width, image.height].every((side) => side > 20)")
    expect(one.locator(".caption").first).to_have_text("90 × 120 JPEG")
    value = odd_run.scores.set_index("id").loc["plain", METRIC]
    shown = float(one.locator(".reading").inner_text().split(":")[-1].replace("−", "-"))
    assert shown == pytest.approx(value, rel=0.01)
    click(one.get_by_text("All scores"))
    here = one.locator("tr.here")
    expect(here.get_by_role("rowheader")).to_contain_text("Text readability")
    expect(one.get_by_role("row", name=re.compile("Object diversity"))).to_contain_text("no object detector")

    many = card(gallery, "twelve")
    expect(many.get_by_role("img", name=re.compile(r"^Picture \d+ of 12$"))).to_have_count(12)
    assert many.evaluate("card => card.scrollWidth <= card.clientWidth")
    for frame in many.locator(".shot").all():
        before = frame.bounding_box()
        assert before is not None
        width, height = frame.locator("img").evaluate(
            "image => [image.getAttribute('width'), image.getAttribute('height')]"
        )
        assert before["width"] / before["height"] == pytest.approx(int(width) / int(height), rel=0.03)


def test_long_conversations_are_folded(gallery: Locator) -> None:
    turns = card(gallery, "turns")
    expect(turns.get_by_text("A red thing, number 0.")).to_be_visible()
    expect(turns.get_by_text("A red thing, number 1.")).to_be_hidden()
    click(turns.get_by_text("19 more turns"))
    expect(turns.get_by_text("A red thing, number 19.")).to_be_visible()

    word = card(gallery, "word")
    click(word.get_by_text("Show the first 12,000 characters"))
    expect(word.get_by_text("… 18,007 more characters, not in this page")).to_be_visible()
    assert word.evaluate("card => card.scrollWidth <= card.clientWidth")
    click(word.get_by_text("Show less"))
    expect(word.get_by_text("Show the first 12,000 characters")).to_be_visible()

    lines = card(gallery, "lines")
    assert lines.locator(".ask").evaluate("part => part.clientHeight") < 400
    expect(lines.get_by_text("Show all 444 characters")).to_be_visible()

    click(gallery.get_by_role("button", name="Open all"))
    expect(gallery.locator(".card details:not([open])")).to_have_count(0)
    click(gallery.get_by_role("button", name="Close all"))
    expect(gallery.locator(".card details[open]")).to_have_count(0)


def test_other_peoples_text_is_text(gallery: Locator) -> None:
    arabic = card(gallery, "rtl")
    assert arabic.locator(".answer .text").evaluate("text => getComputedStyle(text).direction") == "rtl"
    assert arabic.locator(".id").evaluate("text => getComputedStyle(text).direction") == "ltr"

    hostile = card(gallery, HOSTILE)
    expect(hostile.locator(".id")).to_have_text(HOSTILE)
    expect(hostile.locator(".ask .text")).to_contain_text("<script>window.hit='script'</script>")
    expect(hostile.locator(".ctl")).to_have_text("U+202E")
    assert gallery.page.evaluate("window.hit") is None

    broken = card(gallery, "broken")
    expect(broken.locator(".gone")).to_contain_text("truncated")
    expect(broken.get_by_role("list", name="Issues of this record")).to_contain_text("error: Truncated image")
    expect(broken.locator(".state")).to_have_text("scored in part")


def test_objects_are_drawn_on_demand(gallery: Locator) -> None:
    one = card(gallery, "boxes")
    marks = one.locator(".marks")
    expect(one.locator(".caption", has_text="cup")).to_be_visible()
    expect(marks).to_be_hidden()
    one.locator(".shot").focus()
    one.page.keyboard.press("Shift+Tab")
    one.page.keyboard.press("Tab")
    expect(marks).to_be_visible()
    one.page.keyboard.press("Tab")
    expect(marks).to_be_hidden()
    button = gallery.get_by_role("button", name="Show objects")
    click(button)
    expect(button).to_have_attribute("aria-pressed", "true")
    expect(marks).to_be_visible()
    frame = at_rest(one.locator(".shot")).bounding_box()
    drawn = marks.locator("rect").bounding_box()
    assert frame
    assert drawn
    assert (drawn["x"] - frame["x"]) / frame["width"] == pytest.approx(0.1, abs=0.03)
    assert drawn["height"] / frame["height"] == pytest.approx(0.5, abs=0.05)


def test_a_card_is_seen_large_and_so_are_its_neighbours(gallery: Locator) -> None:
    page = gallery.page
    ids = gallery.locator(".card .id").all_inner_texts()
    opener = gallery.locator(".card .see").nth(3)
    opener.focus()
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_role("heading")).to_contain_text("4 of 29")
    expect(dialog.locator(".id")).to_have_text(ids[3])
    assert dialog.locator(".fold").count() == 0
    page.keyboard.press("ArrowRight")
    expect(dialog.locator(".id")).to_have_text(ids[4])
    page.keyboard.press("ArrowLeft")
    expect(dialog.locator(".id")).to_have_text(ids[3])
    page.keyboard.press("ArrowLeft")
    expect(dialog.locator(".id")).to_have_text(ids[2])
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    expect(opener).to_be_focused()

    click(gallery.locator(".card .see").last)
    expect(dialog.get_by_role("button", name="Next")).to_have_attribute("aria-disabled", "true")
    page.keyboard.press("ArrowRight")
    expect(dialog.get_by_role("heading")).to_contain_text("29 of 29")


def test_cards_by_the_keyboard(gallery: Locator) -> None:
    page = gallery.page
    cards = gallery.locator(".card")
    cards.first.focus()
    page.keyboard.press("j")
    expect(cards.nth(1)).to_be_focused()
    page.keyboard.press("j")
    expect(cards.nth(2)).to_be_focused()
    page.keyboard.press("k")
    expect(cards.nth(1)).to_be_focused()
    page.keyboard.press("o")
    expect(cards.nth(1).locator("details:not([open])")).to_have_count(0)
    page.keyboard.press("o")
    expect(cards.nth(1).locator("details[open]")).to_have_count(0)
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog").get_by_role("heading")).to_contain_text("2 of 29")
    page.keyboard.press("Escape")
    expect(cards.nth(1)).to_be_focused()


def test_the_keys_and_their_list(page_of: PageOf, odd_run: Run) -> None:
    page = page_of(odd_run)
    page.get_by_role("button", name="Keys").click()
    keys = page.get_by_role("dialog", name="Keys")
    expect(keys.get_by_role("row", name="j next card")).to_be_visible()
    keys.get_by_label("Keys of a single character are on").uncheck()
    page.keyboard.press("Escape")
    expect(page.get_by_role("button", name="Keys")).to_be_focused()
    page.keyboard.press("?")
    expect(keys).to_be_hidden()
    page.get_by_role("button", name="Keys").click()
    keys.get_by_label("Keys of a single character are on").check()
    page.keyboard.press("Escape")
    expect(keys).to_be_hidden()
    page.keyboard.press("?")
    expect(keys).to_be_visible()
    page.keyboard.press("Escape")
    expect(keys).to_be_hidden()

    page.keyboard.press("m")
    held = page.locator("[id^=metric-]:focus")
    expect(held).to_have_count(1)
    first = held.get_attribute("id") or ""
    page.keyboard.press("m")
    expect(held).not_to_have_id(first)
    expect(held).to_have_count(1)
    page.keyboard.press("/")
    expect(page.locator("#issue-text")).to_be_focused()
    page.keyboard.type("j?m")
    expect(page.locator("#issue-text")).to_have_value("j?m")


def test_cards_are_printed_open_with_their_pictures(gallery: Locator) -> None:
    page = gallery.page
    page.evaluate("window.addEventListener('beforeprint', () => { window.closed = "
                  "document.querySelectorAll('.card details:not([open])').length; })")  # fmt: skip
    page.emulate_media(media="print")
    expect(card(gallery, "plain").get_by_role("img", name="Picture 1 of 1")).to_be_visible()
    assert page.pdf().startswith(b"%PDF")
    assert page.evaluate("window.closed") == 0
    expect(gallery.locator(".card details[open]")).to_have_count(0)
