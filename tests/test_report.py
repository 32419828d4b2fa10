"""The page: complete, escaped, self-contained, within its size, and honest about what is missing."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import math
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import PIL.Image
import pyarrow as pa
import pytest

from vlitqc.errors import InputError, UsageError
from vlitqc.types import Clip, FeatureCache, Image, Issue, Media, Origin, Record, Sample, Turn, Unreadable
from vlitqc_reports import charts, wording
from vlitqc_reports.html import render, write_report

RTL = "\u202e"
HOSTILE = (
    "<script>alert(1)</script></script></style></title><img src=x onerror=alert(2)>"
    "\"' onmouseover='alert(3)' <a href=\"javascript:alert(4)\">x</a> <iframe src=//evil.example></iframe>"
    f"{RTL}gpj.exe\u2066\x00\x1b[31m\ud800 --><!-- {{{{ 7*191 }}}} <base href=https://evil.example>"
)

VOID = {"meta", "link", "br", "input", "img", "base"}
KNOWN = {
    "html", "head", "meta", "title", "link", "style", "body", "a", "svg", "defs", "g", "rect", "circle", "path", "line",
    "text", "header", "footer", "nav", "main", "section", "article", "div", "span", "p", "h1", "h2", "h3", "h4",
    "h5", "ul", "ol", "li", "dl", "dt", "dd", "table", "caption", "thead", "tbody", "tr", "th", "td", "code", "pre",
    "details", "summary", "strong", "small", "i", "bdi", "time", "form", "label", "input", "select", "option",
    "script", "noscript", "br", "figure", "figcaption", "polyline", "polygon",
}  # fmt: skip
HIDDEN = "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
DATA = ("meta", "arrays", "thumbs")


def strict(text: str) -> Any:
    """JSON as a browser reads it: a number that is none is a fault."""

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    return json.loads(text, parse_constant=refuse)


class Page(HTMLParser):
    """Every element, attribute and text of a page, and its data; fails on elements that do not nest."""

    def __init__(self, source: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.comments: list[str] = []
        self.inline: dict[str, list[str]] = {"style": [], "script": [], **{name: [] for name in DATA}}
        self.texts: list[str] = []
        self._open: list[str] = []
        self.feed(source)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), (tag, names)
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(str(dict(attrs)["id"]) if tag == "script" and "type" in names else tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() in ((*DATA, tag) if tag == "script" else (tag,))

    def handle_comment(self, data: str) -> None:
        self.comments.append(data)

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] in self.inline:
            self.inline[self._open[-1]].append(data)
        else:
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.texts).split())

    @property
    def meta(self) -> dict[str, Any]:
        found: dict[str, Any] = strict("".join(self.inline["meta"]))
        return found

    @property
    def thumbs(self) -> dict[str, Any]:
        found: dict[str, Any] = strict("".join(self.inline["thumbs"]))
        return found

    def array(self, name: str) -> np.ndarray[Any, Any]:
        kind, offset, length = self.meta["array_types"][name]
        assert offset % 4 == 0
        data = gzip.decompress(base64.b64decode("".join(self.inline["arrays"]), validate=True))
        return np.frombuffer(data, f"<{kind}", length, offset)

    @property
    def cards(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = strict(self.array("cards").tobytes().decode("utf-8"))
        return found

    @property
    def rows(self) -> list[int]:
        return [card["row"] for card in self.cards]

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.elements if name == tag]


def metric(name: str, **given: Any) -> dict[str, Any]:
    """A metric of a scorecard; without ``values`` it has no score."""
    values = given.pop("values", None)
    base: dict[str, Any] = {
        "name": name, "title": name.replace("_", " ").capitalize(), "principle": "correctness", "level": "sample",
        "summary": "what it says", "unit": "", "bounds": [0, None], "higher_is_better": True,
        "reduction": "mean over turns", "version": "1", "source": "section 4.1", "value": None,
        "reason": "no judge is configured", "interval": None, "n_scored": 0, "n_total": 4, "reasons": {},
        "quantiles": None, "histogram": None, "parts": {}, "details": {}, "floor": None, "reference": None,
    }  # fmt: skip
    if any(v is not None for v in values or ()):
        found = np.array([v for v in values if v is not None], float)
        counts, edges = np.histogram(found, bins=5)
        base |= {
            "value": float(found.mean()), "reason": None, "interval": [found.mean() - 0.5, found.mean() + 0.5],
            "n_scored": len(found), "n_total": len(values),
            "quantiles": {f"p{q}": float(np.percentile(found, q)) for q in (5, 25, 50, 75, 95)},
            "histogram": {"edges": edges.tolist(), "counts": counts.tolist()},
        }  # fmt: skip
    return base | given


@dataclass
class FakeRun:
    """The part of a run that a report reads."""

    scorecard: dict[str, Any]
    scores: pd.DataFrame
    issues: pd.DataFrame
    records: list[Record] = field(default_factory=list)
    picture: Callable[[Media], Image] = lambda media: Image(media.reference, None, "no such file")
    opened: list[int] = field(default_factory=list)
    path: Path = Path("/runs/data.vlitqc")
    cache: FeatureCache | None = None

    @property
    def place(self) -> str:
        return str(self.path)

    @property
    def issue_table(self) -> pa.Table:
        return pa.Table.from_pandas(self.issues, preserve_index=False)

    def table(self, columns: Sequence[str] | None = None) -> pa.Table:
        return pa.Table.from_pandas(self.scores[columns or self.scores.columns], preserve_index=False)

    def take(self, rows: Sequence[int]) -> pa.Table:
        return self.table().take(list(rows)) if len(rows) else self.table().slice(0, 0)

    def vectors(self, kind: str) -> str:
        return f"this run has no vectors of {kind}s"

    def clips(self, sample: Sample) -> list[Clip]:
        return [Clip(media.kind, media.reference, "not opened") for media in sample.clips]  # type: ignore[arg-type]

    def record(self, row: int) -> Record:
        self.opened.append(row)
        return self.records[row]

    def images(self, sample: Sample, *, late: bool = False) -> list[Image]:
        return [self.picture(media) for media in sample.images]


def make_run(
    values: list[float | None],
    *,
    text: str = "a dog",
    n_turns: int = 1,
    n_images: int = 1,
    profile: str = "lite",
    picture: Callable[[Media], Image] | None = None,
    **given: Any,
) -> FakeRun:
    """A run of ``len(values)`` records with one scored metric, ``match``, and one without a score."""
    n = len(values)
    origins = [Origin("data.jsonl", i, i + 1, 0, 1, "0" * 64) for i in range(n)]
    records: list[Record] = [
        Sample(
            f"id{i}",
            tuple(Turn(f"{text} q{t}", f"{text} r{t}") for t in range(n_turns)),
            tuple(Media("image", f"{i}-{j}.jpg") for j in range(n_images)),
            {},
            origins[i],
        )
        for i in range(n)
    ]
    scores = pd.DataFrame(
        {
            "row": range(n), "id": [f"id{i}" for i in range(n)], "file": "data.jsonl", "line": range(1, n + 1),
            "sha256": "0" * 64, "state": "scored", "n_turns": n_turns, "n_images": n_images, "task": "captioning",
            "match": values, "match_reason": [None if v is not None else "text-only" for v in values],
            "correctness": None, "correctness_reason": "no judge is configured",
        }
    )  # fmt: skip
    match = metric("match", values=values, **given)
    card = {
        "schema": "vlitqc-scorecard/1", "vlitqc": "0.1.0", "created": "2026-01-02T03:04:05+00:00",
        "command": "vlitqc score data.jsonl",
        "profile": {"name": profile, "title": "Lite", "summary": "small models", "adds": ""},
        "input": {
            "path": "/x/data.jsonl", "paths": ["/x/data.jsonl"], "format": "json", "sha256": "ab" * 32, "bytes": 1234,
            "notes": [], "others": {}, "image_root": "/x",
        },
        "counts": {"records": n, "scored": n, "partial": 0, "unreadable": 0},
        "verdict": {"level": "good", "headline": "None has a known defect.", "to_fix": []},
        "principles": [
            {"id": "readability", "title": "Readability", "metrics": []},
            {"id": "correctness", "title": "Correctness", "metrics": [match, metric("correctness")]},
        ],
        "issues": [], "models": [], "versions": {"numpy": "2.0"}, "seed": 7, "seconds": 61.0,
    }  # fmt: skip
    columns = ["kind", "severity", "detail", "file", "line", "row", "id"]
    run = FakeRun(card, scores, pd.DataFrame(columns=columns), records)
    if picture is not None:
        run.picture = picture
    return run


def noise(media: Media) -> Image:
    """A different picture of noise for every reference: the worst that JPEG can meet."""
    seed = int.from_bytes(hashlib.sha256(media.reference.encode()).digest()[:4], "big")
    pixels = np.random.default_rng(seed).integers(0, 256, (200, 240, 3), dtype=np.uint8)
    return Image(media.reference, pixels, None, f"{seed:x}", 2400, 2000, "JPEG", 99)


IN_TABLES = HOSTILE.replace("\ud800", "")
"""Tables are UTF-8 and cannot hold a lone surrogate; records read from JSON can."""


def poisoned(value: Any) -> Any:
    """The value with every text in it replaced by hostile text, except the words that steer the page."""
    if isinstance(value, str):
        return HOSTILE
    if isinstance(value, list | tuple):
        return [poisoned(v) for v in value]
    if isinstance(value, dict):
        kept = {"name", "level", "id", "principle"}
        return {k: v if k in kept else poisoned(v) for k, v in value.items()}
    return value


def hostile_run() -> FakeRun:
    run = make_run([1.0, 2.0, None, 4.0])
    card = run.scorecard
    match = card["principles"][1]["metrics"][0]
    match |= {
        "reasons": {HOSTILE: 1}, "parts": {HOSTILE: 0.5}, "floor": 1.5,
        "details": {HOSTILE: HOSTILE, "deep": {HOSTILE: [HOSTILE]}},
        "reference": {"low": 1.0, "high": 2.0, "source": HOSTILE},
    }  # fmt: skip
    card["verdict"]["to_fix"] = [{"title": "t", "detail": "d", "n": 1, "command": "c"}]
    card["issues"] = [{"kind": "k", "severity": "error", "n": 2, "examples": []}]
    card["models"] = [
        {
            "slot": "s",
            "kind": "k",
            "name": "n",
            "revision": "r",
            "sha256": "x",
            "licence": "l",
            "package": "p",
        }
    ]
    card["principles"].append(
        {
            "id": "task_diversity",
            "title": "t",
            "metrics": [
                metric("task_diversity", level="dataset", value=2.0, details={"tasks": {HOSTILE: 3}})
            ],
        }
    )
    composition = {
        "turns": {HOSTILE: 3}, "languages": {HOSTILE: 1}, "media_kinds": {HOSTILE: 1},
        "instruction_words": {"p50": 3.0, HOSTILE: 1.0}, "resolution": HOSTILE,
    }  # fmt: skip
    card["principles"].append(
        {
            "id": HOSTILE,
            "title": "t",
            "metrics": [metric("composition", level="dataset", value=2.0, details=composition)],
        }
    )
    card["versions"] = {HOSTILE: "1"}
    run.scorecard = poisoned(card)
    run.scorecard["issues"][0] |= {"kind": IN_TABLES, "severity": IN_TABLES}
    run.scorecard["models"][0]["name"] = HOSTILE
    run.scorecard["profile"]["name"] = HOSTILE
    run.issues = pd.DataFrame(
        [dict.fromkeys(("kind", "severity", "detail", "file", "id"), IN_TABLES) | {"line": 1, "row": 0}]
    )
    for column in ("id", "file", "task"):
        run.scores[column] = IN_TABLES
    run.scores["match_reason"] = [None, None, IN_TABLES, None]
    run.scores["duplicate_kind"] = IN_TABLES
    run.scores[f"extra {IN_TABLES}"] = IN_TABLES
    run.records = [
        Sample(
            HOSTILE,
            (Turn(HOSTILE, HOSTILE), Turn(HOSTILE * 5, HOSTILE * 5), Turn(HOSTILE, "")),
            (Media("image", HOSTILE), Media("image", "javascript:alert(1)"), Media("video", HOSTILE)),
            {HOSTILE: HOSTILE},
            Origin(HOSTILE, i, 1, 0, 1, "0" * 64),
        )
        for i in range(4)
    ]
    run.picture = lambda media: (
        noise(media)
        if media.reference.startswith("javascript")
        else Image(HOSTILE, None, HOSTILE, "", 0, 0, HOSTILE)
    )
    return run


def hash_source(text: str) -> str:
    return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"


def policy(page: Page) -> dict[str, str]:
    found = [a for a in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy"]
    assert len(found) == 1
    return dict(part.strip().split(" ", 1) for part in str(found[0]["content"]).split(";"))


@pytest.fixture(scope="module")
def hostile() -> tuple[str, Page]:
    source = render(hostile_run())
    return source, Page(source)


def test_hostile_text_adds_no_element(hostile: tuple[str, Page]) -> None:
    _, page = hostile
    assert {tag for tag, _ in page.elements} <= KNOWN
    assert page.comments == []
    assert len(page.all("style")) == 1
    assert [attrs for attrs in page.all("script") if "type" not in attrs] == [{}]
    assert [attrs.get("id") for attrs in page.all("script")] == [*DATA, None]
    assert "7*191" in page.text
    assert "1337" not in page.text


def test_hostile_text_adds_no_handler_style_or_address(hostile: tuple[str, Page]) -> None:
    _, page = hostile
    ids = {attrs["id"] for _, attrs in page.elements if "id" in attrs}
    addresses = {"src", "srcset", "srcdoc", "action", "formaction", "xlink:href"}
    for tag, attrs in page.elements:
        for name, value in attrs.items():
            assert re.fullmatch(r"[a-zA-Z][a-zA-Z0-9-]*", name), (tag, name)
            assert not name.startswith("on"), (tag, name)
            assert name not in {"style", *addresses}, (tag, name)
            if name == "href":
                target = str(value)
                assert target == "data:," or target.startswith("#"), (tag, target)
                assert not target.startswith("#") or target[1:] in ids, target


def test_hostile_text_is_there_to_read(hostile: tuple[str, Page]) -> None:
    _, page = hostile
    assert page.text.count("<script>alert(1)</script>") > 20
    assert "onerror=alert(2)" in page.text
    assert str(page.cards).count("<script>alert(1)</script>") > 20


def test_nothing_ends_a_block_of_data(hostile: tuple[str, Page]) -> None:
    _, page = hostile
    for name in ("meta", "thumbs"):
        assert not re.search("[<>&\u2028\u2029]", "".join(page.inline[name]))
    assert re.fullmatch("[A-Za-z0-9+/=]+", "".join(page.inline["arrays"]))
    assert "<script>" in page.meta["metrics"][0]["title"]


def test_no_hidden_character_reaches_the_page(hostile: tuple[str, Page]) -> None:
    source, page = hostile
    assert not re.search(HIDDEN, source)
    for badge in ("U+202E", "U+2066", "U+0000", "U+001B", "U+D800"):
        assert f'<span class="ctl">{badge}</span>' in source
        assert badge in page.text
    assert not [a for _, a in page.elements for v in a.values() if v and RTL in v]


def test_the_script_gets_hidden_characters_by_name(hostile: tuple[str, Page]) -> None:
    _, page = hostile

    def texts(value: Any) -> list[str]:
        if isinstance(value, dict):
            return [text for pair in value.items() for part in pair for text in texts(part)]
        if isinstance(value, list):
            return [text for part in value for text in texts(part)]
        return [value] if isinstance(value, str) else []

    found = texts([page.cards, page.meta])
    assert sum("\x01U+202E\x02" in text for text in found) > 20
    for text in found:
        assert not re.search(HIDDEN, re.sub("\x01(U\\+[0-9A-F]+( ×\\d+)?)\x02", "", text)), text


def test_ids_are_unique_and_labels_point_to_them(hostile: tuple[str, Page]) -> None:
    for page in (hostile[1], Page(render(make_run([1.0, 2.0])))):
        ids = [attrs["id"] for _, attrs in page.elements if "id" in attrs]
        assert len(ids) == len(set(ids))
        named = [attrs["aria-labelledby"] for _, attrs in page.elements if "aria-labelledby" in attrs]
        assert named
        assert set(named) <= set(ids)


def test_policy_allows_exactly_our_style_and_script(hostile: tuple[str, Page]) -> None:
    _, page = hostile
    rules = policy(page)
    assert rules["default-src"] == "'none'"
    assert rules["img-src"] == "data:"
    assert set(rules) == {"default-src", "style-src", "script-src", "img-src", "base-uri", "form-action"}
    assert rules["base-uri"] == rules["form-action"] == "'none'"
    assert rules["style-src"] == hash_source("".join(page.inline["style"]))
    assert rules["script-src"] == hash_source("".join(page.inline["script"]))
    assert "unsafe" not in str(rules)
    assert "url(" not in "".join(page.inline["style"])
    assert "@import" not in "".join(page.inline["style"])


def test_policy_comes_before_anything_it_governs(hostile: tuple[str, Page]) -> None:
    tags = [(tag, attrs.get("http-equiv")) for tag, attrs in hostile[1].elements]
    at = tags.index(("meta", "Content-Security-Policy"))
    assert at < min(i for i, (tag, _) in enumerate(tags) if tag in {"style", "script", "link", "title"})


def test_missing_scores_show_their_reason() -> None:
    run = make_run([1.0, None, 3.0])
    run.scorecard["principles"][1]["metrics"][1]["reasons"] = {"no judge is configured": 3}
    page = Page(render(run))
    assert "is not scored: no judge is configured" in page.text
    assert "2 of 3 scored" in page.text
    assert "nan" not in page.text.lower().split()
    reasons = {card["row"]: {line[0]: line[3] for line in card["scores"]} for card in page.cards}
    assert reasons[1] == {"match": "text-only", "correctness": "no judge is configured"}
    assert reasons[0]["match"] is None


def test_a_principle_without_metrics_says_so() -> None:
    assert "No metric of this run serves this principle." in Page(render(make_run([1.0]))).text


@pytest.mark.parametrize(
    ("better", "worst"),
    [(True, [0, 1, 2, 3]), (False, [19, 18, 17, 16]), (None, [0, 19])],
)
def test_the_worst_samples_come_first(better: bool | None, worst: list[int]) -> None:
    run = make_run([float(i) for i in range(20)], higher_is_better=better)
    page = Page(render(run))
    assert sorted(page.rows) == list(range(20))
    assert [row for row in page.rows if row in worst] == worst
    assert sorted(run.opened) == list(range(20))


def test_ties_and_few_samples_have_one_card_each() -> None:
    assert sorted(Page(render(make_run([2.0] * 3, higher_is_better=None))).rows) == [0, 1, 2]


def test_faults_take_the_place_of_pictures() -> None:
    page = Page(render(make_run([1.0])))
    assert page.cards[0]["pictures"][0]["fault"] == "no such file"
    assert page.thumbs == {}


def test_equal_thumbnails_are_stored_once() -> None:
    pixels = np.zeros((40, 60, 3), np.uint8)
    run = make_run([1.0, 2.0, 3.0], picture=lambda m: Image(m.reference, pixels, None, "s", 60, 40, "PNG", 9))
    page = Page(render(run))
    ((key, (width, height, jpeg)),) = page.thumbs.items()
    assert {card["pictures"][0]["thumb"] for card in page.cards} == {key}
    assert (width, height) == (60, 40)
    assert base64.b64decode(jpeg).startswith(b"\xff\xd8\xff")


def test_unreadable_records_and_a_lost_input_are_told() -> None:
    run = make_run([1.0, 2.0])
    origin = Origin("data.jsonl", 0, 1, 0, 1, "0" * 64)
    run.records[0] = Unreadable(
        origin, (Issue("malformed_record", "error", "ends in mid-string", "d", 1, 0),)
    )
    assert {card["row"]: card["fault"] for card in Page(render(run)).cards} == {
        0: "ends in mid-string",
        1: None,
    }

    def gone(row: int) -> Record:
        raise InputError(f"{run.scores['file'][row]} is no longer there; it had {row}")

    run.record = gone  # type: ignore[method-assign]
    source = render(run)
    told = "the record could not be read again: data.jsonl is no longer there"
    assert {card["fault"] for card in Page(source).cards} == {told}
    assert (
        "The content of 2 of 2 cards could not be read again: data.jsonl is no longer there; it had "
        in source
    )
    assert "(and 1 other reason)" in source


def test_unreadable_records_are_counted_beside_the_others() -> None:
    run = make_run([1.0, None, 3.0, 4.0])
    run.scores.loc[1, "state"] = "unreadable"
    page = Page(render(run))
    assert (page.meta["n"], page.meta["n_unreadable"]) == (3, 1)
    assert page.array("rows").tolist() == [0, 2, 3]
    assert sorted(page.rows) == [0, 2, 3]
    assert len(page.array("m0")) == len(page.array("task")) == 3
    assert "rows" not in Page(render(make_run([1.0, 2.0]))).meta["array_types"]


def test_the_data_says_where_the_commands_lead() -> None:
    run = make_run([1.0, 2.0])
    assert Page(render(run)).meta["command"] == "vlitqc filter /runs/data.vlitqc"
    run.path = Path("/runs/it's mine")
    assert Page(render(run)).meta["command"] == "vlitqc filter '/runs/it'\"'\"'s mine'"
    run.path = Path(f"/runs/a'b\\{RTL}\n")
    command = Page(render(run)).meta["command"]
    assert command == "vlitqc filter $'/runs/a\\'b\\\\\\U0000202e\\U0000000a'"
    said = subprocess.run(
        ["bash", "-c", f"printf %s {command.split(' ', 2)[2]}"], capture_output=True, check=True
    )
    assert said.stdout.decode() == str(run.path)


def test_every_metric_has_its_part_and_its_numbers() -> None:
    run = make_run([1.0, 2.5, None, 4.0], floor=2.0)
    page = Page(render(run))
    (found,) = page.meta["metrics"]
    ids = {attrs["id"] for _, attrs in page.elements if "id" in attrs}
    assert found["anchor"] in ids
    assert (found["name"], found["floor"], found["n_scored"]) == ("match", 2.0, 3)
    assert found["below"][found["stops"].index("2")] == 1
    assert found["above"][found["stops"].index("2")] == 2
    assert sum(found["histogram"]["counts"]) == 3
    assert page.meta["tasks"] == [{"label": "captioning", "n": 4}]


def test_a_metric_of_nothing_but_infinities_is_no_metric_of_the_page() -> None:
    run = make_run([1.0, 2.0, 3.0])
    run.scores["correctness"] = [math.inf, -math.inf, math.inf]
    page = Page(render(run))
    assert [m["name"] for m in page.meta["metrics"]] == ["match"]
    assert len(page.cards) == 3


def test_numbers_as_large_as_can_be_have_a_page() -> None:
    largest = sys.float_info.max
    run = make_run([1.0, 2.0, 3.0, 4.0])
    run.scores["match"] = [-largest, 0.0, 1e308, largest]
    run.scorecard["principles"][1]["metrics"][0]["histogram"] = None
    found = Page(render(run)).meta["metrics"][0]["histogram"]
    assert (found["edges"][0], found["edges"][-1]) == (-largest, largest)
    assert sum(found["counts"]) == 4


def test_rare_tasks_are_counted_together() -> None:
    run = make_run([1.0] * 600)
    run.scores["task"] = [f"t{i:03}" if i < 300 else "t000" for i in range(599)] + [None]
    page = Page(render(run))
    tasks = page.meta["tasks"]
    assert len(tasks) == 254
    assert tasks[0] == {"label": "t000", "n": 300}
    assert tasks[-1] == {"label": "other tasks", "n": 300 - 253}
    codes = page.array("task")
    assert np.bincount(codes, minlength=256).tolist() == [t["n"] for t in tasks] + [0, 1]


def test_a_run_without_tasks_scores_or_readable_records_has_a_page() -> None:
    run = make_run([None, None])
    del run.scores["task"]
    page = Page(render(run))
    assert page.meta["tasks"] == page.meta["metrics"] == []
    assert sorted(page.rows) == [0, 1]
    run.scores["state"] = "unreadable"
    page = Page(render(run))
    assert (page.meta["n"], page.meta["n_unreadable"], page.cards) == (0, 2, [])


def test_a_server_gets_a_page_without_cards_that_may_ask_it() -> None:
    page = Page(render(make_run([1.0, 2.0], picture=noise), mode="serve"))
    assert page.meta["mode"] == "serve"
    assert page.thumbs == {}
    assert "cards" not in page.meta["array_types"]
    assert policy(page)["connect-src"] == "'self'"
    assert policy(page)["img-src"] == "data: 'self'"


def test_size_bound_drops_thumbnails_and_says_so() -> None:
    values: list[float | None] = [float(i) for i in range(15)]
    run = make_run(values, n_images=4, picture=noise)
    full = render(run, max_bytes=10_000_000)
    n_full = len(Page(full).thumbs)
    assert n_full == 60
    assert "left out" not in Page(full).text
    bare = render(make_run(values, n_images=4), max_bytes=10_000_000)
    bound = len(bare.encode()) + (len(full) - len(bare)) // 2
    small = render(run, max_bytes=bound)
    page = Page(small)
    assert bound - 30_000 < len(small.encode()) <= bound
    assert 0 < len(page.thumbs) < n_full
    assert f"{n_full - len(page.thumbs)} of {n_full} thumbnails were left out" in page.text
    # Every sample keeps its first picture before any keeps its second.
    for k in range(1, 4):
        if any(card["pictures"][k]["thumb"] in page.thumbs for card in page.cards):
            assert all(card["pictures"][k - 1]["thumb"] in page.thumbs for card in page.cards)


def test_size_bound_holds_for_endless_text() -> None:
    values: list[float | None] = [float(i) for i in range(20)]
    run = make_run(values, picture=noise)
    random = np.random.default_rng(0)
    for i, record in enumerate(run.records):
        assert isinstance(record, Sample)
        text = RTL + "&<" + base64.b64encode(random.bytes(12_000)).decode()
        run.records[i] = replace(record, turns=(Turn(text, text),) * 30)
    run.scorecard["principles"][1]["metrics"][0]["details"] = {
        "x" * 100_000: "y" * 1_000_000,
        "l": ["z"] * 100_000,
    }
    run.scorecard["command"] = "c" * 1_000_000
    least = len(render(make_run([1.0])).encode())
    for bound in (least + 300_000, least + 150_000, least + 60_000):
        source = render(run, max_bytes=bound)
        assert len(source.encode()) <= bound
    assert "Conversations are cut at" in Page(source).text
    assert all(card["turns"] for card in Page(source).cards)


def test_very_many_records_are_drawn_and_counts_of_one_threshold_stay_exact() -> None:
    values = np.random.default_rng(0).normal(size=60_000).tolist()
    least = len(render(make_run([1.0])).encode())
    run = make_run([0.0])
    run.scores = pd.DataFrame({"row": range(60_000), "id": "", "file": "d", "line": 1, "state": "scored"})
    run.scores["match"] = values
    run.records = run.records * 60_000
    whole, part = (Page(render(run, max_bytes=bound)) for bound in (10_000_000, least + 150_000))
    assert whole.meta["stored"] == {"n": 60_000, "exact": True}
    stored = part.meta["stored"]
    assert not stored["exact"]
    assert 5_000 < stored["n"] < 59_000
    assert "drawn at random" in part.text
    assert part.meta["metrics"] == whole.meta["metrics"]
    rows = part.array("rows")
    assert (np.diff(rows.astype(np.int64)) > 0).all()
    assert (part.array("m0") == whole.array("m0")[rows]).all()
    assert abs(float(rows.mean()) / 30_000 - 1) < 0.02
    assert (part.array("rows") == Page(render(run, max_bytes=least + 150_000)).array("rows")).all()


def test_a_bound_that_cannot_hold_is_refused(tmp_path: Path) -> None:
    for options in ({}, {"folder": True}):
        with pytest.raises(UsageError, match="needs at least"):
            write_report(make_run([1.0]), tmp_path / "report.html", max_bytes=1_000, **options)
        assert list(tmp_path.iterdir()) == []


def test_writes_atomically_and_returns_the_path(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "report.html"
    assert write_report(make_run([1.0, 2.0]), out) == out
    assert out.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert [p.name for p in out.parent.iterdir()] == ["report.html"]
    before = out.read_bytes()
    with pytest.raises(UsageError):
        write_report(make_run([1.0]), out, max_bytes=10)
    assert out.read_bytes() == before


def test_the_same_run_gives_the_same_page() -> None:
    assert render(make_run([1.0, 2.0], picture=noise)) == render(make_run([1.0, 2.0], picture=noise))


# ---------------------------------------------------------------- a folder


def test_a_folder_holds_larger_pictures_beside_its_page(tmp_path: Path) -> None:
    out = tmp_path / "report"
    run = make_run([1.0, 2.0], n_images=2, picture=noise)
    assert write_report(run, out, folder=True) == out / "index.html"
    page = Page((out / "index.html").read_text(encoding="utf-8"))
    assert page.meta["mode"] == "folder"
    assert {f"{key}.jpg" for key in page.thumbs} == {p.name for p in (out / "pictures").iterdir()}
    assert len(page.thumbs) == 4
    for key, size in page.thumbs.items():
        with PIL.Image.open(out / "pictures" / f"{key}.jpg") as picture:
            assert list(picture.size) == size == [240, 200]
    assert policy(page)["img-src"] == "data: 'self'"
    assert "connect-src" not in policy(page)
    assert [p.name for p in tmp_path.iterdir()] == ["report"]


def test_a_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    out = tmp_path / "report"
    write_report(make_run([1.0, 2.0], picture=noise), out, folder=True)
    write_report(make_run([1.0], picture=noise), out, folder=True)
    assert len(list((out / "pictures").iterdir())) == 1
    before = (out / "index.html").read_bytes()
    with pytest.raises(UsageError):
        write_report(make_run([1.0, 2.0], picture=noise), out, folder=True, max_bytes=10)
    assert (out / "index.html").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["report"]


def test_a_page_stays_whole_where_the_next_one_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "report"
    write_report(make_run([1.0, 2.0], picture=noise), out, folder=True)
    page = (out / "index.html").read_bytes()
    pictures = {path.name for path in (out / "pictures").iterdir()}
    move = Path.replace

    def fail(self: Path, target: Path) -> Path:
        if target.name == "index.html":
            raise OSError("the disk is gone")
        return move(self, target)

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="the disk is gone"):
        write_report(make_run([1.0], n_images=3, picture=noise), out, folder=True)
    assert (out / "index.html").read_bytes() == page
    assert pictures <= {path.name for path in (out / "pictures").iterdir()}
    monkeypatch.undo()
    write_report(make_run([1.0, 2.0], picture=noise), out, folder=True)
    assert {path.name for path in (out / "pictures").iterdir()} == pictures
    assert [p.name for p in tmp_path.iterdir()] == ["report"]


@pytest.mark.parametrize(
    ("kind", "cause"),
    [
        ("file", "report is a file where a report has a folder"),
        ("a stranger beside", "notes.txt is no part of a report of vlitqc"),
        ("a stranger within", "holiday.jpg is no part of a report of vlitqc"),
        ("only pictures", "index.html is no page of vlitqc"),
        ("link", "report is a link where"),
        ("dangling link", "report is a link where"),
        ("pictures is a file", "pictures is a file where a report has a folder"),
        ("pictures is a link", "pictures is a link where a report has a folder"),
        ("page is a folder", "index.html is a folder where a report has a file"),
    ],
)
def test_a_folder_of_others_is_left_alone(tmp_path: Path, kind: str, cause: str) -> None:
    out = tmp_path / "report"
    if kind == "file":
        out.write_text("mine")
    elif kind == "dangling link":
        out.symlink_to(tmp_path / "nowhere")
    elif kind == "page is a folder":
        (out / "index.html").mkdir(parents=True)
    else:
        write_report(make_run([1.0], picture=noise), out, folder=True)
    if kind.startswith("pictures is a "):
        (out / "pictures").rename(tmp_path / "elsewhere")
        if kind.endswith("file"):
            (out / "pictures").write_text("mine")
        else:
            (out / "pictures").symlink_to(tmp_path / "elsewhere")
    if kind == "a stranger beside":
        (out / "notes.txt").write_text("mine")
    if kind == "a stranger within":
        (out / "pictures" / "holiday.jpg").write_text("mine")
    if kind == "only pictures":
        (out / "index.html").write_text("<!doctype html><title>mine</title>")
    if kind == "link":
        out.rename(tmp_path / "real")
        out.symlink_to(tmp_path / "real")
    before = sorted(p.relative_to(tmp_path) for p in tmp_path.rglob("*"))
    with pytest.raises(UsageError, match=f"{cause}.*; name another folder with --out DIR"):
        write_report(make_run([1.0, 2.0]), out, folder=True)
    assert sorted(p.relative_to(tmp_path) for p in tmp_path.rglob("*")) == before


def test_an_empty_folder_is_filled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "report").mkdir()
    monkeypatch.chdir(tmp_path / "report")
    for _ in range(2):
        assert write_report(make_run([1.0], picture=noise), Path(), folder=True).is_file()
        assert {path.name for path in Path.cwd().iterdir()} == {"index.html", "pictures"}


# ---------------------------------------------------------------- parts


def test_the_papers_range_is_drawn_only_in_its_own_profile() -> None:
    reference = {"low": 30.7, "high": 34.3, "source": "Table 3"}
    values: list[float | None] = [20.0, 30.0, 33.0, 40.0]
    lite = render(make_run(values, reference=reference))
    paper = render(make_run(values, reference=reference, profile="paper"))
    assert 'class="c-band"' not in lite
    assert "do not compare the two numbers" in lite
    assert 'class="c-band"' in paper
    assert "30.7–34.3" in lite
    assert "30.7–34.3" in paper


def test_floor_is_drawn_and_counted() -> None:
    source = render(make_run([1.0, 2.0, 3.0, 4.0], floor=2.0))
    assert 'class="c-floor"' in source
    assert "1 of 4 scored samples (25%) is below it" in Page(source).text


def test_issues_list_some_places_of_many() -> None:
    run = make_run([1.0])
    rows = [
        {
            "kind": "small_image",
            "severity": "note",
            "detail": f"d{i}",
            "file": "f.json",
            "line": i,
            "row": i,
            "id": "",
        }
        for i in range(500)
    ]
    run.issues = pd.DataFrame(rows)
    run.scorecard["issues"] = [{"kind": "small_image", "severity": "note", "n": 500, "examples": []}]
    page = Page(render(run))
    assert "19 more of 499" in page.text
    assert "f.json:19" in page.text
    assert "f.json:20" not in page.text


def test_histogram_of_nothing_is_nothing() -> None:
    empty, flat, torn = ([0, 1], [0]), ([0, 0], [3]), ([0], [1])
    assert charts.histogram(None, title="t") == ""
    for edges, counts in (empty, flat, torn):
        data = {"edges": edges, "counts": counts}
        assert charts.histogram(data, title="t") == ""


def test_histogram_bars_stand_for_the_counts() -> None:
    drawn = charts.histogram({"edges": [0, 1, 2], "counts": [1, 2]}, title="t", floor=-1.0)
    bars = [
        {k: float(v) for k, v in re.findall(r' (x|width|height)="([\d.]+)"', tag)}
        for tag in re.findall(r'<rect class="c-bar"[^>]*>', drawn)
    ]
    assert len(bars) == 2
    assert bars[1]["height"] == pytest.approx(2 * bars[0]["height"], rel=1e-3)
    floor = re.search(r'<line class="c-floor" x1="([\d.]+)"', drawn)
    assert floor
    assert float(floor[1]) < bars[0]["x"]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0, "0"), (0.8461, "0.846"), (30.71, "30.7"), (1234567, "1,234,567"), (-2.5, "−2.50"), (-0.0, "0"),
        (1.5e-7, "1.50e-07"), (float("inf"), "∞"), (12.0, "12"), (1234.5, "1,234"),
    ],
)  # fmt: skip
def test_numbers(value: float, expected: str) -> None:
    assert wording.number(value) == expected


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (30.12, 31.33, "30.1–31.3"), (38, 49, "38–49"), (-0.31, -0.12, "−0.31 to −0.12"), (0.84, 0.84, "0.84"),
        (5.0, 7.0, "5–7"),
    ],
)  # fmt: skip
def test_intervals(low: float, high: float, expected: str) -> None:
    assert wording.span(low, high) == expected


@pytest.mark.parametrize(
    ("part", "whole", "expected"),
    [
        (0, 5, "0%"),
        (5, 5, "100%"),
        (1, 100_000, "<0.1%"),
        (99_999, 100_000, ">99.9%"),
        (1, 8, "12.5%"),
        (0, 0, "–"),
    ],
)
def test_shares(part: float, whole: float, expected: str) -> None:
    assert wording.share(part, whole) == expected


def test_text_keeps_its_lines_and_scripts() -> None:
    kept = "a\tb\nc é 漢字 שלום 👩\u200d👩\u200d👧"
    assert wording.visible(kept) == kept
    assert wording.plain(kept) == kept
    assert wording.visible("a\r\nb") == "a\nb"
    assert wording.visible("\u202e" * 9) == '<span class="ctl">U+202E ×9</span>'
    assert wording.plain("<\u202e") == "<[U+202E]"
    assert wording.marked("a\u202e\u202e\x01<\r\n") == "a\x01U+202E ×2\x02\x01U+0001\x02<\n"
    assert wording.clip("x" * 12, 10) == "x" * 10 + "… [2 more characters]"


def test_commands_name_the_run_where_it_is_and_no_option() -> None:
    run = make_run([0.1, None, 3.0])
    option = "--drop-below match=0.2"
    run.scorecard["verdict"]["to_fix"] = [
        {"title": "low match", "detail": "", "n": 1, "command": f"vlitqc filter /once/here.run {option}"},
        {"title": "unreadable file", "detail": "", "n": 1, "command": None},
    ]
    run.path = Path("-odd name")
    page = Page(render(run))
    assert f"vlitqc filter './-odd name' {option}" in page.text
    assert page.meta["command"] == "vlitqc filter './-odd name'"
    assert "/once/here.run" not in page.text


@pytest.mark.parametrize(("n", "words"), [(9, "and 1 other reason "), (10, "and 2 other reasons ")])
def test_reasons_beyond_the_first_are_counted(n: int, words: str) -> None:
    run = make_run([1.0, None, 3.0])
    run.scorecard["principles"][1]["metrics"][0]["reasons"] = {f"reason {k}": 1 for k in range(n)}
    assert words in Page(render(run)).text
