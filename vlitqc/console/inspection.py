"""What ``vlitqc inspect`` shows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from vlitqc.console.issues import SEVERITY_STYLE, examples, heading
from vlitqc.console.text import counted, percent, size, visible

PATHS_NAMED = 3
GOT_KEYS = "got the keys "
UNNAMED_BY_MAP = frozenset(("id", "__key__", "image", "images", "video", "audio", "caption", "none"))
"""A record with no other fields holds no conversation, whatever they are called."""


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
        records.append(f" ({percent(found['unreadable'] / found['records'])})")
    elif found["records"]:
        records.append(", all readable", style="green")
    table.add_row("records", records)
    for label, counts in (("dialects", found["dialects"]), ("left aside", found["others"])):
        if counts:
            table.add_row(label, counted(counts))
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
        formats = ", ".join(filter(None, (counted(counts["formats"]), lasts)))
        table.add_row(kind, *cells, *([formats] if len(table.columns) > len(cells) + 1 else ()))
    return table


def _numbers(first: str, others: Sequence[str]) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column(first, style="cyan", no_wrap=True)
    for name in others:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _issue(issue: Mapping[str, Any], width: int, base: Path) -> Iterator[RenderableType]:
    """A line for the kind, then those of its examples."""
    line = heading(issue, width)
    line.append(f" {issue['records']:>10,} record{'s' if issue['records'] != 1 else ' '}")
    line.append(f" {percent(issue['share']):>6}")
    if issue["n"] != issue["records"]:
        line.append(f"  ({issue['n']:,} in all)", style="dim")
    yield line
    yield from examples(issue, issue["examples"], base)
