"""What the page shows, chosen and cut to size, before any markup."""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePath
from typing import Any, Protocol

import pandas as pd

from vlitqc.errors import InputError, VlitqcError
from vlitqc.types import Image, Principle, Record, Unreadable
from vlitqc_reports import wording
from vlitqc_reports.thumbnails import Thumbnail, thumbnail

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

_OWN_COLUMNS = {
    *("row", "id", "file", "line", "start", "end", "sha256"),
    *("state", "n_turns", "n_images", "n_media", "source", "task"),
}
_BOXES = "object_diversity_boxes"
_ISSUE_EXAMPLES = 20
_BAR_ROWS = 12
_PICTURES = 6
_MARKS = 20
_KINDS = 5


@dataclass(frozen=True, slots=True)
class Limits:
    """How much of the data the page shows. ``text`` and ``turns`` are for one card."""

    cards: int
    turns: int
    text: int
    examples: int


LADDER = (
    Limits(cards=8, turns=24, text=12_000, examples=_ISSUE_EXAMPLES),
    Limits(cards=8, turns=10, text=3_000, examples=10),
    Limits(cards=6, turns=5, text=1_000, examples=5),
    Limits(cards=3, turns=2, text=400, examples=3),
    Limits(cards=0, turns=0, text=0, examples=0),
)
"""From everything worth showing to the bare numbers: the page takes the first that fits."""


class ReportableRun(Protocol):
    """A finished run, as the report needs it."""

    @property
    def scorecard(self) -> Mapping[str, Any]:
        """The content of ``scorecard.json``."""
        ...

    @property
    def scores(self) -> pd.DataFrame:
        """One row a record."""
        ...

    @property
    def issues(self) -> pd.DataFrame:
        """Columns kind, severity, detail, file, line, row, id."""
        ...

    def record(self, row: int) -> Record:
        """The record of a row, read again from the input."""
        ...

    def images(self, sample: Any) -> list[Image]:
        """The record's pictures, decoded, or their faults."""
        ...


@dataclass(frozen=True, slots=True)
class Mark:
    """An object on a picture: its corners as shares of width and height, 0 to 1."""

    label: str
    left: float
    top: float
    right: float
    bottom: float


@dataclass(frozen=True, slots=True)
class Picture:
    """One picture of a sample: a thumbnail, or the fault in its place. ``objects`` says in words what is on it."""

    label: str
    reference: str
    fault: str | None
    thumb: Thumbnail | None
    marks: tuple[Mark, ...] = ()
    objects: str = ""


@dataclass(frozen=True, slots=True)
class Turn:
    """One exchange, cut to what the card shows."""

    instruction: str
    response: str


@dataclass(frozen=True, slots=True)
class ScoreLine:
    """One row of a card's table: a value in words or the reason why there is none."""

    name: str
    title: str
    value: str | None
    reason: str | None
    parts: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class SampleView:
    """A sample as every card about it shows it. ``fault`` says why there is nothing to show."""

    id: str
    where: str
    task: str | None
    state: str
    fault: str | None = None
    turns: tuple[Turn, ...] = ()
    turns_left_out: int = 0
    pictures: tuple[Picture, ...] = ()
    pictures_left_out: int = 0
    other_media: tuple[str, ...] = ()
    scores: tuple[ScoreLine, ...] = ()


@dataclass(frozen=True, slots=True)
class Card:
    """One sample in the gallery of one metric."""

    sample: SampleView
    value: str
    rank: int
    end: str


@dataclass(frozen=True, slots=True)
class Gallery:
    """The samples of one metric that most deserve a look."""

    metric: MetricView
    heading: str
    cards: tuple[Card, ...]
    n_scored: int
    unit: str


@dataclass(frozen=True, slots=True)
class BarRow:
    """One row of a bar table; ``fraction`` is of the whole, ``length`` of the longest bar."""

    label: str
    n: float
    fraction: float
    length: float


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
    floor_words: str | None
    band: tuple[float, float] | None
    reference: str | None
    facts: tuple[tuple[str, str], ...]
    more: str | None


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
    """Everything that the template prints."""

    card: Mapping[str, Any]
    name: str
    principles: tuple[PrincipleView, ...]
    galleries: tuple[Gallery, ...]
    issues: tuple[IssueView, ...]
    tasks: tuple[BarRow, ...]
    task_metric: MetricView | None
    composition: MetricView | None
    composition_bars: tuple[tuple[str, tuple[BarRow, ...]], ...]
    composition_facts: tuple[tuple[str, str], ...]
    composition_quantiles: tuple[tuple[str, dict[str, float]], ...]
    thumbs: Mapping[str, Thumbnail] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def _missing(value: Any) -> bool:
    return value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value))


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if hasattr(value, "item"):
        value = value.item()
    return wording.number(value) if wording.is_number(value) else wording.clip(str(value), 200)


def quantity(value: float, unit: str) -> str:
    """A value with a percent sign where its unit is one; other units stand beside the metric's name."""
    if unit in wording.SHARES:
        return wording.percent(value)
    return wording.number(value) + ("%" if unit.startswith("%") else "")


def unit_words(unit: str) -> str:
    """The unit as it follows a number: " tasks", "% of turns", or nothing."""
    if unit in {"", "1", "score", "none"} or unit in wording.SHARES:
        return ""
    return wording.clip(unit if unit.startswith("%") else f" {unit}", 60)


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


def _floor_words(metric: Mapping[str, Any], scores: pd.DataFrame) -> str | None:
    floor, name = metric.get("floor"), metric["name"]
    if not wording.is_number(floor) or floor is None:
        return None
    limit = f"The profile recommends a floor of {wording.setting(floor)}"
    if metric["level"] != "sample" or name not in scores.columns:
        return limit + "."
    values = pd.to_numeric(scores[name], errors="coerce").dropna()
    n = int((values < floor).sum())
    if n == 0:
        return f"{limit}; no scored sample is below it."
    verb = "is" if n == 1 else "are"
    of = (
        f"{wording.count(n)} of {wording.count(len(values))} scored samples ({wording.share(n, len(values))})"
    )
    return f"{limit}; {of} {verb} below it."


def _facts(metric: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    parts = [
        (f"{k} (mean)", _cell(v)) for k, v in (metric.get("parts") or {}).items() if wording.is_number(v)
    ]
    plain = [
        (k, _cell(v))
        for k, v in (metric.get("details") or {}).items()
        if isinstance(v, bool | int | float | str) and not _missing(v)
    ]
    return tuple((wording.label(str(k)), v) for k, v in [*parts, *plain][:24])


def _more(metric: Mapping[str, Any]) -> str | None:
    nested = {k: v for k, v in (metric.get("details") or {}).items() if isinstance(v, list | dict) and v}
    if not nested:
        return None
    return wording.clip(json.dumps(nested, indent=2, ensure_ascii=False, default=str), 4_000)


def _metric_view(
    metric: Mapping[str, Any], profile: Mapping[str, Any], scores: pd.DataFrame, taken: set[str]
) -> MetricView:
    unit = str(metric["unit"])
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
                f"The paper prints {span} with its own models ({source}). "
                f"This is the {wording.clip(str(profile.get('name', '')), 40)} profile: "
                "do not compare the two numbers."
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
        data=metric,
        anchor=_anchor(str(metric["name"]), taken),
        value=shown,
        interval=_interval(interval, unit),
        reason=None
        if value is not None
        else wording.clip(str(metric.get("reason") or "no reason given"), 300),
        reasons=tuple((wording.clip(str(k), 200), int(n)) for k, n in reasons[:8]),
        reasons_left_out=max(0, len(reasons) - 8),
        floor_words=_floor_words(metric, scores),
        band=band,
        reference=reference_words,
        facts=_facts(metric),
        more=_more(metric),
    )


def _bar_rows(counts: Any, *, numeric: bool = False, limit: int = _BAR_ROWS) -> tuple[BarRow, ...]:
    """Rows of ``{label: n}``: by label where labels are numbers, else the largest first; the rest in one row."""
    if not isinstance(counts, Mapping):
        return ()
    items = [(str(k), float(v)) for k, v in counts.items() if wording.is_number(v) and v > 0]
    whole = sum(n for _, n in items)
    if not whole:
        return ()
    items.sort(key=lambda item: (-item[1], item[0]))
    rest = items[limit:]
    items = items[:limit]
    if numeric and all(k.isdecimal() and len(k) < 10 for k, _ in items):
        items.sort(key=lambda item: int(item[0]))
    if rest:
        items.append((f"{len(rest):,} others", sum(n for _, n in rest)))
    longest = max(n for _, n in items)
    return tuple(BarRow(wording.clip(k, 80), n, n / whole, n / longest) for k, n in items)


def _issues(run: ReportableRun, n_examples: int) -> tuple[IssueView, ...]:
    order = {"error": 0, "warning": 1, "note": 2}
    table = run.issues
    views = []
    for issue in run.scorecard.get("issues", ()):
        kind = str(issue["kind"])
        if len(table):
            places: Iterable[Mapping[str, Any]] = (
                table[(table["kind"] == kind) & (table["severity"] == issue["severity"])]
                .head(n_examples)
                .to_dict("records")
            )
        else:
            places = list(issue.get("examples", ()))[:n_examples]
        views.append(
            IssueView(
                kind=wording.clip(kind, 80),
                severity=wording.clip(str(issue["severity"]), 20),
                n=int(issue["n"]),
                examples=tuple(
                    (
                        _where(place.get("file"), place.get("line")),
                        "" if _missing(place.get("id")) else wording.clip(str(place["id"]), 80),
                        wording.clip(str(place.get("detail", "")), 300),
                    )
                    for place in places
                ),
                rank=order.get(str(issue["severity"]), 3),
            )
        )
    views.sort(key=lambda v: (v.rank, -v.n, v.kind))
    return tuple(views[:60])


def _where(file: Any, line: Any) -> str:
    # The head of the page names the whole input; a card has room for the file's name only.
    name = "" if _missing(file) else wording.clip(PurePath(str(file)).name, 200)
    return name if _missing(line) else f"{name}:{int(line)}"


class Samples:
    """Reads each sample that the page shows once, and keeps only what a card can show of it."""

    def __init__(self, run: ReportableRun, metrics: Sequence[Mapping[str, Any]]) -> None:
        self._run = run
        self._metrics = [m for m in metrics if m["level"] == "sample" and m["name"] in run.scores.columns]
        self._views: dict[int, SampleView] = {}
        self._input_fault: str | None = None
        named = _OWN_COLUMNS | {_BOXES}
        for metric in self._metrics:
            name = metric["name"]
            named |= {name, f"{name}_reason", *(f"{name}_{p}" for p in self._parts(metric))}
        self._further = [c for c in run.scores.columns if c not in named][:24]

    @staticmethod
    def _parts(metric: Mapping[str, Any]) -> list[str]:
        return list(metric.get("parts") or ())

    def view(self, position: int) -> SampleView:
        """What a card shows of the sample at this position of the table of scores."""
        if position not in self._views:
            self._views[position] = self._read(position)
        return self._views[position]

    def _read(self, position: int) -> SampleView:
        line = self._run.scores.iloc[position]
        row = int(line["row"])
        base = SampleView(
            id="" if _missing(line["id"]) else wording.clip(str(line["id"]), 120),
            where=_where(line["file"], line["line"]),
            task=None if _missing(line.get("task")) else wording.clip(str(line["task"]), 80),
            state=str(line["state"]),
            scores=self._scores(line),
        )
        if self._input_fault is not None:
            return replace(base, fault=self._input_fault)
        try:
            record = self._run.record(row)
        except (VlitqcError, OSError) as error:
            fault = wording.clip(f"the record could not be read again: {error}", 400)
            if isinstance(error, InputError):
                # The whole input is gone or changed, and finding that out again would take as long.
                self._input_fault = fault
            return replace(base, fault=fault)
        if isinstance(record, Unreadable):
            why = "; ".join(issue.detail for issue in record.issues[:4]) or "unreadable"
            return replace(base, fault=wording.clip(why, 400))
        try:
            images = self._run.images(record)
        except (VlitqcError, OSError) as error:
            images = [Image(m.reference, None, f"could not be read again: {error}") for m in record.images]
        most = LADDER[0]
        return replace(
            base,
            turns=tuple(
                Turn(wording.clip(t.instruction, most.text), wording.clip(t.response, most.text))
                for t in record.turns[: most.turns]
            ),
            turns_left_out=max(0, len(record.turns) - most.turns),
            pictures=tuple(
                _picture(image, boxes)
                for image, boxes in zip(images[:_PICTURES], _boxes(line.get(_BOXES)), strict=False)
            ),
            pictures_left_out=max(0, len(images) - _PICTURES),
            other_media=tuple(
                wording.clip(f"{m.kind}: {m.reference}", 160) for m in record.media if m.kind != "image"
            )[:_PICTURES],
        )

    def _scores(self, line: pd.Series[Any]) -> tuple[ScoreLine, ...]:
        lines = []
        for metric in self._metrics:
            name = metric["name"]
            value, reason = line[name], line.get(f"{name}_reason")
            lines.append(
                ScoreLine(
                    name=name,
                    title=wording.clip(str(metric["title"]), 80),
                    value=None if _missing(value) else quantity(float(value), str(metric["unit"])),
                    reason=None
                    if not _missing(value)
                    else wording.clip("no reason given" if _missing(reason) else str(reason), 200),
                    parts=tuple(
                        (wording.clip(p.replace("_", " "), 40), _cell(line[f"{name}_{p}"]))
                        for p in self._parts(metric)[:8]
                        if f"{name}_{p}" in line.index and not _missing(line[f"{name}_{p}"])
                    ),
                )
            )
        for column in self._further:
            if not _missing(line[column]):
                lines.append(ScoreLine(column, wording.label(column), _cell(line[column]), None))
        return tuple(lines)


def _boxes(stored: Any) -> Iterator[Any]:
    """What is stored of each picture's objects, in order, and None for pictures beyond."""
    found = None
    if isinstance(stored, str):
        with contextlib.suppress(ValueError, RecursionError):
            found = json.loads(stored)
    return itertools.chain(found if isinstance(found, list) else (), itertools.repeat(None))


def _marks(boxes: Any) -> Iterator[Mark]:
    """The objects of one picture; what is no box is passed over."""
    for box in boxes if isinstance(boxes, list) else ():
        if isinstance(box, list) and len(box) == 6 and isinstance(box[0], str):
            name, confidence, *corners = box
            if all(isinstance(share, int | float) and 0 <= share <= 1 for share in corners):
                sure = f" {confidence:.2f}" if isinstance(confidence, float) and 0 <= confidence <= 1 else ""
                yield Mark(wording.clip(name, 40) + sure, *map(float, corners))


def _objects(boxes: Any) -> str:
    """The most frequent categories in words: "2 × dog, cat"."""
    names = [box[0] for box in boxes if isinstance(box, list) and box and isinstance(box[0], str)]
    kinds = Counter(names).most_common()
    shown = ", ".join(
        f"{wording.count(n)} × {wording.clip(name, 40)}" if n > 1 else wording.clip(name, 40)
        for name, n in kinds[:_KINDS]
    )
    return f"{shown} and {wording.count(len(kinds) - _KINDS)} more" if len(kinds) > _KINDS else shown


def _picture(image: Image, boxes: Any) -> Picture:
    small = thumbnail(image)
    form = " ".join(filter(None, (f"{image.width} × {image.height}" if image.width else "", image.format)))
    return Picture(
        label=wording.clip(form, 40),
        reference=wording.clip(image.reference, 160),
        fault=None if small else wording.clip(image.fault or "no picture", 200),
        thumb=small,
        marks=tuple(itertools.islice(_marks(boxes), _MARKS)) if small else (),
        objects=_objects(boxes) if isinstance(boxes, list) else "",
    )


def _trimmed(sample: SampleView, limits: Limits) -> SampleView:
    """The sample cut to the limits; the text budget goes to the turns in order."""
    turns: list[Turn] = []
    left = limits.text
    for turn in sample.turns[: limits.turns]:
        if left <= 0:
            break
        instruction = wording.clip(turn.instruction, max(200, left))
        left -= len(instruction)
        response = wording.clip(turn.response, max(200, left))
        left -= len(response)
        turns.append(Turn(instruction, response))
    return replace(
        sample,
        turns=tuple(turns),
        turns_left_out=sample.turns_left_out + len(sample.turns) - len(turns),
    )


def _gallery(view: MetricView, scores: pd.DataFrame, samples: Samples, limits: Limits) -> Gallery | None:
    metric = view.data
    name = metric["name"]
    if metric["level"] != "sample" or name not in scores.columns or not limits.cards:
        return None
    values = pd.to_numeric(scores[name], errors="coerce").reset_index(drop=True).dropna()
    if values.empty:
        return None
    ordered = values.sort_values(kind="stable")
    better = metric.get("higher_is_better")
    if better is None:
        half = max(1, limits.cards // 2)
        low = ordered.iloc[:half]
        rest = ordered.iloc[half:]
        high = rest.iloc[::-1].iloc[:half]
        chosen = [("lowest", low), ("highest", high)]
        heading = "Both ends"
    elif better:
        chosen = [("lowest", ordered.iloc[: limits.cards])]
        heading = "Lowest, where higher is better"
    else:
        chosen = [("highest", values.sort_values(kind="stable", ascending=False).iloc[: limits.cards])]
        heading = "Highest, where lower is better"
    cards = tuple(
        Card(
            sample=_trimmed(samples.view(int(str(position))), limits),
            value=quantity(float(value), str(metric["unit"])),
            rank=rank,
            end=end,
        )
        for end, picked in chosen
        for rank, (position, value) in enumerate(picked.items(), start=1)
    )
    return Gallery(
        metric=view,
        heading=heading,
        cards=cards,
        n_scored=len(values),
        unit=unit_words(str(metric["unit"])).strip(),
    )


def _composition(
    metric: MetricView | None,
) -> tuple[
    tuple[tuple[str, tuple[BarRow, ...]], ...],
    tuple[tuple[str, str], ...],
    tuple[tuple[str, dict[str, float]], ...],
]:
    """Bars, single facts and quantiles of the composition metric's details."""
    if metric is None:
        return (), (), ()
    details = metric.data.get("details") or {}
    bars = []
    for key, title, numeric in (
        ("turns", "Turns in a sample", True),
        ("images_per_sample", "Pictures in a sample", True),
        ("media_kinds", "Kinds of media", False),
        ("languages", "Languages", False),
    ):
        rows = _bar_rows(details.get(key), numeric=numeric)
        if rows:
            bars.append((title, rows))
    facts = []
    if wording.is_number(details.get("text_only_share")):
        facts.append(("Samples without a picture", wording.percent(details["text_only_share"])))
    resolution = details.get("resolution")
    resolution = resolution if isinstance(resolution, Mapping) else {}
    for key, title in (
        ("share_below_224", "Pictures below 224 px"),
        ("share_below_336", "Pictures below 336 px"),
    ):
        if wording.is_number(resolution.get(key)):
            facts.append((title, wording.percent(resolution[key])))
    spread = []
    for value, title in (
        (resolution, "Resolution (px)"),
        (details.get("instruction_words"), "Words in an instruction"),
        (details.get("response_words"), "Words in a response"),
    ):
        found = wording.quantiles(value)
        if found:
            spread.append((title, found))
    return tuple(bars), tuple(facts), tuple(spread)


class PageBuilder:
    """Builds the page of a run at any limits, reading each sample and deriving each metric's words once."""

    def __init__(self, run: ReportableRun) -> None:
        card = run.scorecard
        self._run = run
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
                        _metric_view(m, card["profile"], run.scores, taken) for m in principle["metrics"]
                    ),
                )
            )
        self._principles = tuple(principles)
        metrics = [m for p in principles for m in p.metrics]
        self._metrics = metrics
        self._samples = Samples(run, [m.data for m in metrics])
        self._by_name = {str(m.data["name"]): m for m in metrics}

    def build(self, limits: Limits) -> Page:
        """The page at these limits, with no thumbnail chosen yet."""
        card = self._run.scorecard
        galleries = [_gallery(m, self._run.scores, self._samples, limits) for m in self._metrics]
        task_metric = self._by_name.get("task_diversity")
        tasks = (task_metric.data.get("details") or {}).get("tasks") if task_metric else None
        composition = self._by_name.get("composition")
        bars, facts, spread = _composition(composition)
        path, *more = (str(path) for path in card["input"]["paths"])
        return Page(
            card=card,
            name=wording.clip(path.rstrip("/").rsplit("/", 1)[-1] or path, 120)
            + (f" and {len(more):,} more" if more else ""),
            principles=self._principles,
            galleries=tuple(g for g in galleries if g),
            issues=_issues(self._run, limits.examples),
            tasks=_bar_rows(tasks, limit=40),
            task_metric=task_metric,
            composition=composition,
            composition_bars=bars,
            composition_facts=facts,
            composition_quantiles=spread,
        )
