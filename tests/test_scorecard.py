"""``scorecard.json``: it keeps its published schema, and its numbers are those of the table of scores."""

from __future__ import annotations

import copy
import hashlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from rich.console import Console

import vlitqc
from vlitqc import console
from vlitqc.engine.run import Run
from vlitqc.engine.scorecard import EXAMPLES, SEVERITIES, schema
from vlitqc.types import Principle

Make = Callable[..., Path]


def strict(path: Path) -> Any:
    """JSON as other languages read it: no NaN, no Infinity."""

    def refuse(word: str) -> Any:
        raise AssertionError(f"{word} is no JSON")

    return json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)


def check(run: Run) -> Any:
    card = strict(run.path / "scorecard.json")
    jsonschema.validate(card, schema(), format_checker=jsonschema.FormatChecker())
    strict(run.path / "run.json")
    return card


@pytest.fixture
def card(messy: Path, tiny: str) -> Any:
    """The scorecard of the messy data set."""
    return check(vlitqc.score(messy, tiny, report=False))


def metrics(card: Any) -> dict[str, Any]:
    return {m["name"]: m for p in card["principles"] for m in p["metrics"]}


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(schema())


def test_a_run_over_every_sort_of_record_keeps_the_schema(card: Any) -> None:
    assert [p["id"] for p in card["principles"]] == list(Principle)
    assert set(metrics(card)) == {"image_readability", "correctness", "composition"}


@pytest.mark.parametrize("lines", [[b"{}", b"{broken"], None])
def test_runs_with_null_metrics_keep_the_schema(make_data: Make, texts: str, lines: Any) -> None:
    card = check(vlitqc.score(make_data(1, lines=lines), texts, report=False))
    assert metrics(card)["correctness"]["value"] is None


@pytest.mark.parametrize(
    "spoil",
    [
        lambda c: c["principles"][0]["metrics"][0].update(reason="both a value and a reason"),
        lambda c: c["principles"][0]["metrics"][0].update(value=None),
        lambda c: c["principles"][0]["metrics"][0].pop("n_scored"),
        lambda c: c["counts"].update(lost=3),
        lambda c: c["verdict"].update(level="excellent"),
        lambda c: c.pop("seed"),
        lambda c: c.update(schema="vlitqc-scorecard/2"),
    ],
)
def test_the_schema_refuses_what_is_wrong(card: Any, spoil: Callable[[Any], Any]) -> None:
    broken = copy.deepcopy(card)
    spoil(broken)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(broken, schema())


def test_counts_and_reasons_add_up(card: Any) -> None:
    counts = card["counts"]
    assert counts["scored"] + counts["partial"] + counts["unreadable"] == counts["records"]
    for metric in metrics(card).values():
        assert (metric["value"] is None) == (metric["n_scored"] == 0)
        assert metric["n_total"] == counts["records"] - counts["unreadable"]
        if metric["level"] == "sample":
            assert metric["n_scored"] + sum(metric["reasons"].values()) == metric["n_total"]
    assert metrics(card)["image_readability"]["reasons"] == {"image unreadable": 5, "text-only": 1}


def test_the_numbers_are_those_of_the_table(make_data: Make, texts: str) -> None:
    run = vlitqc.score(make_data(30), texts, report=False)
    for name in ("image_readability", "text_readability"):
        metric, values = run.metrics()[name], run.scores[name].to_numpy()
        assert metric["value"] == pytest.approx(values.mean())
        low, high = metric["interval"]
        assert low <= metric["value"] <= high
        assert list(metric["quantiles"].values()) == pytest.approx(
            np.quantile(values, [0.05, 0.25, 0.5, 0.75, 0.95]).tolist()
        )
        histogram = metric["histogram"]
        expected, _ = np.histogram(values, bins=histogram["edges"])
        assert histogram["counts"] == expected.tolist()
        assert sum(histogram["counts"]) == 30
        for part, mean in metric["parts"].items():
            assert mean == pytest.approx(run.scores[f"{name}_{part}"].mean())
    assert run.metrics()["image_readability"]["interval"][0] < run.metrics()["image_readability"]["value"]


def test_issues_come_gravest_first_with_their_places(card: Any, messy: Path) -> None:
    issues = card["issues"]
    ranks = [(SEVERITIES.index(i["severity"]), -i["n"]) for i in issues]
    assert ranks == sorted(ranks)
    malformed = next(i for i in issues if i["kind"] == "malformed_record")
    assert (malformed["n"], [e["line"] for e in malformed["examples"]]) == (3, [2, 13, 14])
    assert all(e["file"] == str(messy) for i in issues for e in i["examples"])
    assert all(len(i["examples"]) <= EXAMPLES for i in issues)


def test_the_verdict_counts_each_suspect_record_once(card: Any) -> None:
    # Three unreadable, five without their picture, one empty turn.
    assert card["verdict"]["suspect"] == 9
    assert card["verdict"]["level"] == "poor"


def test_records_below_the_floor_are_suspect(make_data: Make, record: Any, texts: str) -> None:
    salad = record(1)
    salad["conversations"][1]["value"] = "zq the of xv a kjw to and brrt in of of the a xkcd"
    run = vlitqc.score(make_data(lines=[record(3), salad, record(4)]), texts, report=False)
    below = run.scores["text_readability"] < 0
    assert below.tolist() == [False, True, False]
    assert run.scorecard["verdict"]["suspect"] == 1
    (problem,) = run.scorecard["verdict"]["to_fix"]
    assert (problem["title"], problem["n"]) == ("low text readability", 1)
    assert "--drop-below text_readability=0" in problem["command"]


def test_it_says_how_to_reproduce(messy: Path, texts: str) -> None:
    card = check(vlitqc.score(messy, texts, report=False))
    assert card["input"]["sha256"] == hashlib.sha256(messy.read_bytes()).hexdigest()
    assert card["input"]["bytes"] == messy.stat().st_size
    assert card["input"]["image_root"] == str(messy.parent)
    assert card["profile"]["sha256"] == hashlib.sha256(Path(texts).read_bytes()).hexdigest()
    (model,) = card["models"]
    assert (model["slot"], model["kind"], model["licence"]) == ("bigrams", "LanguageModel", "MIT")
    assert model["package"] == "wordsegment"
    assert card["versions"]["vlitqc"] == card["vlitqc"]


# ---------------------------------------------------------------- as it is printed


@pytest.mark.parametrize("width", [80, 100, 120])
@pytest.mark.parametrize("n", [122, 1_234_567])
def test_every_metric_keeps_its_value_and_its_reason_readable(card: Any, width: int, n: int) -> None:
    reason = "no object detector in this profile, and no box annotations in the record (and 1 other reason)"
    (held,) = (m for m in metrics(card).values() if m["name"] == "composition")
    made = held | {
        "n_scored": n,
        "n_total": n,
        "interval": [-1.234e-5, 9.876e-5],
        "unit": "elements per task",
    }
    for at, principle in enumerate(card["principles"]):
        name = "visual_semantic_diversity"[at:]
        principle["metrics"] = [
            made | {"name": name, "value": -1.234e-5, "reason": None},
            made | {"name": f"{name}_2", "value": None, "interval": None, "reason": reason},
        ]
    lines = printed(card, width).splitlines()
    assert max(map(len, lines)) <= width
    for principle in card["principles"]:
        (value,) = (line for line in lines if f" {principle['metrics'][0]['name']} " in line)
        assert " -1.234e-05 " in value and f" {n:,}/{n:,} " in value
        assert principle["title"] in value or principle["title"] in [line.strip() for line in lines]
    assert ("95% interval" in "".join(lines)) == (width == 120 and n == 122)
    start = lines.index(next(line for line in lines if line.split()[:1] == ["metric"] or "principle" in line))
    column = lines[start].index("unit or reason")
    told = " ".join(line[column:].strip() for line in lines[start + 1 :] if line[column - 1 : column] == " ")
    assert told.count(reason) == len(card["principles"])
    assert len(lines) < start + 7 * len(card["principles"]) * 2


@pytest.mark.parametrize("width", [80, 120])
def test_a_principle_without_a_metric_takes_one_line(card: Any, width: int) -> None:
    lines = [" ".join(line.split()) for line in printed(card, width).splitlines()]
    assert "Balance – no metric of this run serves it" in lines


def test_an_issue_is_told_with_its_place_once_and_its_whole_cause(card: Any) -> None:
    path = Path(card["input"]["path"]).parent / "run.json"
    cause = "is one JSON object that holds 13 images, 96 annotations, 80 categories; no conversation is found in any"
    example = {"file": str(path), "line": 0, "id": "run.json", "detail": f"{path} {cause}"}
    card["issues"] = [{"kind": "unreadable_file", "severity": "error", "n": 1, "examples": [example]}]
    told = " ".join(printed(card, 80).split())
    assert f"error unreadable_file 1 run.json {cause}" in told


def printed(card: Any, width: int) -> str:
    out = io.StringIO()
    Console(file=out, width=width, highlight=False, emoji=False).print(console.scorecard(card))
    return out.getvalue()
