"""Histograms."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from vlitqc_reports.charts.axis import Scale, f, line, rect, svg, text, ticks, value_axis, width_of
from vlitqc_reports.wording import count, is_number, number, setting

_HEIGHT = 190
_SIDE, _TOP, _BASE = 8, 26, 164


def _bins(histogram: Mapping[str, Any] | None) -> tuple[list[float], list[float]] | None:
    """Edges and counts, or None where they do not describe a histogram."""
    if not histogram:
        return None
    edges: list[float] = list(histogram.get("edges") or ())
    counts: list[float] = list(histogram.get("counts") or ())
    if len(edges) != len(counts) + 1 or not counts or not all(map(is_number, edges + counts)):
        return None
    if edges[-1] <= edges[0] or max(counts) <= 0:
        return None
    return edges, counts


def histogram(
    data: Mapping[str, Any] | None,
    *,
    title: str,
    floor: float | None = None,
    median: float | None = None,
    band: tuple[float, float] | None = None,
    name: str = "",
    log: bool = False,
    of: str = "samples",
    width: int = 640,
) -> Markup:
    """Bars over a value axis, with the floor, the median and (only where comparable) the paper's range.

    The axis is widened so that the floor and the range are always on it; ``log`` makes it one of ratios, for edges
    above 0. ``width`` is of the view box, in which letters keep their size. Empty markup where ``data`` holds no
    histogram.

    The ``<svg>`` tells a script its axis: ``data-low`` and ``data-high`` are the values at ``data-left`` and
    ``data-right``, ``data-top`` and ``data-base`` the heights of the tallest bar and of no bar, in units of the
    view box. Every bar tells its edges and its count as ``data-from``, ``data-to`` and ``data-n``.
    """
    bins = _bins(data)
    if bins is None:
        return Markup()
    edges, counts = bins
    shown = [
        edges[0],
        edges[-1],
        *(v for v in (floor, *(band or ())) if v is not None and math.isfinite(v)),
    ]
    x = Scale(min(shown), max(shown), _SIDE, width - _SIDE, log)
    tallest = max(counts)
    parts: list[Markup] = []
    if band is not None:
        span = max(2.0, x(band[1]) - x(band[0]))
        parts.append(rect("c-band", x(band[0]), _TOP, span, _BASE - _TOP, "printed in the paper"))
    for i, n in enumerate(counts):
        if n > 0:
            left, right = x(edges[i]), x(edges[i + 1])
            height = max(1.5, n / tallest * (_BASE - _TOP))
            parts.append(
                Markup(
                    '<rect class="c-bar" x="{}" y="{}" width="{}" height="{}" data-from="{}" data-to="{}" '
                    'data-n="{}"><title>{}</title></rect>'
                ).format(
                    f(left + 0.75),
                    f(_BASE - height),
                    f(max(1.0, right - left - 1.5)),
                    f(height),
                    repr(float(edges[i])),
                    repr(float(edges[i + 1])),
                    int(n),
                    f"{number(edges[i])} to {number(edges[i + 1])}: {count(n)}",
                )
            )
    marks = _doublings(x.low, x.high) if log else ticks(x.low, x.high)
    parts.append(value_axis(x, _BASE, [(tick, setting(tick)) for tick in marks]))
    placed: list[tuple[float, float]] = []
    for css, word, value in (("c-median", "median", median), ("c-floor", "floor", floor)):
        if value is None or not math.isfinite(value):
            continue
        at = x(value)
        label = f"{word} {setting(value) if word == 'floor' else number(value)}"
        room = width_of(label) + 10
        flip = at + room > width or any(a < at + room and at < b for a, b in placed)
        flip = flip and at - room > 0
        placed.append((at - room, at) if flip else (at, at + room))
        parts.append(line(css, at, 6, at, _BASE))
        parts.append(text(f"{css}-text", at - 5 if flip else at + 5, 17, label, "end" if flip else "start"))
    described = (
        f"{title}: histogram of {count(sum(counts))} {of} from {number(edges[0])} to {number(edges[-1])}"
    )
    axis = {"low": x.low, "high": x.high, "left": x.left, "right": x.right, "top": _TOP, "base": _BASE}
    return svg("histogram", (width, _HEIGHT), name, title, described, parts, axis=axis)


def _doublings(low: float, high: float) -> list[float]:
    """1, 2, 5, 10, 20 … inside [low, high]."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [m * 10.0**p for p in powers for m in (1, 2, 5) if low <= m * 10.0**p <= high]
