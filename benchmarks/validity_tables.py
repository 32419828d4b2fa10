"""The stored results of the experiment (``validity/<set>.json``) as tables: own corruptions, and what else moved.

A result is what ``vlitqc validate`` writes. Of cells that are no target only the strongest strength is stored.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import validity_sets

from vlitqc.validity.result import UNMOVED

STORED = Path(__file__).resolve().parent / "validity"

Result = Mapping[str, Any]
Cell = Mapping[str, Any]

EXPLAINED: dict[tuple[str, str], str] = {
    ("image_readability", "rotated"): "edges and noise are the same in every direction",
    (
        "image_readability",
        "exposure",
    ): "sharpness is relative to contrast, so dark and bright pictures keep theirs",
    ("image_readability", "occlusion"): "what is left of the picture is as sharp as before",
    ("text_readability", "truncated_response"): "the words that are left are still in their order",
    (
        "text_readability",
        "repeated_response",
    ): "a mean over pairs of words sees the seams alone, and a language model "
    "with a memory expects what it has just read",
    (
        "text_readability",
        "shuffled_words",
    ): "captions that are lists of words read little worse in another order",
    ("text_readability", "shuffled_instruction_words"): "the response is as it was, and is the longer part",
    ("text_readability", "typos"): "captions with names and rare words are taken for misspelt as they are",
    (
        "response_diversity",
        "duplicated_responses",
    ): "halves of so few single captions hold hardly a cluster, before as after; see all photos",
    (
        "visual_semantic_diversity",
        "similar_pictures",
    ): "halves of so few pictures hold hardly a cluster, before as after; see all photos",
    ("ifd", "swapped_responses"): "it reads no picture: to a general question every caption is an answer",
}
"""(metric, corruption) → why a limit is missed. A movement that is explained does not count as a failure; a corruption
of its own that a metric does not see stays one."""

NULLS = 0.05
"""Share of records without a score under a corruption from which it is told."""


# ---------------------------------------------------------------- stored


def store(name: str, found: Result, folder: Path = STORED) -> Path:
    """Write a result, a line a cell, and return the file."""
    cells = [
        cell if cell["role"] == "target" else {**cell, "by_strength": cell["by_strength"][-1:]}
        for cell in found["cells"]
    ]
    head = {key: value for key, value in found.items() if key != "cells"}
    lines = ",\n".join(f"  {_compact(cell)}" for cell in cells)
    body = ",\n".join(f" {json.dumps(key)}: {_compact(value)}" for key, value in head.items())
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}.json"
    path.write_text(f'{{\n{body},\n "cells": [\n{lines}\n ]\n}}\n', encoding="utf-8")
    return path


def stored(folder: Path = STORED) -> dict[str, Result]:
    """All results that are there, by set."""
    found = {path.stem: path for path in sorted(folder.glob("*.json"))}
    order = [name for name in validity_sets.SETS if name in found]
    order += [name for name in found if name not in order]
    return {name: json.loads(found[name].read_text(encoding="utf-8")) for name in order}


def _compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(", ", ": "))


# ---------------------------------------------------------------- cells


@dataclass(frozen=True)
class Row:
    """A metric under a corruption in every set: the cells by set, those without an AUC left out."""

    metric: str
    corruption: str
    cells: Mapping[str, Cell]

    @property
    def wanted(self) -> float | None:
        """The AUC that is asked of the metric, or None."""
        told = next(iter(self.cells.values()))["wanted"] or {}
        return told.get("at_least")

    @property
    def missed(self) -> list[str]:
        """Sets in which a limit is missed."""
        return [name for name, cell in self.cells.items() if cell["holds"] is False]

    @property
    def why(self) -> str:
        """Why it moves, or why it does not."""
        told = next((cell["why"] for cell in self.cells.values() if cell["why"]), None)
        return told or EXPLAINED.get((self.metric, self.corruption), "")


def rows(results: Mapping[str, Result], role: Callable[[Cell], bool]) -> list[Row]:
    """Cells with an AUC for which ``role`` holds, as rows; metrics in the order of the scorecard."""
    found: dict[tuple[str, str], dict[str, Cell]] = defaultdict(dict)
    for name, result in results.items():
        for cell in result["cells"]:
            if cell["auc"] is not None and role(cell):
                found[cell["metric"], cell["corruption"]][name] = cell
    metrics = list(dict.fromkeys(metric for result in results.values() for metric in result["metrics"]))
    corruptions = list(dict.fromkeys(one for result in results.values() for one in result["corruptions"]))
    order = sorted(found, key=lambda key: (metrics.index(key[0]), corruptions.index(key[1])))
    return [Row(*key, found[key]) for key in order]


def own(results: Mapping[str, Result]) -> list[Row]:
    """Every metric under its own corruptions."""
    return rows(results, lambda cell: cell["role"] == "target")


def moved(results: Mapping[str, Result]) -> list[Row]:
    """What moves by ``UNMOVED`` or more, the whole interval, without being a target."""
    return rows(results, lambda cell: cell["role"] != "target" and cell["interval"][0] >= UNMOVED)


def by_chance(results: Mapping[str, Result]) -> tuple[int, int]:
    """How many cells that should not move lie at ``UNMOVED`` or above with an interval from below; of how many."""
    quiet = [
        cell
        for result in results.values()
        for cell in result["cells"]
        if cell["role"] == "off" and cell["auc"] is not None
    ]
    return sum(cell["auc"] >= UNMOVED > cell["interval"][0] for cell in quiet), len(quiet)


def unmeasured(results: Mapping[str, Result]) -> dict[str, str]:
    """Metrics without any AUC on a corruption of their own → why."""
    seen = {row.metric for row in own(results)}
    found: dict[str, str] = {}
    for result in results.values():
        aimed = {cell["metric"] for cell in result["cells"] if cell["role"] == "target"}
        for name, metric in result["metrics"].items():
            if name in seen or name in found:
                continue
            reasons = [cell["reason"] for cell in result["cells"] if cell["metric"] == name]
            why = metric["reason"] or next(filter(None, reasons), None)
            found[name] = why if name in aimed and why else why or "no corruption aims at it"
    return found


def failures(results: Mapping[str, Result]) -> list[str]:
    """Limits that are missed, in words: of own corruptions all, of other movements those without an explanation."""
    found = []
    for row in own(results):
        told = ", ".join(f"{row.cells[name]['auc']:.2f} ({name})" for name in row.missed)
        if told:
            found.append(f"{row.metric} under {row.corruption}: {told}; wanted {row.wanted:g}")
    for row in moved(results):
        told = ", ".join(f"{row.cells[name]['auc']:.2f} ({name})" for name in row.missed)
        if told and not row.why:
            found.append(f"{row.metric} moves under {row.corruption}: {told}; wanted below {UNMOVED:g}")
    return found


# ---------------------------------------------------------------- words


def cell_text(cell: Cell | None, *, spearman: bool = False, mark: bool = True) -> str:
    """AUC and interval; in bold where it misses its limit."""
    if cell is None:
        return "–"
    number = f"{cell['auc']:.2f}"
    if mark and cell["holds"] is False:
        number = f"**{number}**"
    text = f"{number} [{cell['interval'][0]:.2f}, {cell['interval'][1]:.2f}]"
    if spearman and cell["spearman"] is not None:
        text += f"; ρ {cell['spearman']:+.2f}"
    if cell["became_null"] >= NULLS:
        text += f"; {cell['became_null']:.0%} null"
    return text


def table(columns: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [columns, ["---"] * len(columns), *body]
    return "\n".join("| " + " | ".join(text.replace("|", "\\|") for text in line) + " |" for line in lines)


def own_table(results: Mapping[str, Result], *, spearman: bool) -> str:
    """Metric × own corruption, a column a set."""
    names = list(results)
    body = [
        [
            f"`{row.metric}`",
            f"`{row.corruption}`",
            *(cell_text(row.cells.get(name), spearman=spearman) for name in names),
            f"{row.wanted:g}" if row.wanted is not None else "",
        ]
        for row in own(results)
    ]
    return table(["metric", "its own corruption", *map(title, names), "wanted"], body)


def moved_table(results: Mapping[str, Result]) -> str:
    """What moves although it is no target, with the reason; a column a set."""
    names = list(results)
    body = [
        [
            f"`{row.metric}`",
            f"`{row.corruption}`",
            *(cell_text(row.cells.get(name)) for name in names),
            row.why or "**not explained**",
        ]
        for row in moved(results)
    ]
    return table(["metric", "corruption", *map(title, names), "why"], body)


def title(name: str) -> str:
    """What a set is called in a heading."""
    return validity_sets.TITLES.get(name, name)


def about(results: Mapping[str, Result]) -> str:
    """Of which data the tables are, in one sentence."""
    told = ", ".join(f"{title(name)} ({result['records']})" for name, result in results.items())
    profiles = sorted({result["profile"] for result in results.values()})
    what = "AUC at the strongest strength, with its 95% interval"
    return f"Profile {' and '.join(profiles)}; clean records: {told}. {what}."


def document(results: Mapping[str, Result], *, full: bool) -> str:
    """The tables in Markdown; ``full`` with the trend over strengths."""
    parts = [about(results)]
    parts += ["### Own corruptions", own_table(results, spearman=full)]
    notes = ["**Bold**: below what is wanted."]
    if full:
        notes.append("ρ: mean correlation of a record's score with the strength.")
    notes.append(f"*null*: share of records that lose their score, where it is {NULLS:.0%} or more.")
    parts.append(" ".join(notes))
    short = [row for row in own(results) if row.missed]
    if short:
        lines = [
            f"- `{row.metric}` under `{row.corruption}` ({', '.join(map(title, row.missed))})"
            + (f": {row.why}" if row.why else "")
            for row in short
        ]
        parts += ["What is missed:", "\n".join(lines)]
    missing = unmeasured(results)
    if missing:
        parts.append("Not measured: " + "; ".join(f"`{name}` ({why})" for name, why in missing.items()) + ".")
    above, quiet = by_chance(results)
    parts.append("### What else moves")
    if moved(results):
        parts.append(moved_table(results))
    parts.append(
        f"Listed is what moves by {UNMOVED:g} or more with its whole interval, a dash where it does not. Of {quiet:,} "
        f"cells that should not move, {above:,} more lie at {UNMOVED:g} or above with an interval that begins below it."
    )
    return "\n\n".join(parts)


def between(text: str, name: str, body: str) -> str:
    """The text with ``body`` between ``<!-- name:begin -->`` and ``<!-- name:end -->``; ValueError without these."""
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    before, found, rest = text.partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise ValueError(f"the document has no place for {name}: {begin} … {end}")
    return f"{before}{begin}\n{body}\n{end}{after}"
