"""The verdict at its limits, worked by hand."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vlitqc.analysis.issues import KINDS
from vlitqc.analysis.verdict import TO_FIX, verdict

DOCS = Path(__file__).resolve().parents[1] / "docs" / "formats.md"


def rows(*numbers: int) -> np.ndarray[Any, Any]:
    return np.array(numbers, np.int64)


def metric(name: str = "image_readability", floor: float = 0.25, unit: str = "") -> dict[str, Any]:
    return {"name": name, "title": name.replace("_", " ").capitalize(), "floor": floor, "unit": unit}


@pytest.mark.parametrize(
    ("suspect", "records", "level"),
    [
        (0, 1, "good"),
        (1, 51, "good"),  # 1.96%
        (1, 50, "fair"),  # 2% is no longer below 2%
        (9, 100, "fair"),
        (10, 100, "poor"),  # 10% is no longer below 10%
        (5, 5, "poor"),
        (0, 0, "poor"),
    ],
)
def test_levels(suspect: int, records: int, level: str) -> None:
    found = verdict(records, "RUN", {"missing_image": rows(*range(suspect))} if suspect else {}, [])
    assert found["level"] == level
    assert found["suspect"] == suspect
    assert found["limits"] == {"good_below": 0.02, "fair_below": 0.10}


def test_a_record_with_many_faults_counts_once() -> None:
    errors = {"missing_image": rows(1, 1, 2), "empty_turn": rows(2, 3)}
    found = verdict(100, "RUN", errors, [(metric(), rows(3, 4))])
    assert found["suspect"] == 4
    assert found["headline"].startswith("4 of 100 records (4.0%)")
    assert {p["title"]: p["n"] for p in found["to_fix"]} == {
        "missing image": 2,
        "empty turn": 2,
        "low image readability": 2,
    }


def test_the_worst_come_first_and_no_more_than_three() -> None:
    errors = {f"kind_{n}": rows(*range(n)) for n in (1, 4, 2, 3)}
    found = verdict(100, "RUN", errors, [])
    assert [p["n"] for p in found["to_fix"]] == [4, 3, 2]
    assert len(found["to_fix"]) == TO_FIX


def test_each_problem_says_what_to_do() -> None:
    found = verdict(9, "RUN", {"missing_image": rows(1), "odd": rows(2)}, [(metric(unit="nats"), rows(0, 3))])
    missing, low, odd = found["to_fix"]
    assert missing["detail"] == KINDS["missing_image"].cure
    assert odd["detail"]
    assert low["detail"] == "below the recommended floor of 0.25 nats"
    assert low["command"] == "vlitqc filter RUN --drop-below image_readability=0.25"
    assert missing["command"] == "vlitqc filter RUN --drop-issue missing_image"


def test_errors_come_before_warnings_and_floors_however_many_those_are() -> None:
    found = verdict(
        99, "RUN", {"near_duplicate_text": rows(1, 2, 3), "missing_image": rows(1)}, [(metric(), rows(4, 5))]
    )
    assert [p["title"] for p in found["to_fix"]] == [
        "missing image",
        "near duplicate text",
        "low image readability",
    ]


def test_the_command_has_the_floor_to_the_last_digit() -> None:
    found = verdict(9, "RUN", {}, [(metric(floor=0.123456789012), rows(0))])
    assert found["to_fix"][0]["command"].endswith("=0.123456789012")


def test_nothing_wrong_and_nothing_there() -> None:
    assert (
        verdict(3, "RUN", {}, [(metric(), rows())])["headline"] == "None of the 3 records has a known defect."
    )
    assert verdict(3, "RUN", {}, [(metric(), rows())])["to_fix"] == []
    assert verdict(0, "RUN", {}, [])["headline"] == "No record was found."


def test_a_metric_that_failed_spoils_a_good_verdict() -> None:
    found = verdict(100, "RUN", {}, [], ["matching_degree", "ifd"])
    assert found["level"] == "fair"
    assert found["headline"] == (
        "None of the 100 records has a known defect. "
        "2 metrics have no value for a fault or a missing model: matching_degree, ifd."
    )
    one = verdict(100, "RUN", {}, [], ["ifd"])
    assert one["headline"].endswith("1 metric has no value for a fault or a missing model: ifd.")


def test_what_cannot_be_read_has_no_command() -> None:
    errors = {"unreadable_file": rows(1, 2), "duplicate_key": rows(1, 3), "metric_error": rows(2)}
    found = verdict(9, "RUN", errors, [], unreadable=rows(1, 2))
    assert {p["title"]: p["command"] for p in found["to_fix"]} == {
        "duplicate key": "vlitqc filter RUN --drop-issue duplicate_key",
        "metric error": None,
        "unreadable file": None,
    }


def test_every_kind_that_the_documentation_lists_is_known_and_no_other() -> None:
    listed: dict[str, str] = {}
    for line in DOCS.read_text(encoding="utf-8").splitlines():
        if line.startswith("| `") and line.count(" | ") >= 3:
            kinds, severities = line.strip("| ").split(" | ")[:2]
            if set(severities.split(", ")) <= {"error", "warning", "note"}:
                listed |= dict.fromkeys(re.findall(r"`(\w+)`", kinds), severities)
    assert listed == {kind: ", ".join(known.severities) for kind, known in KINDS.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_a_cure_is_one_short_sentence(kind: str) -> None:
    assert 20 < len(KINDS[kind].cure) < 110
    assert not KINDS[kind].cure.endswith(".")
