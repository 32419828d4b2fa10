"""What the terminal shows: progress, scorecard, tables. Data never reaches it with its control characters."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.filesize import decimal
from rich.markup import escape
from rich.padding import Padding
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

HIDDEN = frozenset(("Cc", "Cf", "Cs", "Zl", "Zp"))
"""Categories of the characters that steer a terminal, or the eye, and are not seen themselves."""

VERDICT_STYLE = {"good": "bold green", "fair": "bold yellow", "poor": "bold red"}
SEVERITY_STYLE = {"error": "red", "warning": "yellow", "note": "dim"}
LONGEST_DETAIL = 400
LONGEST_ID = 40
ROOM_FOR_INTERVALS = 103
"""Columns that a table of metrics with intervals needs beside its counts."""
PATHS_NAMED = 3
GOT_KEYS = "got the keys "
UNNAMED_BY_MAP = frozenset(("id", "__key__", "image", "images", "video", "audio", "caption", "none"))
"""A record with no other fields holds no conversation, whatever they are called."""


def visible(text: object) -> str:
    """Text of unknown origin, safe for a terminal: control and bidi characters and line breaks shown as U+FFFD."""
    return "".join("\ufffd" if unicodedata.category(c) in HIDDEN else c for c in str(text))


def clean(text: object) -> str:
    """``visible`` text with rich's markup escaped."""
    marked = escape(visible(text))
    # rich makes a single backslash at the end even, not three; an odd one would escape the tag that follows.
    return marked + "\\" * ((len(marked) - len(marked.rstrip("\\"))) % 2)


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

    def __init__(self, progress: Progress, stage: str) -> None:
        self._progress = progress
        self._task = progress.add_task(stage, total=None, records=0)

    def records(self, done: int, share: float | None) -> None:
        """``done`` records are finished, and this share of the input; None where nobody knows."""
        total = None if share is None else 1.0
        self._progress.update(self._task, completed=share or 0.0, total=total, records=done)

    def stage(self, name: str) -> None:
        """A stage after the last record has begun."""
        self._progress.update(self._task, description=name.lower())


@contextmanager
def progress(console: Console, *, quiet: bool, stage: str = "scoring") -> Iterator[RunProgress | None]:
    """A progress display on ``console`` that begins with ``stage``, or None when quiet or when nobody watches (a
    pipe, a file)."""
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
        yield RunProgress(shown, stage)


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
    parts: list[RenderableType] = [head, "", _Principles(card["principles"])]
    if card["issues"]:
        parts.append("")
    width = max((len(visible(issue["kind"])) for issue in card["issues"]), default=0)
    for issue in card["issues"]:
        parts.append(_heading(issue, width).append(f" {issue['n']:>6,}"))
        parts += _examples(issue, issue["examples"][:1], Path(card["input"]["path"]))
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
                value, interval = number(metric["value"]), _interval(metric["interval"])
                add(title, name, value, interval, next(count), _note(metric))
                title = Text()
        yield table


def _interval(ends: Sequence[float] | None) -> str:
    return f"{number(ends[0])} – {number(ends[1])}" if ends else ""


def _note(metric: Mapping[str, Any]) -> Text:
    better = {True: "↑", False: "↓", None: ""}[metric["higher_is_better"]]
    if metric["reason"]:
        note = Text(visible(metric["reason"]), style="dim")
    else:
        note = Text(f"{visible(metric['unit'])} {better}".strip())
    if "warning" in metric["details"]:
        note.append(f"  {visible(metric['details']['warning'])}", style="yellow")
    return note


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


# ---------------------------------------------------------------- vlitqc inspect


def inspection(found: Mapping[str, Any]) -> Group:
    """What ``vlitqc inspect`` found: the input, its shape, its media, its issues."""
    parts: list[Any] = [_overview(found)]
    if found["readable"]:
        parts += ["", _shape(found)]
    if found["media"]:
        parts += ["", _media(found["media"])]
        if found["image_root"]:
            parts.append(Text(f"looked for in {visible(found['image_root'])}", style="dim"))
        else:
            parts.append(Text("not looked at", style="dim"))
    parts.append("")
    if not found["issues"]:
        parts.append(Text("no issue found", style="green"))
    width = max((len(visible(issue["kind"])) for issue in found["issues"]), default=0)
    for issue in found["issues"]:
        parts += _issue(issue, width, Path(found["path"]))
    return Group(*parts)


def advice(found: Mapping[str, Any]) -> Iterator[str]:
    """What would make more of the input usable, in sentences."""
    media = found["media"].values()
    local = sum(counts["local"] for counts in media)
    if 2 * sum(counts["missing"] for counts in media) > local:
        yield "most of the media are missing: name the folder that their paths start from with --image-root DIR"
    if any(counts["outside"] for counts in media):
        yield (
            "media paths leave the image root: name a folder above all of them with --image-root DIR, "
            "or let them with --allow-outside"
        )
    details = [example["detail"] for issue in found["issues"] for example in issue["examples"]]
    keys = [told.rpartition(GOT_KEYS)[2].split(", ") for told in details if "no conversation found" in told]
    if any(set(held) - UNNAMED_BY_MAP for held in keys) and 2 * found["unreadable"] > found["records"]:
        yield "most records hold no conversation under a known name: tell the names with --map OURS=THEIRS"


def _overview(found: Mapping[str, Any]) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="cyan", no_wrap=True)
    table.add_column(overflow="fold")
    packed = f" in {' in '.join(reversed(found['layers']))}" if found["layers"] else ""
    files = f"{found['files']:,} file{'s' * (found['files'] != 1)}"
    for label, path in zip_longest(("input",), found["paths"][:PATHS_NAMED], fillvalue=""):
        table.add_row(label, Text(visible(path), style="bold"))
    if len(found["paths"]) > PATHS_NAMED:
        table.add_row("", f"and {len(found['paths']) - PATHS_NAMED:,} more")
    table.add_row("format", visible(f"{found['format']}{packed}, {files}, {size(found['bytes'])}"))
    records = Text(f"{found['records']:,}" + (" (the first)" if found["limit"] else ""))
    if found["unreadable"]:
        records.append(f", {found['unreadable']:,} unreadable", style=SEVERITY_STYLE["error"])
        records.append(f" ({_percent(found['unreadable'] / found['records'])})")
    elif found["records"]:
        records.append(", all readable", style="green")
    table.add_row("records", records)
    for label, counts in (("dialects", found["dialects"]), ("left aside", found["others"])):
        if counts:
            table.add_row(label, _counted(counts))
    for note in found["notes"]:
        table.add_row("note", Text(visible(note), style=SEVERITY_STYLE["warning"]))
    return table


def _shape(found: Mapping[str, Any]) -> Table:
    table = _numbers("shape", ("min", "5%", "median", "95%", "max"))
    for label, name in (
        ("turns a record", "turns"),
        ("words an instruction", "instruction_words"),
        ("words a response", "response_words"),
    ):
        table.add_row(label, *(f"{value:,}" for value in found[name].values()))
    return table


def _media(media: Mapping[str, Mapping[str, Any]]) -> Table:
    columns = ("references", "local", "embedded", "remote", "readable", "missing", "broken", "outside")
    shown = [name for name in columns if name == "references" or any(m[name] for m in media.values())]
    table = _numbers("media", shown)
    if any(counts["formats"] for counts in media.values()):
        table.add_column("formats", overflow="fold")
    for kind, counts in media.items():
        cells = [
            Text(f"{counts[name]:,}", style="red" if name in columns[5:] and counts[name] else "")
            for name in shown
        ]
        lasts = f"{counts['seconds']:,.0f} s" if counts["seconds"] else ""
        formats = ", ".join(filter(None, (_counted(counts["formats"]), lasts)))
        table.add_row(kind, *cells, *([formats] if len(table.columns) > len(cells) + 1 else ()))
    return table


def _numbers(first: str, others: Sequence[str]) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column(first, style="cyan", no_wrap=True)
    for name in others:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _heading(issue: Mapping[str, Any], width: int) -> Text:
    line = Text(no_wrap=True, overflow="ellipsis")
    line.append(f"{issue['severity']:<8}", style=SEVERITY_STYLE[issue["severity"]])
    return line.append(f" {visible(issue['kind']):<{width}}", style="bold")


def _issue(issue: Mapping[str, Any], width: int, base: Path) -> Iterator[RenderableType]:
    """A line for the kind, then those of its examples."""
    line = _heading(issue, width)
    line.append(f" {issue['records']:>10,} record{'s' if issue['records'] != 1 else ' '}")
    line.append(f" {_percent(issue['share']):>6}")
    if issue["n"] != issue["records"]:
        line.append(f"  ({issue['n']:,} in all)", style="dim")
    yield line
    yield from _examples(issue, issue["examples"], base)


def _examples(
    issue: Mapping[str, Any], examples: Sequence[Mapping[str, Any]], base: Path
) -> Iterator[RenderableType]:
    """Each example's place and cause; a cause that several have is told once."""
    style = "dim" if issue["severity"] == "note" else "default"
    told: dict[str, list[str]] = {}
    for example in examples:
        detail = example["detail"].removeprefix(f"{example['file']} ")
        # What the kind says already: "remote: ", "missing: ".
        detail = detail.removeprefix(f"{issue['kind'].partition('_')[0]}: ")
        told.setdefault(detail, []).append(_place(example, base))
    for detail, places in told.items():
        text = Text(", ".join(places), style="cyan")
        text.append("\n" if len(places) > 1 else "  ")
        text.append(_cut(visible(detail), LONGEST_DETAIL), style)
        yield Padding(text, (0, 0, 0, 9), expand=False)


def _place(example: Mapping[str, Any], base: Path) -> str:
    """The file, where it is not the only one, the line and the id; a line of 0 stands for the whole file."""
    file, base = Path(example["file"]), base.absolute()
    place = f"{file.relative_to(base) if file.is_relative_to(base) else file.name}:{example['line']}"
    if not example["line"]:
        return visible(place.removesuffix(":0"))
    if file.absolute() == base:
        place = f"line {example['line']}"
    given = example["id"] and not example["id"].startswith(f"{file.stem}:")
    return visible(f"{place} (id {_cut(example['id'], LONGEST_ID)})" if given else place)


def _counted(counts: Mapping[str, int], most: int = 8) -> str:
    ranked = sorted(counts.items(), key=lambda item: -item[1])
    told = [f"{visible(name) or 'no ending'} {n:,}" for name, n in ranked[:most]]
    return ", ".join([*told, f"{len(counts) - most:,} more"] if len(counts) > most else told)


def _percent(share: float) -> str:
    return f"{share:.1%}" if share >= 0.001 or not share else "<0.1%"


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"
