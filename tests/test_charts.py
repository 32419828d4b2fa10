"""The charts: well-formed, within their frame, labels apart, hostile text as text, and two scales never on one axis."""

from __future__ import annotations

import random
import re
from typing import Any
from xml.etree import ElementTree

import pytest
from markupsafe import Markup

from vlitqc import profiles
from vlitqc_reports import charts
from vlitqc_reports.charts.axis import Scale, fitted, rounded, rows, ticks, width_of

HOSTILE = "</text><script>alert(1)</script>\"' onload='x' \u202egpj\x00 & <b>"
SVG = {"svg", "g", "rect", "line", "path", "circle", "text", "title"}
SETS = {"LLaVA": 30.7, "MIMIC-IT": 30.9, "authors' set": 33.2, "authors' set (QC)": 34.1}


def parsed(chart: Markup) -> ElementTree.Element:
    """The chart as XML, after a check that it holds shapes, classes and attributes and nothing that runs or styles."""
    root = ElementTree.fromstring(str(chart))
    assert root.attrib["aria-label"]
    assert root.attrib["role"] == "img"
    for element in root.iter():
        assert element.tag in SVG
        assert not [name for name in element.attrib if name.startswith("on") or name in {"style", "href"}]
    return root


def texts(root: ElementTree.Element) -> list[str]:
    return [element.text or "" for element in root.iter("text")]


def metric(**given: Any) -> dict[str, Any]:
    return {
        "name": "matching_degree", "title": "Matching degree", "value": 26.4, "interval": [23.1, 29.7],
        "unit": "100·cosine", "bounds": [-100.0, 100.0],
        "reference": {"low": 30.7, "high": 34.3, "source": "paper", "sets": SETS},
    } | given  # fmt: skip


ALL: dict[str, Any] = {
    "histogram": lambda t: charts.histogram(
        {"edges": [0, 1, 3], "counts": [1, 2]}, title=t, name=t, median=1, floor=-1
    ),
    "ranked": lambda t: charts.ranked([(t, 3), ("b", 1)], title=t, name=t, rest=t),
    "stacked": lambda t: charts.stacked([("k-scored", t, 3), ("k-partial", "b", 1)]),
    "curve": lambda t: charts.curve(
        [(0, 0), (5, 3), (10, 4)], title=t, across=t, up=t, limit=(t, 5.0), name=t
    ),
    "correlations": lambda t: charts.correlations(
        [t, "b", "c"], [[], [("0.5", 0.5, t)], [("–", None, t), ("−0.9", -0.9, "u")]], title=t, name=t
    ),
    "sizes": lambda t: charts.sizes(
        [100, 200, 400], [(0, 0, 1), (1, 1, 7)], lines=[224], title=t, words=t, name=t
    ),
    "own": lambda t: charts.against_paper(metric(name=t, title=t), {"name": t})[0],
    "printed": lambda t: charts.against_paper(
        metric(name=t, reference={"sets": {t: 1.0, "b": 2.0}}), {"name": t}
    )[1],
    "compared": lambda t: charts.against_paper(
        metric(name=t, reference={"sets": {t: 1.0, "b": 2.0}}), {"name": "paper"}
    )[0],
}


@pytest.mark.parametrize("draw", ALL.values(), ids=ALL)
def test_hostile_text_is_only_text(draw: Any) -> None:
    root = parsed(draw(HOSTILE))
    assert "\u202e" not in ElementTree.tostring(root, encoding="unicode")


@pytest.mark.parametrize("draw", ALL.values(), ids=ALL)
def test_every_shape_lies_in_the_frame(draw: Any) -> None:
    root = parsed(draw("a name"))
    _, _, width, height = map(float, root.attrib["viewBox"].split())
    for element in root.iter():
        for name, most in (
            ("x", width),
            ("x1", width),
            ("x2", width),
            ("cx", width),
            ("y", height),
            ("cy", height),
        ):
            if name in element.attrib:
                assert 0 <= float(element.attrib[name]) <= most, ElementTree.tostring(element)
        if element.tag == "rect":
            assert float(element.attrib["x"]) + float(element.attrib["width"]) <= width + 0.01


@pytest.mark.parametrize("seed", range(20))
def test_labels_never_run_into_each_other(seed: int) -> None:
    rng = random.Random(seed)
    labels = [(rng.uniform(0, 300), "name " * rng.randint(1, 4)) for _ in range(rng.randint(1, 12))]
    taken: dict[int, list[tuple[float, float]]] = {}
    for label in rows(labels, 0, 300):
        width = width_of(label.text)
        start = {"start": label.x, "middle": label.x - width / 2, "end": label.x - width}[label.anchor]
        assert start >= -0.01
        assert start + width <= 300.01
        for a, b in taken.setdefault(label.row, []):
            assert start + width <= a or b <= start
        taken[label.row].append((start, start + width))


def test_ticks_and_ends_are_round() -> None:
    assert ticks(0, 1, 5) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert ticks(-19, 66)[0] == 0.0
    assert -1e-9 < ticks(-0.3, 0.3)[len(ticks(-0.3, 0.3)) // 2] < 1e-9
    assert ticks(2, 2) == [2]
    assert rounded(0.0, 29.7) == (0.0, 30.0)
    assert rounded(5.0, 5.0)[0] <= 5.0 < rounded(5.0, 5.0)[1]


def test_a_scale_keeps_to_its_ends() -> None:
    x = Scale(10, 1000, 0, 200, log=True)
    assert [x(v) for v in (1, 10, 100, 1000, 1e9)] == pytest.approx([0, 0, 100, 200, 200])


def test_a_long_name_is_cut_to_its_room() -> None:
    assert fitted("short", 100) == "short"
    cut = fitted("漢字" * 500, 100)
    assert cut.endswith("…")
    assert width_of(cut) <= 100
    assert "[U+202E]" in fitted("a\u202eb", 300)


def test_a_histogram_tells_its_axis_to_scripts() -> None:
    root = parsed(
        charts.histogram({"edges": [0, 1, 2.5], "counts": [4, 2]}, title="t", floor=-2.0, name="match")
    )
    told = {
        name: float(root.attrib[f"data-{name}"]) for name in ("low", "high", "left", "right", "top", "base")
    }
    assert (told["low"], told["high"]) == (-2.0, 2.5)
    bars = [e for e in root.iter("rect") if e.get("class") == "c-bar"]
    assert [(b.attrib["data-from"], b.attrib["data-to"], b.attrib["data-n"]) for b in bars] == [
        ("0.0", "1.0", "4"),
        ("1.0", "2.5", "2"),
    ]
    scale = (told["right"] - told["left"]) / (told["high"] - told["low"])
    for bar in bars:
        at = told["left"] + (float(bar.attrib["data-from"]) - told["low"]) * scale
        assert float(bar.attrib["x"]) == pytest.approx(at, abs=1)
    assert float(bars[0].attrib["y"]) == pytest.approx(told["top"], abs=0.01)
    assert root.attrib["data-name"] == "match"


def test_bars_of_a_ranking_are_as_long_as_their_counts() -> None:
    root = parsed(charts.ranked([("a", 8), ("b", 2), ("3 others", 4)], title="t", rest="3 others"))
    widths = [float(e.attrib["width"]) for e in root.iter("rect") if e.get("class") in {"c-bar", "c-rest"}]
    assert widths[0] / widths[1] == pytest.approx(4, rel=0.01)
    assert [e.get("class") for e in root.iter("rect")].count("c-rest") == 1
    assert {"8", "57.1%", "a", "3 others"} <= set(texts(root))
    assert charts.ranked([("a", 0)], title="t") == ""


def test_another_profile_never_shares_an_axis_with_the_paper() -> None:
    own, paper = map(parsed, charts.against_paper(metric(), {"name": "lite"}))
    assert "lite profile" in texts(own)[0]
    assert "do not compare" in texts(paper)[0]
    assert not any("LLaVA" in words for words in texts(own))
    assert not list(paper.iter("rect"))
    assert "26.4" not in paper.attrib["aria-label"]
    assert {own.attrib["data-name"], paper.attrib["data-name"]} == {
        "matching_degree-value",
        "matching_degree-paper",
    }


def test_the_papers_profile_has_one_axis_with_every_data_set() -> None:
    (both,) = map(parsed, charts.against_paper(metric(value=31.0, interval=[30.0, 32.0]), {"name": "paper"}))
    (dot,) = both.iter("circle")
    diamonds = [float(re.findall(r"[\d.]+", e.attrib["d"])[0]) for e in both.iter("path")]
    assert len(diamonds) == 4
    assert sorted([*diamonds, float(dot.attrib["cx"])]).index(float(dot.attrib["cx"])) == 2
    assert {f"{name} {value}" for name, value in SETS.items()} <= set(texts(both))


def test_data_sets_of_one_value_share_a_label() -> None:
    sets = {"LLaVA": 9, "MIMIC-IT": 9, "authors' set": 10}
    paper = parsed(charts.against_paper(metric(reference={"sets": sets}), {"name": "lite"})[1])
    assert {"LLaVA, MIMIC-IT 9", "authors' set 10"} <= set(texts(paper))


def test_what_is_missing_is_not_drawn() -> None:
    assert charts.against_paper(metric(value=None), {"name": "lite"}) == ()
    assert len(charts.against_paper(metric(reference=None, interval=None), {"name": "paper"})) == 1
    ends = charts.against_paper(metric(reference={"low": 1.0, "high": 2.0, "source": "s"}), {"name": "lite"})[
        1
    ]
    assert {"lowest 1", "highest 2"} <= set(texts(parsed(ends)))
    assert charts.curve([(0, 0)], title="t", across="a", up="u") == ""


@pytest.mark.parametrize(
    ("value", "interval", "bounds"),
    [(0.0, [0.0, 0.0], [0, None]), (-3.0, [-4.0, -2.0], [None, None]), (7.0, [6.0, 8.0], [1, 10]), (1e-9, None, [0, 1]),
     (1e12, [0.0, 1e13], [0, None]), (100.0, [100.0, 100.0], [0, 100])],
)  # fmt: skip
def test_any_value_has_its_bar(
    value: float, interval: list[float] | None, bounds: list[float | None]
) -> None:
    (own,) = charts.against_paper(
        metric(value=value, interval=interval, bounds=bounds, reference=None), {"name": "x"}
    )
    root = parsed(own)
    track, bar = root.iter("rect")
    assert float(track.attrib["x"]) - 0.01 <= float(bar.attrib["x"])
    right = float(track.attrib["x"]) + float(track.attrib["width"])
    assert float(bar.attrib["x"]) + float(bar.attrib["width"]) <= right + 1.51


def test_a_bar_begins_at_zero_where_no_value_is_negative() -> None:
    (own,) = charts.against_paper(
        metric(value=20.0, interval=[20, 20], bounds=[1, None], reference=None), {"name": "x"}
    )
    track, bar = parsed(own).iter("rect")
    assert track.attrib["x"] == bar.attrib["x"]
    assert texts(parsed(own))[1] == "0"


@pytest.mark.parametrize("name", profiles.names())
def test_the_profiles_print_the_papers_data_sets(name: str) -> None:
    entries = profiles.load(name).metrics
    sets = {m: e.reference["sets"] for m, e in entries.items() if e.reference}
    assert sets["matching_degree"] == SETS
    assert sets["visual_complexity"] == {"original set": 48.9}
    assert sets["task_balance"]["authors' set (QC)"] == 12.3
    assert len(sets) == 13
    for metric_name, found in sets.items():
        reference = entries[metric_name].reference
        assert reference is not None
        assert all(reference["low"] <= value <= reference["high"] for value in found.values())


def test_correlations_print_every_number_once() -> None:
    cells = [[], [("0.72", 0.72, "a and b: 0.72")], [("(0.01)", 0.01, "x"), ("−0.45", -0.45, "y")]]
    root = parsed(charts.correlations(["a", "b", "c"], cells, title="t"))
    assert {"0.72", "(0.01)", "−0.45", "1 a", "2 b", "3 c"} <= set(texts(root))
    classes = [e.get("class") for e in root.iter("rect")]
    assert classes == ["c-cell c-plus-4", "c-cell c-plus-0", "c-cell c-minus-2"]
