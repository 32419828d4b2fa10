"""What every chart needs: numbers as text, round ticks, a scale from values to places, labels that do not collide."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from vlitqc_reports.wording import plain

FONT = 12
"""Height of the letters, in units of the view box."""


def f(x: float) -> str:
    """A coordinate with two decimals at most."""
    return f"{x:.2f}".rstrip("0").rstrip(".")


def ticks(low: float, high: float, n: int = 6) -> list[float]:
    """Round numbers inside [low, high], about ``n``."""
    width = high - low
    if not math.isfinite(width) or width <= 0:
        return [low]
    step = _step(width / n)
    first = math.ceil(low / step - 1e-9)
    return [k * step for k in range(first, math.floor(high / step + 1e-9) + 1)]


def rounded(low: float, high: float, n: int = 4) -> tuple[float, float]:
    """The next round numbers that hold [low, high]; one unit is added where they are equal."""
    if high <= low:
        high = low + 1.0
    step = _step((high - low) / n)
    return math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step


def _step(rough: float) -> float:
    power = 10.0 ** math.floor(math.log10(rough))
    return next(m * power for m in (1, 2, 5, 10) if m * power >= rough * 0.999)


@dataclass(frozen=True, slots=True)
class Scale:
    """Values from ``low`` to ``high`` on places from ``left`` to ``right``; with ``log`` by ratio, above 0 only."""

    low: float
    high: float
    left: float
    right: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """The place of a value; values beyond the ends stay at the ends."""
        if self.log:
            part = math.log(max(value, self.low) / self.low) / math.log(self.high / self.low)
        else:
            part = (value - self.low) / (self.high - self.low)
        return self.left + min(max(part, 0.0), 1.0) * (self.right - self.left)


def width_of(text: str, size: float = FONT) -> float:
    """About how wide a text is; no browser is asked, so it errs on the wide side."""
    cells = sum(
        0.0 if unicodedata.combining(c) else 1.05 if unicodedata.east_asian_width(c) in "WF" else 0.55
        for c in text
    )
    return size * cells


def fitted(text: str, room: float) -> str:
    """The text without hidden characters, cut with an ellipsis where it is wider than ``room``."""
    text = " ".join(plain(text[:400]).split())
    if width_of(text) <= room:
        return text
    while text and width_of(text + "…") > room:
        text = text[:-1]
    return text.rstrip() + "…"


@dataclass(frozen=True, slots=True)
class Label:
    """A text below a tick: its place, the anchor that keeps it inside the chart, and its row from the top."""

    at: float
    text: str
    anchor: str
    x: float
    row: int


def rows(labels: Iterable[tuple[float, str]], left: float, right: float) -> list[Label]:
    """Labels in as few rows as keep them apart, each inside [left, right] where it can be."""
    ends: list[float] = []
    placed = []
    for at, text in sorted(labels):
        half = width_of(text) / 2
        x, anchor = at, "middle"
        start = at - half
        if start < left:
            x, anchor, start = left, "start", left
        elif at + half > right:
            x, anchor, start = right, "end", right - 2 * half
        row = next((i for i, end in enumerate(ends) if start >= end), len(ends))
        if row == len(ends):
            ends.append(0.0)
        ends[row] = start + 2 * half + 8
        placed.append(Label(at, text, anchor, x, row))
    return placed


def line(css: str, x1: float, y1: float, x2: float, y2: float) -> Markup:
    """A line of a class."""
    return Markup('<line class="{}" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(
        css, f(x1), f(x2), f(y1), f(y2)
    )


def rect(css: str, x: float, y: float, width: float, height: float, title: str = "") -> Markup:
    """A rectangle of a class; ``title`` is shown under the pointer."""
    shape = Markup('<rect class="{}" x="{}" y="{}" width="{}" height="{}"').format(
        css, f(x), f(y), f(width), f(height)
    )
    if not title:
        return shape + Markup("/>")
    return shape + Markup("><title>{}</title></rect>").format(plain(title))


def text(css: str, x: float, y: float, words: str, anchor: str = "start") -> Markup:
    """A text of a class; hidden characters are named."""
    return Markup('<text class="c-text {}" x="{}" y="{}" text-anchor="{}">{}</text>').format(
        css, f(x), f(y), anchor, plain(words)
    )


def value_axis(scale: Scale, y: float, marks: Sequence[tuple[float, str]]) -> Markup:
    """An axis at height ``y`` with its ticks; what would run into the label before it stays without one."""
    parts = [line("c-axis", scale.left, y, scale.right, y)]
    for label in rows(((scale(value), words) for value, words in marks), scale.left, scale.right):
        parts.append(line("c-axis", label.at, y, label.at, y + 4))
        if label.row == 0:
            parts.append(text("", label.x, y + 16, label.text, label.anchor))
    return Markup().join(parts)


def svg(
    css: str,
    size: tuple[float, float],
    name: str,
    title: str,
    description: str,
    parts: Iterable[Markup],
    *,
    axis: Mapping[str, float] | None = None,
) -> Markup:
    """A chart. ``name`` is what a file of it is called, ``title`` stands above it there; both are read out with the
    ``description``.

    It is as wide as its view box and shrinks with its room; with an ``axis``, which is told to scripts as ``data-…``,
    it fills its room.
    """
    data = [("name", name), ("title", title)] if name else []
    data += [(key, repr(float(value))) for key, value in (axis or {}).items()]
    attributes = [(f"data-{key}", value) for key, value in data]
    if axis is None:
        attributes.append(("width", f(size[0])))
    return Markup('<svg class="chart {}" viewBox="0 0 {} {}" role="img" aria-label="{}"{}>{}</svg>').format(
        css,
        f(size[0]),
        f(size[1]),
        plain(f"{title}: {description}"),
        Markup().join(Markup(' {}="{}"').format(key, plain(value)) for key, value in attributes),
        Markup().join(parts),
    )
