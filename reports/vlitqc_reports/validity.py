"""What ``validity.json`` says of a run's metrics: which corruptions of clean records each of them notices."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mode
from typing import Any

from vlitqc_reports import wording
from vlitqc_reports.source import ReportableRun

FILE, FORMAT = "validity.json", 1
MAX_BYTES = 32 << 20
MOST_METRICS, MOST_CORRUPTIONS = 60, 100
SHADES = 5
"""Steps of colour from chance (AUC 0.5) to always (1); each is a class, ``v-0`` (chance) to ``v-5``."""
ACRONYMS = {"jpeg": "JPEG"}
MOST_NAMED = 2000
"""Characters of the names that share a reason."""

_ANOTHER = "validity.json is not shown: it is of another {}. Run vlitqc validate again on this run."
_MALFORMED = "validity.json is not shown: it was not written by this version of vlitqc, or is damaged."


@dataclass(frozen=True, slots=True)
class Square:
    """One square of the matrix: a metric under a corruption."""

    words: str
    shade: int
    role: str
    missed: bool
    told: str


@dataclass(frozen=True, slots=True)
class Line:
    """A row of the matrix."""

    metric: str
    squares: tuple[Square, ...]


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the table below the matrix."""

    metric: str
    corruption: str
    role: str
    n: int
    auc: str
    interval: str
    strength: str
    lost: str
    verdict: str


@dataclass(frozen=True, slots=True)
class Validity:
    """Everything that the section prints."""

    records: int
    seed: int
    vlitqc: str
    sets: int
    verdict: str
    missed: bool
    corruptions: tuple[tuple[str, str], ...]
    lines: tuple[Line, ...]
    rows: tuple[Row, ...]
    exceptions: tuple[tuple[str, str], ...]
    without: tuple[tuple[str, str], ...]


def build(run: ReportableRun, *, short: bool = False) -> Validity | str | None:
    """The section of a run; None where it was never validated, or why it is not shown, in words.

    ``short``: without the table.
    """
    path = run.path / FILE
    if not path.is_file():
        return None
    try:
        if path.stat().st_size > MAX_BYTES:
            return _MALFORMED
        found = json.loads(path.read_bytes())
        if found["format"] != FORMAT:
            return _MALFORMED
        card = run.scorecard
        if found["data_sha256"] != card["input"]["sha256"]:
            return _ANOTHER.format("data set")
        if found["profile_sha256"] != card["profile"]["sha256"]:
            return _ANOTHER.format("profile")
        titles = {str(m["name"]): str(m["title"]) for p in card["principles"] for m in p["metrics"]}
        return _view(_titled(found, titles), short)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError):
        return _MALFORMED


def _titled(found: Mapping[str, Any], titles: Mapping[str, str]) -> dict[str, Any]:
    """The same with metrics called by their titles."""
    metrics = {titles.get(name, name): metric for name, metric in found["metrics"].items()}
    if len(metrics) < len(found["metrics"]):
        return dict(found)
    cells = [{**cell, "metric": titles.get(cell["metric"], cell["metric"])} for cell in found["cells"]]
    return {**found, "metrics": metrics, "cells": cells}


def _view(found: Mapping[str, Any], short: bool) -> Validity:
    metrics = list(found["metrics"])[:MOST_METRICS]
    names = list(found["corruptions"])[:MOST_CORRUPTIONS]
    by_place = {(cell["metric"], cell["corruption"]): cell for cell in found["cells"]}
    cells = [by_place[metric, name] for metric in metrics for name in names if (metric, name) in by_place]
    known = [cell for cell in cells if _auc(cell) is not None]
    told = [cell for cell in cells if _is_told(cell)]
    shown = [metric for metric in metrics if any(cell["metric"] == metric for cell in told)]
    columns = [name for name in names if any(cell["corruption"] == name for cell in told)]
    return Validity(
        records=int(found["records"]),
        seed=int(found["seed"]),
        vlitqc=str(found["vlitqc"]),
        sets=sum(len(one["strengths"]) for one in found["corruptions"].values()),
        verdict=_verdict(known),
        missed=any(cell["role"] == "target" and cell["holds"] is False for cell in known),
        corruptions=tuple(
            (_name(name), wording.clip(str(found["corruptions"][name]["summary"]), 300)) for name in columns
        ),
        lines=tuple(
            Line(
                _name(metric), tuple(_square(by_place.get((metric, name)), metric, name) for name in columns)
            )
            for metric in shown
        ),
        rows=() if short else tuple(_row(cell) for cell in told),
        exceptions=_exceptions(known),
        without=tuple(
            (wording.clip(", ".join(names), MOST_NAMED), wording.clip(reason, 300))
            for reason, names in _unmeasured(
                {name: found["metrics"][name] for name in metrics}, cells
            ).items()
        ),
    )


def _auc(cell: Mapping[str, Any]) -> float | None:
    """The AUC with an interval, where there is one."""
    value, interval = cell["auc"], cell["interval"]
    if value is None or interval is None:
        return None
    low, high = interval
    if not all(map(wording.is_number, (value, low, high))):
        raise ValueError("an AUC is a number")
    return float(value)


def _is_told(cell: Mapping[str, Any]) -> bool:
    """Whether there is an AUC, or what says as much: the scores are gone."""
    return _auc(cell) is not None or cell["became_null"] > 0


def _square(cell: Mapping[str, Any] | None, metric: str, corruption: str) -> Square:
    where = _pair(metric, corruption)
    if cell is None:
        return Square("–", 0, "off", False, f"{where}: not measured")
    role = _role(cell)
    value = _auc(cell)
    if value is None:
        gone = cell["became_null"] > 0
        return Square(
            "null" if gone else "–", 0, role, False, f"{where}: {wording.clip(str(cell['reason']), 200)}"
        )
    missed = cell["holds"] is False
    counted = f"95% interval {_interval(cell)}, n = {wording.count(cell['n'])}"
    told = f"{where}: AUC {value:.3f}, {counted}; {_role_words(cell)}"
    if cell["became_null"]:
        told += f"; {wording.percent(cell['became_null'])} lost their score"
    shade = min(SHADES, max(0, math.floor((value - 0.5) * 2 * SHADES + 0.5)))
    return Square(_short(value), shade, role, missed, told + ("; not as wanted" if missed else ""))


def _row(cell: Mapping[str, Any]) -> Row:
    wanted, verdict = cell["wanted"], "–"
    if wanted and cell["holds"] is not None:
        limit = f"≥ {wanted['at_least']:.2f}" if "at_least" in wanted else f"< {wanted['below']:.2f}"
        verdict = f"{limit} {'yes' if cell['holds'] else 'no'}"
    strength = cell["spearman"]
    return Row(
        metric=_name(cell["metric"]),
        corruption=_name(cell["corruption"]),
        role=_role_words(cell),
        n=int(cell["n"]),
        auc="null" if _auc(cell) is None else f"{cell['auc']:.3f}",
        interval="–" if _auc(cell) is None else _interval(cell),
        strength="–" if strength is None else wording.number(float(strength), 2),
        lost=wording.percent(cell["became_null"]),
        verdict=verdict,
    )


def _verdict(cells: Sequence[Mapping[str, Any]]) -> str:
    targets = [cell["holds"] for cell in cells if cell["role"] == "target" and cell["holds"] is not None]
    others = [cell["holds"] for cell in cells if cell["role"] == "off" and cell["holds"] is not None]
    told = "No metric could be held against a fault that is for it."
    if targets:
        told = f"{sum(targets)} of {len(targets)} faults are noticed by the metric that is for them."
    if not others:
        return f"{told} No pair that should not move could be measured."
    moved = len(others) - sum(others)
    return f"{told} {moved or 'None'} of {len(others)} pairs that should not move {'does' if moved < 2 else 'do'}."


def _exceptions(cells: Sequence[Mapping[str, Any]]) -> tuple[tuple[str, str], ...]:
    """What may move although it is no target and does, with the reason."""
    return tuple(
        (_pair(cell["metric"], cell["corruption"]), wording.clip(str(cell["why"]), 300))
        for cell in cells
        if cell["role"] == "may_move" and cell["interval"][0] >= 0.6
    )


def _unmeasured(metrics: Mapping[str, Any], cells: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """What was not measured, by its reason: metrics of which nothing is told, and what others must notice.

    The terminal's table, ``vlitqc.console.validity``, has the same rule.
    """
    without: dict[str, list[str]] = {}
    for name, metric in metrics.items():
        own = [cell for cell in cells if cell["metric"] == name]
        if not any(map(_is_told, own)):
            reason = metric["reason"] or mode(cell["reason"] for cell in own)
            without.setdefault(str(reason), []).append(_name(name))
            continue
        for cell in own:
            if cell["role"] == "target" and not _is_told(cell):
                without.setdefault(str(cell["reason"]), []).append(_pair(name, cell["corruption"]))
    return without


def _role(cell: Mapping[str, Any]) -> str:
    return {"target": "target", "may_move": "may"}.get(str(cell["role"]), "off")


def _role_words(cell: Mapping[str, Any]) -> str:
    if cell["role"] == "target":
        return "must rise" if cell["direction"] == "rises" else "must fall"
    return "may move" if cell["role"] == "may_move" else "should stay"


def _interval(cell: Mapping[str, Any]) -> str:
    low, high = cell["interval"]
    return f"{low:.3f}–{high:.3f}"


def _short(value: float) -> str:
    """``.89``: the column is as wide as a number."""
    return "1" if value >= 0.995 else f"{value:.2f}".removeprefix("0")


def _name(name: str) -> str:
    return ACRONYMS.get(name) or wording.label(str(name))


def _pair(metric: str, corruption: str) -> str:
    return f"{_name(metric)} under {ACRONYMS.get(corruption) or _name(corruption).lower()}"
