"""What ``vlitqc compare`` shows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from vlitqc.console.text import clean, cut, number, visible

ROOM_FOR_BOTH_TABLES = 120
"""Columns that the paper's Tables 3 and 4 need beside each other, with names of data sets."""
LONGEST_NAME = 24


@contextmanager
def parts_drawn(console: Console) -> Iterator[Callable[[int, int], None] | None]:
    """A bar for what takes time: metrics of parts, then random parts of the data sets; None where nobody watches."""
    if not console.is_terminal:
        yield None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=28),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as shown:
        task = shown.add_task("metrics of the data sets", total=None)
        yield lambda done, total: shown.update(task, description="random parts", completed=done, total=total)


def comparison(found: Mapping[str, Any]) -> Group:
    """The data sets, the paper's tables, the differences from the first, and diversity at equal size."""
    parts: list[RenderableType] = [_sets(found["sets"])]
    parts += [Text(f"mixed: {visible(fault)}", style="yellow") for fault in found["mixed"]]
    parts += ["", _Paper(found)]
    if found["mixed"]:
        parts += [Text("* on another scale than the first; see why above.", style="dim")]
    for i in range(1, len(found["sets"])):
        parts += ["", *_differences(found, i)]
    parts += _equal_size(found)
    if nowhere := _without_value(found):
        parts += ["", Text(f"No value in any: {visible(', '.join(nowhere))}.", style="dim")]
    return Group(*parts)


def _without_value(found: Mapping[str, Any]) -> list[str]:
    """The metrics that no data set has a value of."""
    return [
        metric["name"]
        for metric in found["metrics"]
        if all(value is None or value["value"] is None for value in metric["values"])
    ]


def _sets(sets: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("", "data set"):
        table.add_column(name, overflow="fold")
    table.add_column("records", justify="right", no_wrap=True)
    table.add_column("profile", overflow="fold")
    for data in sets:
        table.add_row(
            Text(data["letter"], style="cyan"),
            clean(data["name"]),
            f"{data['n']:,}",
            clean(data["profile"]["name"]),
        )
    return table


@dataclass(frozen=True, slots=True)
class _Paper:
    """Tables 3 and 4 of the paper as one where there is room for it, else as two."""

    found: Mapping[str, Any]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        columns = self.found["columns"]
        if options.max_width >= ROOM_FOR_BOTH_TABLES:
            yield self._table(columns, LONGEST_NAME)
            return
        yield self._table([column for column in columns if column["table"] == 3], 12)
        yield ""
        yield self._table([column for column in columns if column["table"] == 4], LONGEST_NAME)

    def _table(self, columns: Sequence[Mapping[str, Any]], longest: int) -> RenderableType:
        metrics = {metric["name"]: metric for metric in self.found["metrics"]}
        table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 1, 0, 0))
        table.add_column("data set", no_wrap=True)
        table.add_column("n", justify="right", no_wrap=True)
        for column in columns:
            table.add_column(column["head"], justify="right", no_wrap=True, min_width=4)
        for i, data in enumerate(self.found["sets"]):
            cells = [_printed(metrics.get(column["metric"]), i, column["decimals"]) for column in columns]
            name = Text(data["letter"], style="cyan").append(
                f" {cut(visible(data['name']), longest - 2)}", style="default"
            )
            table.add_row(name, f"{data['n']:,}", *cells)
        return table


def _printed(metric: Mapping[str, Any] | None, i: int, decimals: int) -> Text:
    value = metric["values"][i] if metric else None
    if value is None or value["value"] is None:
        return Text("–", style="dim")
    other = value["note"] is not None
    return Text(f"{value['value']:z.{decimals}f}{'*' if other else ''}", style="yellow" if other else "")


def _differences(found: Mapping[str, Any], i: int) -> list[RenderableType]:
    first, data = found["sets"][0], found["sets"][i]
    one, two = (cut(visible(each["name"]), LONGEST_NAME) for each in (first, data))
    title = f"{data['letter']} − {first['letter']}: {two} against {one}"
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("metric", no_wrap=True, max_width=26, overflow="ellipsis")
    for name in (first["letter"], data["letter"], "difference", "95% interval"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    without: dict[str, list[str]] = {}
    for metric in found["metrics"]:
        told = metric["differences"][i]
        printed = told["printed"]
        if printed is None:
            if any(value is not None and value["value"] is not None for value in metric["values"]):
                without.setdefault(told["reason"] or "no interval", []).append(metric["name"])
            continue
        cells = (printed[key] for key in ("first", "other", "difference", "interval"))
        table.add_row(Text(visible(metric["name"])), *map(Text, cells), _word(told))
    parts: list[RenderableType] = [Text(title, style="bold")]
    if table.row_count and not data["from_first"]["same"]:
        parts.append(table)
    parts.append(Text(summary(data["from_first"]), style="dim"))
    for reason, names in without.items():
        parts.append(Text(f"not compared ({visible(reason)}): {visible(', '.join(names))}", style="dim"))
    return parts


def _word(told: Mapping[str, Any]) -> Text:
    if told["holds"]:
        return Text("clear", style="bold green")
    return Text("(clear)", style="yellow") if told["clear"] else Text("")


def summary(counts: Mapping[str, Any]) -> str:
    """How many differences are clear, and how many of them still are when all are looked at together."""
    n, clear, holds = (counts[key] for key in ("n", "clear", "holds"))
    if counts["same"]:
        return "The same records with the same scores: nothing differs."
    if not n:
        return "No metric can be compared."
    words = f"{clear} of {n} intervals exclude 0"
    if not clear:
        return f"{words}: no difference is clear."
    if holds == clear:
        return f"{words}, and all of them still when so many are looked at together (Benjamini–Hochberg, 5%)."
    still = f"{holds or 'none'} of them still when so many are looked at together (Benjamini–Hochberg, 5%)"
    return f"{words}, {still}; (clear) is by itself."


def _equal_size(found: Mapping[str, Any]) -> list[RenderableType]:
    metrics = [metric for metric in found["metrics"] if metric["fair"] is not None]
    if not metrics:
        return []
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("metric", no_wrap=True, max_width=26, overflow="ellipsis")
    table.add_column("", no_wrap=True)
    for name in ("scored", "as it is", "at size", "value", "95% interval"):
        table.add_column(name, justify="right", no_wrap=True)
    incomparable = False
    without: dict[tuple[str, str], dict[str, None]] = {}
    for metric in metrics:
        title, fair = Text(visible(metric["name"])), metric["fair"]
        for data, raw, side in zip(found["sets"], metric["values"], fair["sets"], strict=True):
            if side is None:
                continue
            mark = "" if fair["raw_comparable"] else "≠"
            incomparable |= bool(mark)
            ends = side["interval"]
            if side["reason"]:
                what = "a value" if side["value"] is None else "an interval"
                without.setdefault((what, side["reason"]), {})[data["letter"]] = None
            table.add_row(
                title,
                Text(data["letter"], style="cyan"),
                f"{side['scored']:,}",
                Text(f"{number(raw['value'])}{mark}", style="dim" if mark else ""),
                f"{fair['m']:,}",
                Text(number(side["value"])),
                Text(f"{number(ends[0])} to {number(ends[1])}" if ends else ""),
            )
            title = Text()
    parts: list[RenderableType] = ["", Text("Data-set metrics at equal size", style="bold"), table]
    if incomparable:
        parts.append(
            Text(
                "≠ the sizes differ by more than 5%: values as they are say more of size than of content.",
                style="dim",
            )
        )
    for (what, reason), letters in without.items():
        parts.append(Text(f"{', '.join(letters)} without {what}: {visible(reason)}", style="dim"))
    notes = dict.fromkeys(metric["fair"]["note"] for metric in metrics if metric["fair"]["note"])
    parts += [Text(visible(note), style="dim") for note in notes]
    return parts
