"""Two-dimensional pictures: correlations with their numbers, and sizes of pictures."""

from __future__ import annotations

import math
from collections.abc import Sequence

from markupsafe import Markup

from vlitqc_reports.charts.axis import Scale, f, fitted, line, rect, svg, text, width_of
from vlitqc_reports.wording import count, number, plain

_CELLS, _CELL, _NARROW = 9, 64, 48
_CELL_HEIGHT = 34
_NAME = 200
SHADES = 5
"""Steps of colour from none to full; each is a class, ``c-shade-1`` to ``c-shade-5``."""


def correlations(
    names: Sequence[str],
    cells: Sequence[Sequence[tuple[str, float | None, str]]],
    *,
    title: str,
    name: str = "",
) -> Markup:
    """The triangle below the diagonal: row i has a cell for each column before it.

    Every cell is what is printed in it, the correlation that colours it (−1 to 1, None where there is none), and what
    is shown under the pointer. Columns are numbered, and rows carry the numbers with the names.
    """
    n = len(names)
    left, top = _NAME, 22
    cell = _CELL if n <= _CELLS else _NARROW
    parts: list[Markup] = []
    for j in range(n - 1):
        parts.append(text("c-name", left + (j + 0.5) * cell, top - 7, str(j + 1), "middle"))
    for i, label in enumerate(names):
        y = top + (i - 1) * _CELL_HEIGHT
        if i == 0:
            parts.append(text("c-name", left - 8, top - 7, f"1 {fitted(label, _NAME - 26)}", "end"))
            continue
        parts.append(
            text("c-name", left - 8, y + _CELL_HEIGHT / 2 + 4, f"{i + 1} {fitted(label, _NAME - 26)}", "end")
        )
        for j, (words, value, told) in enumerate(cells[i]):
            shade = 0 if value is None else min(SHADES, math.floor(abs(value) * SHADES + 0.5))
            sign = "none" if value is None else "minus" if value < 0 else "plus"
            x = left + j * cell
            parts.append(
                Markup("<g><title>{}</title>{}{}</g>").format(
                    plain(told),
                    rect(f"c-cell c-{sign}-{shade}", x + 1, y + 1, cell - 2, _CELL_HEIGHT - 2),
                    text(
                        f"c-cell-text c-on-{sign}-{shade}",
                        x + cell / 2,
                        y + _CELL_HEIGHT / 2 + 4,
                        words,
                        "middle",
                    ),
                )
            )
    size = (left + (n - 1) * cell + 2, top + (n - 1) * _CELL_HEIGHT + 2)
    return svg("correlations", size, name, title, "heat map; its numbers are in the table below it", parts)


def sizes(
    edges: Sequence[float],
    counts: Sequence[tuple[int, int, int]],
    *,
    lines: Sequence[float],
    title: str,
    words: str,
    name: str = "",
) -> Markup:
    """Width against height of pictures on axes of ratios: ``(column, row, n)`` of each bin with a picture in it.

    ``lines`` are lengths; what lies left of and below its line has a shorter side below it. ``words`` describe it.
    """
    side, left, top = 300.0, 52.0, 20.0
    x = Scale(edges[0], edges[-1], left, left + side, log=True)
    y = Scale(edges[0], edges[-1], top + side, top, log=True)
    most = max(n for _, _, n in counts)
    parts = [text("c-caption", 0, 11, "height in pixels"), rect("c-plane", left, top, side, side)]
    for length in _lengths(x.low, x.high):
        parts.append(line("c-grid", x(length), top, x(length), top + side))
        parts.append(line("c-grid", left, y(length), left + side, y(length)))
        parts.append(text("", x(length), top + side + 16, f"{length:g}", "middle"))
        parts.append(text("", left - 6, y(length) + 4, f"{length:g}", "end"))
    for column, row, n in counts:
        at, up = x(edges[column]), y(edges[row + 1])
        told = (
            f"{number(round(edges[column]))} to {number(round(edges[column + 1]))} wide, "
            f"{number(round(edges[row]))} to {number(round(edges[row + 1]))} high: {count(n)}"
        )
        parts.append(rect(_shade(n, most), at, up, x(edges[column + 1]) - at, y(edges[row]) - up, told))
    for limit in lines:
        if x.low < limit < x.high:
            corner = f"M{f(x(limit))} {f(top)}V{f(y(limit))}H{f(left + side)}"
            parts.append(Markup('<path class="c-limit" d="{}"/>').format(corner))
            parts.append(text("c-limit-text", left + side + 6, y(limit) + 4, f"{limit:g} px"))
    parts.append(text("c-caption", left + side, top + side + 34, "width in pixels", "end"))
    at = left
    legend = top + side + 34
    shown = sorted({max(1, round(most ** ((shade - 0.5) / SHADES))) for shade in range(1, SHADES + 1)})
    for n in shown if most > 1 else ():
        parts.append(rect(_shade(n, most), at, legend - 10, 12, 12))
        parts.append(text("", at + 16, legend, count(n)))
        at += 28 + round(width_of(count(n)))
    return svg(
        "sizes", (left + side + 52, legend + 6), name, title, f"heat map on axes of ratios. {words}", parts
    )


def _shade(n: int, most: int) -> str:
    """The class of a count: steps of equal ratio up to the largest one."""
    step = math.floor(SHADES * math.log(n) / math.log(most)) if most > 1 else SHADES
    return f"c-shade-{1 + min(SHADES - 1, step)}"


def _lengths(low: float, high: float) -> list[float]:
    """Powers of two inside [low, high], with those between them where they are few."""
    powers = [2.0**k for k in range(20)]
    found = [v for v in powers if low <= v <= high]
    return found if len(found) > 3 else [v for p in powers for v in (p, 1.5 * p) if low <= v <= high]
