"""What ``vlitqc explain`` shows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from vlitqc.console.issues import LONGEST_DETAIL, SEVERITY_STYLE
from vlitqc.console.text import clean, cut, number, visible

FATE_STYLE = {"kept": "bold green", "dropped": "bold red", "unreadable": "bold yellow"}


def explanation(told: Mapping[str, Any]) -> Group:
    """What became of each record and why, its scores among all others', its issues and copies."""
    parts: list[RenderableType] = []
    if told["note"]:
        parts += [Text(visible(told["note"]), style="yellow"), ""]
    for record in told["records"]:
        parts += [*_record(record, told["recipe"]), ""]
    if told["n"] > len(told["records"]):
        parts += [Text(f"and {told['n'] - len(told['records']):,} more records of this id", style="dim"), ""]
    if told["decisions"]:
        parts.append(Text(f"decided in {visible(told['decisions'])}", style="dim", overflow="fold"))
    return Group(*parts)


def _record(record: Mapping[str, Any], recipe: Mapping[str, str] | None) -> Iterator[RenderableType]:
    place = f"  row {record['row']}, line {record['line']} of {Path(record['file']).name}, {record['state']}"
    yield Text(visible(record["id"]), style="bold", overflow="fold").append(visible(place), style="not bold")
    if record["fate"] is not None:
        by = f" by the recipe {visible(recipe['name'])}" if recipe and record["fate"] == "dropped" else ""
        line = Text(record["fate"].upper(), style=FATE_STYLE[record["fate"]])
        line.append(by, style="default not bold")
        if record["must_keep"]:
            line.append(" whatever the rules say (--must-keep)", style="default not bold")
        yield line
    if record["why"]:
        yield Padding(Text(f"not selected: {visible(record['why'])}"), (0, 0, 0, 2))
    if record["failed"]:
        yield ""
        yield _rules("failed", "red", record["failed"])
    if record["passed"]:
        yield ""
        yield _rules("passed", "green", [{**rule, "because": ""} for rule in record["passed"]])
    metrics = [one for one in record["metrics"] if one["value"] is not None or one["reason"]]
    if metrics:
        yield ""
        yield _metrics(metrics)
    if record["issues"]:
        yield ""
    for issue in record["issues"]:
        line = Text(f"{issue['severity']:<8} ", style=SEVERITY_STYLE[issue["severity"]])
        line.append(visible(issue["kind"]), style="bold")
        line.append(f"  {cut(visible(issue['detail']), LONGEST_DETAIL)}", style="default not bold")
        yield line
    copies = record["duplicates"]
    if copies is not None:
        first = copies["first"]
        here = "this record" if first["row"] == record["row"] else f"{first['id']} (row {first['row']})"
        kind = (copies["kind"] or "alike").replace("_", " ")
        yield ""
        yield Text(visible(f"one of {copies['size']:,} copies ({kind}); the first is {here}"))


def _rules(title: str, style: str, rules: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(box=None, header_style=f"bold {style}", pad_edge=False)
    table.add_column(title, overflow="fold")
    table.add_column("", overflow="fold", ratio=1)
    for rule in rules:
        told = Text("\n").join(Text(visible(_compared(one))) for one in rule["compared"])
        if rule["because"]:
            told.append("\n" * bool(rule["compared"]) + visible(rule["because"]), style="dim")
        table.add_row(clean(rule["rule"]), told)
    return table


def _compared(one: Mapping[str, Any]) -> str:
    """``matching_degree 18.2, 3.9 below 22.1``."""
    column, value, threshold = one["column"], one["value"], one["threshold"]
    if value is None:
        return f"{column}: {cut(one['text'], LONGEST_DETAIL)}" if one["text"] else f"{column}: no score"
    if threshold is None:
        return f"{column} {number(value)}"
    if not one["distance"]:
        return f"{column} {number(value)}, at {number(threshold)}"
    side = "below" if value < threshold else "above"
    return f"{column} {number(value)}, {number(one['distance'])} {side} {number(threshold)}"


def _metrics(metrics: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("metric", no_wrap=True)
    table.add_column("value", justify="right", no_wrap=True)
    table.add_column("percentile", justify="right", no_wrap=True)
    table.add_column("unit or reason", overflow="fold")
    for metric in metrics:
        rank = "" if metric["percentile"] is None else f"{metric['percentile']:.0f}"
        if metric["value"] is None:
            note = Text(visible(metric["reason"] or ""), style="dim")
        else:
            note = Text(visible(metric["unit"]))
        table.add_row(clean(metric["name"]), number(metric["value"]), rank, note)
    return table
