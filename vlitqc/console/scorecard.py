"""What ``vlitqc score`` shows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.table import Table
from rich.text import Text

from vlitqc.console.issues import examples, heading
from vlitqc.console.text import clean, interval, number, visible

VERDICT_STYLE = {"good": "bold green", "fair": "bold yellow", "poor": "bold red"}
ROOM_FOR_INTERVALS = 103
"""Columns that a table of metrics with intervals needs beside its counts."""


def scorecard(card: Mapping[str, Any]) -> Group:
    """The scorecard as a person reads it: verdict, principles, issues."""
    counts, verdict, profile = card["counts"], card["verdict"], card["profile"]
    head = Table.grid(padding=(0, 1))
    head.add_row(
        Text(verdict["level"].upper(), style=VERDICT_STYLE[verdict["level"]]), clean(verdict["headline"])
    )
    head.add_row(
        "",
        f"{counts['records']:,} records: {counts['scored']:,} scored, {counts['partial']:,} in part, "
        f"{counts['unreadable']:,} unreadable. Profile {clean(profile['name'])}.",
    )
    for problem in verdict["to_fix"]:
        head.add_row("→", f"{clean(problem['title'])} ({problem['n']:,}): {clean(problem['detail'])}")
    parts: list[RenderableType] = [head, "", _Principles(card["principles"])]
    if card["issues"]:
        parts.append("")
    width = max((len(visible(issue["kind"])) for issue in card["issues"]), default=0)
    for issue in card["issues"]:
        parts.append(heading(issue, width).append(f" {issue['n']:>6,}"))
        parts += examples(issue, issue["examples"][:1], Path(card["input"]["path"]))
    return Group(*parts)


@dataclass(frozen=True, slots=True)
class _Principles:
    """The table of metrics. Where it is narrow, a principle has a line of its own above its metrics, and the
    intervals, which the page has too, are left out."""

    principles: Sequence[Mapping[str, Any]]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        counts = [f"{m['n_scored']:,}/{m['n_total']:,}" for p in self.principles for m in p["metrics"]]
        wide = options.max_width >= ROOM_FOR_INTERVALS + max(map(len, counts), default=0)
        table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2 if wide else 1, 0, 0))
        if wide:
            table.add_column("principle", no_wrap=True)
        table.add_column("metric", no_wrap=True)
        table.add_column("value", justify="right", no_wrap=True)
        if wide:
            table.add_column("95% interval", justify="right", no_wrap=True)
        table.add_column("scored", justify="right", no_wrap=True)
        table.add_column("unit or reason", overflow="fold", min_width=16)

        def add(title: Text, name: str | Text, *cells: str | Text) -> None:
            value, _, scored, note = cells
            table.add_row(*((title, name, *cells) if wide else (name, value, scored, note)))

        count = iter(counts)
        for principle in self.principles:
            title = Text(principle["title"], style="cyan")
            if not principle["metrics"]:
                none = Text("no metric of this run serves it", style="dim")
                add(title, "" if wide else title, "–", "", "", none)
            elif not wide:
                table.add_row(title)
            for metric in principle["metrics"]:
                name = metric["name"] if wide else f"  {metric['name']}"
                value, ends = number(metric["value"]), interval(metric["interval"])
                add(title, name, value, ends, next(count), _note(metric))
                title = Text()
        yield table


def _note(metric: Mapping[str, Any]) -> Text:
    better = {True: "↑", False: "↓", None: ""}[metric["higher_is_better"]]
    if metric["reason"]:
        note = Text(visible(metric["reason"]), style="dim")
    else:
        note = Text(f"{visible(metric['unit'])} {better}".strip())
    if "warning" in metric["details"]:
        note.append(f"  {visible(metric['details']['warning'])}", style="yellow")
    return note
