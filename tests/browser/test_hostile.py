"""A data set that attacks the page from every field: nothing of it runs, and all of it can be read."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Page, expect

import vlitqc
from vlitqc.engine.run import Run
from vlitqc.types import (
    Batch,
    DatasetScore,
    Features,
    FeatureStore,
    Issue,
    MetricSpec,
    Principle,
    Sample,
    Score,
)
from vlitqc_reports.html import MAX_BYTES

from .rest import at_rest

ATTACKS = (
    "<script>window.owned='script'</script>",
    "</script><script>window.owned='script that ends ours'</script>",
    "<img src=x onerror=\"window.owned='onerror'\">",
    "<svg onload=window.owned='onload'><animate onbegin=window.owned='onbegin' attributeName=x dur=1s></svg>",
    "</style></title></textarea></noscript></template><script>window.owned='other ends'</script>",
    '" autofocus tabindex=1 onfocus="window.owned=\'double quote\'" x="',
    "' autofocus tabindex=1 onfocus='window.owned=1' x='",
    "javascript:window.owned='link'",
    "[here](javascript:window.owned='markdown')",
    "<a href=\"javascript:window.owned='anchor'\">here</a><iframe src=\"javascript:parent.owned='frame'\"></iframe>",
    "<base href=https://example.org/><meta http-equiv=refresh content='0;url=https://example.org/'>",
    "<link rel=stylesheet href=https://example.org/a.css><style>*{display:none!important}</style>",
    "{{7*7}} {% for x in [1] %}49{% endfor %} ${window.owned='template'} #{7*7}",
    "<!-- <script> ]]> --!>",
    "`${window.owned='backtick'}` ');window.owned='call';//",
    "\u202egnp.exe\u202c \u2066left\u2069 \u200f",
    "\x00 \x1b[31m \x07 \x85",
    "\ud800 \udfff lone",
    "\u2028 \u2029 line ends",
    "__proto__",
    "constructor",
)
STORABLE = tuple(text.encode("utf-8", "replace").decode() for text in ATTACKS)
"""What a metric can say; a record's own texts may hold half a surrogate pair."""
LONG = "A" * 1_000_000
TURNS = 1_000


def spec(name: str, level: Any, **more: Any) -> MetricSpec:
    return MetricSpec(
        name=name,
        title=ATTACKS[0],
        principle=Principle.BEYOND,
        level=level,
        summary=ATTACKS[1],
        unit=ATTACKS[2],
        bounds=(0.0, 100.0),
        higher_is_better=True,
        reduction=ATTACKS[3],
        version="1",
        source=ATTACKS[4],
        **more,
    )


class Shouting:
    """A metric whose every word is an attack."""

    spec = spec("shouting", "sample", notes=("note",))

    def score(self, batch: Batch) -> list[Score]:
        return [self._one(sample) for sample in batch.samples]

    def _one(self, sample: Sample) -> Score:
        row = sample.origin.row
        words = STORABLE[row % len(STORABLE)]
        return Score(reason=words) if row % 5 == 4 else Score(float(row), notes={"note": words})


class Naming:
    """A metric of the data set that names tasks, clusters and duplicates."""

    spec = spec(
        "naming",
        "dataset",
        columns=("task", "response_cluster", "image_cluster", "duplicate_group", "duplicate_kind"),
        texts=("task", "duplicate_kind"),
    )

    def features(self, batch: Batch) -> Mapping[str, Features]:
        n = len(batch)
        every = np.arange(n, dtype=np.int64)
        vectors = np.random.default_rng(n).normal(size=(n, 8)).astype(np.float32)
        return {
            "response-made": Features(vectors, every),
            "picture-made": Features(vectors[:, ::-1].copy(), every),
        }

    def resolve(self, store: FeatureStore) -> DatasetScore:
        n = store.n_samples
        words = [STORABLE[i % len(STORABLE)] for i in range(n)]
        files, lines, rows, ids = (store.column(name) for name in ("file", "line", "row", "id"))
        issues = [
            Issue("<b>kind</b>", "warning", words[i], files[i], lines[i], rows[i], ids[i]) for i in range(n)
        ]
        return DatasetScore(
            1.0,
            n_scored=n,
            n_total=n,
            details={word: {word: 1.0, "tasks": [word]} for word in words},
            columns={
                "task": words,
                "response_cluster": [i % 3 for i in range(n)],
                "image_cluster": [i % 2 for i in range(n)],
                "duplicate_group": [float(i // 2) for i in range(n)],
                "duplicate_kind": [None if i % 2 == 0 else words[i] for i in range(n)],
            },
            issues=issues,
        )


def records(pictures: list[str]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for i, attack in enumerate(ATTACKS):
        found.append(
            {
                "id": attack,
                "image": attack if i % 3 == 0 else pictures[i % len(pictures)],
                attack: attack,
                "category": attack,
                "source": attack,
                "conversations": [
                    {"from": "human", "value": f"<image>\n{attack}"},
                    {"from": "gpt", "value": f"{attack} It answers at some length."},
                ],
            }
        )
    many = [
        {"from": ("human", "gpt")[k % 2], "value": f"{k} {ATTACKS[k % len(ATTACKS)]}"} for k in range(TURNS)
    ]
    found += [
        {"id": "many turns", "conversations": many},
        {
            "id": LONG,
            "image": pictures[0],
            "conversations": [{"from": "human", "value": "<image>" + LONG}, {"from": "gpt", "value": LONG}],
        },
        {"id": "of another kind", "conversations": ATTACKS[1]},
        {"id": "the same", "conversations": [{"from": ATTACKS[0], "value": ATTACKS[0]}]},
    ]
    return found


@pytest.fixture
def hostile(
    tmp_path: Path,
    make_data: Callable[..., Path],
    picture: Callable[[int], bytes],
    profile_file: Callable[[str], str],
    register: Callable[..., None],
) -> Run:
    register("shouting", Shouting)
    register("naming", Naming)
    folder = "<img src=x onerror=window.owned='folder'>"
    pictures = ["plain.png", "<img src=x onerror=window.owned=1>.png", "\"'`{{7*7}}\u202e.png"]
    (tmp_path / folder).mkdir()
    for i, name in enumerate(pictures):
        (tmp_path / folder / name).write_bytes(picture(i))
    data = make_data(folder=folder, name="<b onclick=window.owned=1>.jsonl", lines=records(pictures))
    profile = profile_file(
        "[metrics.image_readability]\n[metrics.composition]\n[metrics.shouting]\nfloor = 3.0\n[metrics.naming]"
    )
    return vlitqc.score(data, profile, report=False)


def use_everything(page: Page) -> None:
    """Open, move, press and point at all there is."""
    page.locator("details").evaluate_all("all => all.forEach((one) => { one.open = true; })")
    handle = page.get_by_role("slider").first
    handle.focus()
    for _ in range(5):
        page.keyboard.press("PageUp")
    page.locator("main button, .bar button").evaluate_all(
        "all => all.filter((b) => !/copy|svg|png/i.test(b.textContent)).forEach((b) => b.click())"
    )
    page.locator("dialog[open]").evaluate_all("all => all.forEach((one) => one.close())")
    for choice in page.locator("main select").all():
        for i in range(choice.locator("option").count()):
            choice.select_option(index=i)
    at_rest(page.locator("#map"))
    plane = page.locator("#map .map-plot")
    if plane.is_visible():
        plane.hover()
    page.locator("a, img, svg text").evaluate_all(
        "all => all.forEach((e) => e.dispatchEvent(new MouseEvent('mouseover', {bubbles: true})))"
    )
    # After all that the page put off by at most so long, by its own clock.
    page.evaluate("() => new Promise((done) => setTimeout(done, 320))")
    at_rest(page.locator("h1"))


def assert_nothing_ran(page: Page) -> None:
    assert page.evaluate("window.owned") is None
    assert page.locator("iframe, base, object, embed").count() == 0
    assert page.locator("script").count() == page.locator("body > script").count()
    wrong = page.evaluate(
        """() => [...document.querySelectorAll("*")].flatMap((e) => [...e.attributes]
            .filter((a) => /^on/i.test(a.name) || /^\\s*javascript:/i.test(a.value) && a.name !== "title"
              && !a.name.startsWith("aria-") && !a.name.startsWith("data-") && a.name !== "value")
            .map((a) => `${e.tagName} ${a.name}=${a.value.slice(0, 80)}`))"""
    )
    assert wrong == []


@pytest.mark.parametrize("mode", ["file", "folder", "serve"])
def test_nothing_of_it_runs_and_all_can_be_read(
    request: pytest.FixtureRequest, page_of: Callable[..., Page], hostile: Run, mode: str
) -> None:
    if mode == "serve":
        page = request.getfixturevalue("served_page_of")(hostile)
    else:
        page = page_of(hostile, folder=mode == "folder")
    page.on("dialog", lambda dialog: pytest.fail(f"a dialog says {dialog.message}"))
    use_everything(page)
    assert_nothing_ran(page)
    shown = page.locator("main").inner_text()
    for attack in ATTACKS[:3]:
        assert attack in shown
    assert "U+202E" in shown and "U+0000" in shown
    assert "{{7*7}}" in shown
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    expect(page.locator("#verdict")).to_be_visible()


def test_the_page_stays_small_and_quick(
    report_of: Callable[..., Path], page_of: Callable[..., Page], hostile: Run
) -> None:
    assert report_of(hostile).stat().st_size <= MAX_BYTES
    page = page_of(hostile)
    page.locator("details").evaluate_all("all => all.forEach((one) => { one.open = true; })")
    assert page.evaluate("document.querySelectorAll('*').length") < 60_000


def test_its_words_are_data_in_the_blocks(report_of: Callable[..., Path], hostile: Run) -> None:
    text = report_of(hostile).read_text(encoding="utf-8")
    meta = text.split('<script type="application/json" id="meta">')[1].split("</script>")[0]
    assert not set("<>&\u2028\u2029") & set(meta)
    assert json.loads(meta)["n"] > len(ATTACKS)
