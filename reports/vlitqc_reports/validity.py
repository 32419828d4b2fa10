"""What ``validity.json`` says of a run's metrics: which corruptions of clean records each of them notices."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vlitqc_reports import wording
from vlitqc_reports.source import ReportableRun

FILE, FORMAT = "validity.json", 1
MAX_BYTES = 32 << 20
MOST_METRICS, MOST_CORRUPTIONS = 60, 100
SHADES = 5
"""Steps of colour from chance (AUC 0.5) to always (1); each is a class, ``v-0`` (chance) to ``v-5``."""

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
    corruptions: tuple[tuple[str, str], ...]
    lines: tuple[Line, ...]
    rows: tuple[Row, ...]
    exceptions: tuple[tuple[str, str, str], ...]
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
    told = [cell for cell in cells if cell["became_null"] > 0 or _auc(cell) is not None]
    shown = [metric for metric in metrics if any(cell["metric"] == metric for cell in told)]
    columns = [name for name in names if any(cell["corruption"] == name for cell in told)]
    return Validity(
        records=int(found["records"]),
        seed=int(found["seed"]),
        vlitqc=str(found["vlitqc"]),
        sets=sum(len(one["strengths"]) for one in found["corruptions"].values()),
        verdict=_verdict(known),
        corruptions=tuple(
            (_name(name), wording.clip(str(found["corruptions"][name]["summary"]), 300)) for name in columns
        ),
        lines=tuple(
            Line(
                _name(metric), tuple(_square(by_place.get((metric, name)), metric, name) for name in columns)
            )
            for metric in shown
        ),
        rows=() if short else tuple(_row(cell) for cell in known),
        exceptions=_exceptions(known),
        without=_without(found["metrics"], metrics),
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


def _square(cell: Mapping[str, Any] | None, metric: str, corruption: str) -> Square:
    where = f"{_name(metric)} under {_name(corruption).lower()}"
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
    wanted = cell["wanted"] or {}
    limit = (
        f"≥ {wanted['at_least']:.2f}"
        if "at_least" in wanted
        else f"< {wanted['below']:.2f}"
        if wanted
        else "–"
    )
    strength = cell["spearman"]
    return Row(
        metric=_name(cell["metric"]),
        corruption=_name(cell["corruption"]),
        role=_role_words(cell),
        n=int(cell["n"]),
        auc=f"{cell['auc']:.3f}",
        interval=_interval(cell),
        strength="–" if strength is None else wording.number(float(strength), 2),
        lost=wording.percent(cell["became_null"]),
        verdict=limit + {True: " yes", False: " no"}.get(cell["holds"], ""),
    )


def _verdict(cells: Sequence[Mapping[str, Any]]) -> str:
    targets = [cell["holds"] for cell in cells if cell["role"] == "target" and cell["holds"] is not None]
    others = [cell["holds"] for cell in cells if cell["role"] == "off" and cell["holds"] is not None]
    told = f"{sum(targets)} of {len(targets)} faults are noticed by the metric that is for them."
    moved = len(others) - sum(others)
    return f"{told} {moved or 'None'} of {len(others)} pairs that should not move {'does' if moved < 2 else 'do'}."


def _exceptions(cells: Sequence[Mapping[str, Any]]) -> tuple[tuple[str, str, str], ...]:
    """What may move although it is no target and does, with the reason."""
    return tuple(
        (_name(cell["metric"]), _name(cell["corruption"]), wording.clip(str(cell["why"]), 300))
        for cell in cells
        if cell["role"] == "may_move" and cell["interval"][0] >= 0.6
    )


def _without(metrics: Mapping[str, Any], names: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Metrics without a value, by reason."""
    reasons: dict[str, list[str]] = {}
    for name in names:
        reason = metrics[name]["reason"]
        if reason is not None:
            reasons.setdefault(wording.clip(str(reason), 300), []).append(_name(name))
    return tuple((", ".join(each), reason) for reason, each in reasons.items())


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
    return wording.label(str(name))
