"""What ``vlitqc compare`` shows."""

from __future__ import annotations

import math
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
    """A bar for the random parts of the data sets; None where nobody watches."""
    if not console.is_terminal:
        yield None
        return
    columns = (
        TextColumn("random parts"),
        BarColumn(bar_width=28),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as shown:
        task = shown.add_task("", total=None)
        yield lambda done, total: shown.update(task, completed=done, total=total)


def comparison(found: Mapping[str, Any]) -> Group:
    """The data sets, the paper's tables, the differences from the first, and diversity at equal size."""
    parts: list[RenderableType] = [_sets(found["sets"])]
    parts += [Text(f"mixed: {visible(fault)}", style="yellow") for fault in found["mixed"]]
    parts += ["", _Paper(found)]
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
    return Text(f"{value['value']:.{decimals}f}{'*' if other else ''}", style="yellow" if other else "")


def _differences(found: Mapping[str, Any], i: int) -> list[RenderableType]:
    first, data = found["sets"][0], found["sets"][i]
    title = f"{data['letter']} − {first['letter']}: {visible(data['name'])} against {visible(first['name'])}"
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("metric", no_wrap=True, max_width=26, overflow="ellipsis")
    for name in (first["letter"], data["letter"], "difference", "95% interval"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    without: dict[str, list[str]] = {}
    for metric in found["metrics"]:
        told = metric["differences"][i]
        if told["value"] is None or told["interval"] is None:
            if any(value is not None and value["value"] is not None for value in metric["values"]):
                without.setdefault(told["reason"] or "no interval", []).append(metric["name"])
            continue
        low, high = told["interval"]
        places = _places(high - low)
        table.add_row(
            Text(visible(metric["name"])),
            *(Text(_fixed(_compared(metric, k), places)) for k in (0, i)),
            Text(_signed(told["value"], places)),
            Text(f"{_signed(low, places)} to {_signed(high, places)}"),
            _word(told),
        )
    parts: list[RenderableType] = [Text(title, style="bold")]
    if _nothing_differs(found, i):
        return [*parts, Text("The same records with the same scores: nothing differs.", style="dim")]
    if table.row_count:
        parts.append(table)
    parts.append(Text(summary(found, i), style="dim"))
    for reason, names in without.items():
        parts.append(Text(f"not compared ({visible(reason)}): {visible(', '.join(names))}", style="dim"))
    return parts


def _compared(metric: Mapping[str, Any], i: int) -> float | None:
    """The value that the difference is of: at equal size for a data-set metric."""
    side = metric["fair"]["sets"][i] if metric["fair"] else None
    source = side if side is not None and side["value"] is not None else metric["values"][i]
    value: float | None = source["value"]
    return value


def _nothing_differs(found: Mapping[str, Any], i: int) -> bool:
    told = [metric["differences"][i]["interval"] for metric in found["metrics"]]
    return any(told) and all(interval in (None, [0, 0]) for interval in told)


def _places(width: float) -> int | None:
    """Digits after the point that leave two significant ones of an interval's width; None where it has none."""
    return max(0, 1 - math.floor(math.log10(width))) if width > 0 else None


def _fixed(value: float | None, places: int | None) -> str:
    return number(value) if value is None or places is None else f"{value:,.{places}f}"


def _signed(value: float, places: int | None) -> str:
    text = _fixed(value, places)
    return f"+{text}" if value > 0 and text.strip("0.,") else text


def _word(told: Mapping[str, Any]) -> Text:
    if told["holds"]:
        return Text("clear", style="bold green")
    return Text("(clear)", style="yellow") if told["clear"] else Text("")


def summary(found: Mapping[str, Any], i: int) -> str:
    """How many differences are clear, and how many of them still are when all are looked at together."""
    told = [metric["differences"][i] for metric in found["metrics"]]
    tested = [difference for difference in told if difference["interval"] is not None]
    clear = sum(bool(difference["clear"]) for difference in tested)
    holds = sum(bool(difference["holds"]) for difference in tested)
    if not tested:
        return "No metric can be compared."
    words = f"{clear} of {len(tested)} intervals exclude 0"
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
    for metric in metrics:
        title, fair = Text(visible(metric["name"])), metric["fair"]
        for data, raw, side in zip(found["sets"], metric["values"], fair["sets"], strict=True):
            if side is None:
                continue
            mark = "" if fair["raw_comparable"] else "≠"
            incomparable |= bool(mark)
            ends = side["interval"]
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
    notes = dict.fromkeys(metric["fair"]["note"] for metric in metrics if metric["fair"]["note"])
    parts += [Text(visible(note), style="dim") for note in notes]
    return parts
