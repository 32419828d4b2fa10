"""What the static parts of the page show, cut to size, before any markup."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow.compute as pc

from vlitqc.analysis.diversity import UNTAGGED
from vlitqc.types import Principle
from vlitqc_reports import validity, wording
from vlitqc_reports.composition import Composition
from vlitqc_reports.explorer.contents import Contents
from vlitqc_reports.source import ReportableRun
from vlitqc_reports.validity import Validity

QUESTIONS = {
    Principle.READABILITY: "Can the text be read, and can the picture be seen?",
    Principle.CORRECTNESS: "Does the response fit the picture?",
    Principle.TASK_DIVERSITY: "How many kinds of task are there?",
    Principle.INSTRUCTION_DIVERSITY: "Within a task, how varied are the instructions?",
    Principle.RESPONSE_DIVERSITY: "How many different kinds of response are there?",
    Principle.VISUAL_DIVERSITY: "How varied are the pictures?",
    Principle.INSTRUCTION_COMPLEXITY: "How hard are the instructions?",
    Principle.OBJECT_COMPLEXITY: "How many things does an instruction speak of?",
    Principle.VISUAL_COMPLEXITY: "How much is there to see in a picture?",
    Principle.BALANCE: "Are the tasks evenly filled?",
    Principle.BEYOND: "What the ten leave out: repeats and make-up.",
}

_DETAILS, _EXAMPLES = 4_000, 20


@dataclass(frozen=True, slots=True)
class MetricView:
    """One metric of the scorecard with what the page says beside it."""

    data: Mapping[str, Any]
    anchor: str
    value: str | None
    interval: str | None
    reason: str | None
    reasons: tuple[tuple[str, int], ...]
    reasons_left_out: int
    counted: str | None
    floor_words: str | None
    band: tuple[float, float] | None
    reference: str | None
    facts: tuple[tuple[str, str], ...]
    more: str | None
    explored: bool

    @property
    def measured(self) -> bool:
        """Whether there is anything to show of it but why it has no score."""
        return self.value is not None or self.explored


@dataclass(frozen=True, slots=True)
class PrincipleView:
    """One principle and its metrics."""

    id: str
    number: int | None
    title: str
    question: str
    metrics: tuple[MetricView, ...]


@dataclass(frozen=True, slots=True)
class IssueView:
    """One kind of issue, with some of its places."""

    kind: str
    severity: str
    n: int
    examples: tuple[tuple[str, str, str], ...]
    rank: int


@dataclass(frozen=True, slots=True)
class Page:
    """Everything that the static parts print."""

    card: Mapping[str, Any]
    name: str
    principles: tuple[PrincipleView, ...]
    issues: tuple[IssueView, ...]
    composition: Composition
    validity: Validity | None = None
    fixes: tuple[Mapping[str, Any], ...] = ()
    notes: tuple[str, ...] = ()


def _interval(interval: Sequence[float] | None, unit: str) -> str | None:
    if not interval or not all(map(wording.is_number, interval)):
        return None
    low, high = interval
    return wording.span(100 * low, 100 * high) + "%" if unit in wording.SHARES else wording.span(low, high)


def _anchor(name: str, taken: set[str]) -> str:
    slug = "metric-" + (re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "x")[:60]
    unique, k = slug, 2
    while unique in taken:
        unique, k = f"{slug}-{k}", k + 1
    taken.add(unique)
    return unique


def _floor_words(metric: Mapping[str, Any], contents: Contents) -> str | None:
    floor = metric.get("floor")
    if not wording.is_number(floor):
        return None
    limit = f"The profile recommends a floor of {wording.setting(floor)}"
    axis = contents.axes.get(metric["name"])
    if axis is None:
        return limit + "."
    n = axis.below[[float(stop) for stop in axis.stops].index(float(floor))]
    if n == 0:
        return f"{limit}; no scored sample is below it."
    verb = "is" if n == 1 else "are"
    of = f"{wording.count(n)} of {wording.count(axis.n_scored)} scored samples ({wording.share(n, axis.n_scored)})"
    return f"{limit}; {of} {verb} below it."


def _facts(metric: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """Parts and details in words; one that is the metric's value once more is left out."""
    value = metric.get("value")

    def told(name: str, found: Any) -> str:
        return wording.percent(found) if "share" in name and wording.is_number(found) else wording.cell(found)

    def repeats(name: str, found: Any) -> bool:
        same = wording.is_number(found) and wording.is_number(value) and value in (found, 100 * found)
        return same and (name.endswith("_share") or name == "n_clusters")

    parts = [
        (f"{wording.part(k)}, mean", told(k, v))
        for k, v in (metric.get("parts") or {}).items()
        if wording.is_number(v)
    ]
    plain = [
        (wording.part(k), told(k, v))
        for k, v in (metric.get("details") or {}).items()
        if isinstance(v, bool | int | float | str) and not wording.is_missing(v) and not repeats(k, v)
    ]
    return tuple((wording.label(name), v) for name, v in [*parts, *plain][:24])


def _counted(metric: Mapping[str, Any]) -> str | None:
    """Which of the tasks listed under Composition the value of task diversity counts."""
    tasks = (metric.get("details") or {}).get("tasks")
    value = metric.get("value")
    if metric["name"] != "task_diversity" or not isinstance(tasks, Mapping) or not wording.is_number(value):
        return None
    named = len(tasks) - (UNTAGGED in tasks)
    left = []
    if rare := named - int(value):
        left.append(f"{wording.count(rare)} with too few instructions to count")
    if UNTAGGED in tasks:
        left.append(f"“{UNTAGGED}”, which is no task")
    if not left:
        return None
    return f"Composition lists {wording.count(len(tasks))}: these, {' and '.join(left)}."


def _fixes(run: ReportableRun) -> tuple[Mapping[str, Any], ...]:
    """What the verdict says to fix first; the commands name the run where it is now."""
    command = f"vlitqc filter {wording.shell_word(run.place)}"
    found = []
    for fix in run.scorecard["verdict"].get("to_fix", ())[:3]:
        _, flag, option = str(fix.get("command") or "").rpartition(" --drop-")
        found.append({**fix, "command": f"{command}{flag}{option}" if flag else None})
    return tuple(found)


def _more(metric: Mapping[str, Any]) -> str | None:
    nested = {k: v for k, v in (metric.get("details") or {}).items() if isinstance(v, list | dict) and v}
    if not nested:
        return None
    return wording.clip(json.dumps(nested, indent=2, ensure_ascii=False, default=str), _DETAILS)


def _metric_view(
    metric: Mapping[str, Any], profile: Mapping[str, Any], contents: Contents, taken: set[str], short: bool
) -> MetricView:
    unit = str(metric["unit"])
    explored = metric["name"] in contents.axes
    raw = metric.get("value")
    value: float | None = raw if wording.is_number(raw) else None
    interval = metric.get("interval")
    decimals = None
    if interval and all(map(wording.is_number, interval)) and value is not None:
        decimals = wording.span_decimals(*interval)
    reasons = sorted((metric.get("reasons") or {}).items(), key=lambda item: (-item[1], str(item[0])))
    reference = metric.get("reference")
    band = reference_words = None
    if reference:
        low, high = float(reference["low"]), float(reference["high"])
        ends = [wording.setting(low), wording.setting(high)]
        span = ends[0] if low == high else " to ".join(ends) if low < 0 else "–".join(ends)
        source = wording.clip(str(reference.get("source", "")).removeprefix("paper, "), 200)
        if profile.get("name") == "paper":
            band = (low, high)
            reference_words = f"The paper prints {span} for its data sets ({source})."
        else:
            reference_words = (
                f"The paper prints {span} with its own models ({source}); do not compare the two numbers."
            )
    shown = None
    if value is not None:
        whole = float(value).is_integer()
        shown = (
            wording.percent(value)
            if unit in wording.SHARES
            else wording.number(value, None if whole else decimals)
        )
    return MetricView(
        data={**metric, "histogram": contents.histogram(metric)} if explored else metric,
        anchor=_anchor(str(metric["name"]), taken),
        value=shown,
        interval=_interval(interval, unit),
        reason=None
        if value is not None
        else wording.clip(str(metric.get("reason") or "no reason given"), 300),
        reasons=tuple((wording.clip(str(k), 200), int(n)) for k, n in reasons[:8]),
        reasons_left_out=max(0, len(reasons) - 8),
        counted=_counted(metric),
        floor_words=_floor_words(metric, contents),
        band=band,
        reference=reference_words,
        facts=_facts(metric),
        more=None if short else _more(metric),
        explored=explored,
    )


def _issues(run: ReportableRun, n_examples: int) -> tuple[IssueView, ...]:
    order = {"error": 0, "warning": 1, "note": 2}
    table = run.issue_table
    views = []
    for issue in run.scorecard.get("issues", ()):
        kind = str(issue["kind"])
        if len(table):
            alike = pc.and_(pc.equal(table["kind"], kind), pc.equal(table["severity"], issue["severity"]))
            places: Iterable[Mapping[str, Any]] = table.filter(alike).slice(0, n_examples).to_pylist()
        else:
            places = list(issue.get("examples", ()))[:n_examples]
        views.append(
            IssueView(
                kind=wording.clip(kind, 80),
                severity=wording.clip(str(issue["severity"]), 20),
                n=int(issue["n"]),
                examples=tuple(
                    (
                        wording.place(place.get("file"), place.get("line")),
                        "" if wording.is_missing(place.get("id")) else wording.clip(str(place["id"]), 80),
                        wording.clip(str(place.get("detail", "")), 300),
                    )
                    for place in places
                ),
                rank=order.get(str(issue["severity"]), 3),
            )
        )
    views.sort(key=lambda v: (v.rank, -v.n, v.kind))
    return tuple(views[:60])


def build(run: ReportableRun, contents: Contents, composition: Composition, *, short: bool = False) -> Page:
    """The static parts of a run's page; ``short``: without examples of issues and the details of metrics."""
    card = run.scorecard
    taken: set[str] = set()
    numbered = 0
    principles = []
    for principle in card["principles"]:
        known = {p.value: p for p in Principle}.get(str(principle["id"]))
        ten = known is not None and known is not Principle.BEYOND
        numbered += ten
        principles.append(
            PrincipleView(
                id=re.sub(r"[^a-z0-9]+", "-", str(principle["id"]).lower()).strip("-")[:60],
                number=numbered if ten else None,
                title=wording.clip(str(principle["title"]), 80),
                question=QUESTIONS[known] if known else "",
                metrics=tuple(
                    _metric_view(m, card["profile"], contents, taken, short) for m in principle["metrics"]
                ),
            )
        )
    found = validity.build(run, short=short)
    path, *more = (str(path) for path in card["input"]["paths"])
    return Page(
        card=card,
        name=wording.clip(path.rstrip("/").rsplit("/", 1)[-1] or path, 120)
        + (f" and {len(more):,} more" if more else ""),
        principles=tuple(principles),
        issues=_issues(run, 1 if short else _EXAMPLES),
        composition=composition,
        validity=found if isinstance(found, Validity) else None,
        fixes=_fixes(run),
        notes=(found,) if isinstance(found, str) else (),
    )
