"""Words, numbers and plain tables for a terminal. Data never reaches it with its control characters."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.filesize import decimal
from rich.markup import escape
from rich.table import Table

HIDDEN = frozenset(("Cc", "Cf", "Cs", "Zl", "Zp"))
"""Categories of the characters that steer a terminal, or the eye, and are not seen themselves."""


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


def interval(ends: Sequence[float] | None) -> str:
    """Both ends, or nothing."""
    return f"{number(ends[0])} – {number(ends[1])}" if ends else ""


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


def counted(counts: Mapping[str, int], most: int = 8) -> str:
    """Names with their counts, the largest first."""
    ranked = sorted(counts.items(), key=lambda item: -item[1])
    told = [f"{visible(name) or 'no ending'} {n:,}" for name, n in ranked[:most]]
    return ", ".join([*told, f"{len(counts) - most:,} more"] if len(counts) > most else told)


def percent(share: float) -> str:
    """A share in percent, with one decimal."""
    return f"{share:.1%}" if share >= 0.001 or not share else "<0.1%"


def cut(text: str, length: int) -> str:
    """The text, or its head with an ellipsis, in no more than ``length`` characters."""
    return text if len(text) <= length else f"{text[: length - 1]}…"
