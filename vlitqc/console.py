"""What the terminal shows: progress, scorecard, tables. Data never reaches it with its control characters."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.filesize import decimal
from rich.markup import escape
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table
from rich.text import Text

VERDICT_STYLE = {"good": "bold green", "fair": "bold yellow", "poor": "bold red"}
SEVERITY_STYLE = {"error": "red", "warning": "yellow", "note": "dim"}


def visible(text: object) -> str:
    """Text of unknown origin, safe for a terminal: control and bidi characters shown as U+FFFD."""
    return "".join("\ufffd" if unicodedata.category(c) in ("Cc", "Cf", "Cs") else c for c in str(text))


def clean(text: object) -> str:
    """``visible`` text with rich's markup escaped."""
    return escape(visible(text))


def number(value: float | None) -> str:
    """Four significant digits, no exponent for everyday sizes; a dash for nothing."""
    if value is None:
        return "–"
    if value == round(value) and abs(value) < 1e6:
        return f"{value:,.0f}"
    return f"{value:.4g}"


def size(n_bytes: int | None) -> str:
    """Bytes as a person reads them; a dash for nothing."""
    return "–" if n_bytes is None else decimal(n_bytes)


def usage(counts: Mapping[str, int]) -> str:
    """What a judge was asked, in a sentence."""
    told = f"{counts.get('calls', 0):,} calls, {counts.get('cached', 0):,} answers from the cache"
    for key, words in (("failed", "failed"), ("retries", "tried again")):
        told += f", {counts[key]:,} {words}" if counts.get(key) else ""
    tokens = counts.get("tokens_in", 0) + counts.get("tokens_out", 0)
    return told + (f", {tokens:,} tokens" if tokens else "")


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        elapsed = task.elapsed or 0.0
        done = task.fields["records"]
        return Text(f"{done / elapsed:,.1f} records/s" if done and elapsed else "", style="cyan")


class RunProgress:
    """Draws a run's progress: share of the input, records, rate, time left."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task = progress.add_task("scoring", total=None, records=0)

    def records(self, done: int, bytes_done: int, bytes_total: int) -> None:
        """``done`` records are finished."""
        self._progress.update(self._task, completed=bytes_done, total=bytes_total, records=done)

    def stage(self, name: str) -> None:
        """A stage after the last record has begun."""
        self._progress.update(self._task, description=name.lower())


@contextmanager
def progress(console: Console, *, quiet: bool) -> Iterator[RunProgress | None]:
    """A progress display on ``console``, or None when quiet or when nobody watches (a pipe, a file)."""
    if quiet or not console.is_terminal:
        yield None
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=28),
        TextColumn("{task.fields[records]:,} records"),
        _Rate(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as shown:
        yield RunProgress(shown)


@contextmanager
def download(console: Console, name: str) -> Iterator[Callable[[int, int | None], None]]:
    """A progress bar for one download; the function within is told the bytes so far and in all."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=28),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as shown:
        task = shown.add_task(name, total=None, visible=False)
        yield lambda done, total: shown.update(task, completed=done, total=total, visible=True)


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
    parts: list[Any] = [head, "", _principles(card["principles"])]
    if card["issues"]:
        parts += ["", _issues(card["issues"])]
    return Group(*parts)


def _principles(principles: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("principle", style="cyan", no_wrap=True)
    table.add_column("metric", no_wrap=True)
    table.add_column("value", justify="right")
    table.add_column("95% interval", justify="right", no_wrap=True)
    table.add_column("scored", justify="right", no_wrap=True)
    table.add_column("unit or reason")
    for principle in principles:
        title = principle["title"]
        if not principle["metrics"]:
            table.add_row(title, "", "–", "", "", Text("no metric of this run serves it", style="dim"))
        for metric in principle["metrics"]:
            interval = metric["interval"]
            better = {True: "↑", False: "↓", None: ""}[metric["higher_is_better"]]
            note = (
                Text.from_markup(clean(metric["reason"]), style="dim")
                if metric["reason"]
                else Text.from_markup(f"{clean(metric['unit'])} {better}".strip())
            )
            if "warning" in metric["details"]:
                note.append(f"  {visible(metric['details']['warning'])}", style="yellow")
            table.add_row(
                title,
                metric["name"],
                number(metric["value"]),
                f"{number(interval[0])} – {number(interval[1])}" if interval else "",
                f"{metric['n_scored']:,}/{metric['n_total']:,}",
                note,
            )
            title = ""
    return table


def _issues(issues: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("issue", no_wrap=True)
    table.add_column("n", justify="right")
    table.add_column("severity")
    table.add_column("for instance")
    for issue in issues:
        first = issue["examples"][0]
        place = f"{clean(Path(first['file']).name)}:{first['line']}"
        severity = Text(issue["severity"], style=SEVERITY_STYLE[issue["severity"]])
        detail = clean(first["detail"])
        table.add_row(
            clean(issue["kind"]),
            f"{issue['n']:,}",
            severity,
            f"{place} {detail[:90]}{'…' if len(detail) > 90 else ''}",
        )
    return table


def rows(header: Sequence[str], lines: Iterable[Sequence[Any]]) -> Table:
    """A plain table; numbers are right-aligned."""
    lines = [list(line) for line in lines]
    table = Table(box=None, header_style="bold", pad_edge=False)
    for i, name in enumerate(header):
        numeric = bool(lines) and all(isinstance(line[i], int | float) for line in lines)
        table.add_column(name, justify="right" if numeric else "left", overflow="fold")
    for line in lines:
        table.add_row(*(f"{cell:,}" if isinstance(cell, int) else clean(cell) for cell in line))
    return table
