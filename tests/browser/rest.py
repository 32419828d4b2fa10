"""When a page is at rest: what it does in a later frame or after a moment is done, and nothing on it moves.

A click is pressed and let go at one place of the window. Where a gallery fills between the two, the button has moved
and the click is lost; what is read before a gallery is full is what was there before.
"""

from __future__ import annotations

import re

from playwright.sync_api import Locator, expect

PATIENCE = 30_000
"""Milliseconds that anything on a page may take; a busy machine is slow. Only a failure waits so long."""

# A busy machine may draw nothing for a second: rest is counted in frames. A gallery asks once it is near the window.
_AT_REST = """async (place, patience) => {
  const until = performance.now() + patience;
  let [before, still] = ["", 0];
  while (still < 6) {
    place.scrollIntoView({ block: "center", behavior: "instant" });
    await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
    const { x, y, width, height } = place.getBoundingClientRect();
    const now = [x, y, width, height, scrollX, scrollY].join(" ");
    const busy = document.querySelector('.cards[aria-busy="true"]') ? "a gallery is still asking"
      : place.matches(".map-plot:not([data-drawn])") ? "the map is not drawn" : "";
    still = now === before && !busy ? still + 1 : 0;
    if (performance.now() > until) throw new Error(`not at rest: ${busy || `at ${before}, then at ${now}`}`);
    before = now;
  }
}"""

_NOTE_WORDS = """(button) => {
  window.worded = [];
  new MutationObserver(() => window.worded.push(button.textContent)).observe(button, { childList: true });
}"""


def at_rest(place: Locator) -> Locator:
    """The place itself, in the middle of the window and at rest; no gallery is still asking for its records."""
    place.evaluate(_AT_REST, PATIENCE)
    return place


def click(button: Locator) -> None:
    """Click where galleries load near by as the button comes into the window."""
    at_rest(button).click()


def ordered(samples: Locator, order: str) -> None:
    """Choose the order of a metric's samples, and wait for its cards: until then those of the order before stand."""
    at_rest(samples.get_by_role("group", name=re.compile("^Which samples")))
    expect(samples.locator(".card").first).to_be_visible()
    button = samples.get_by_role("button", name=order, exact=True)
    click(button)
    expect(button).to_have_attribute("aria-pressed", "true")
    expect(samples.locator(".cards")).to_have_attribute("aria-busy", "false")


def click_says(button: Locator, word: str) -> None:
    """Click, and wait until the button has said this word, however short it stood there."""
    at_rest(button)
    # Looked for by its words it would be another one as soon as they change.
    handle = button.element_handle()
    handle.evaluate(_NOTE_WORDS)
    handle.click()
    button.page.wait_for_function("(word) => window.worded.includes(word)", arg=word)
