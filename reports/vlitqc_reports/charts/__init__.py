"""Small pictures of numbers as inline SVG: presentation attributes and classes only, no style, no script."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from vlitqc_reports.wording import count, is_number, number, plain, setting, share

_WIDTH, _HEIGHT = 640, 190
_LEFT, _RIGHT, _TOP, _BOTTOM = 8, 8, 26, 26


def _f(x: float) -> str:
    return f"{x:.2f}".rstrip("0").rstrip(".")


def _ticks(low: float, high: float, n: int = 6) -> list[float]:
    """Round numbers inside [low, high], about ``n``."""
    width = high - low
    if not math.isfinite(width) or width <= 0:
        return [low]
    rough = width / n
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [k * step for k in range(first, math.floor(high / step + 1e-9) + 1)]


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
) -> Markup:
    """Bars over a value axis, with the floor, the median and (only where comparable) the paper's range.

    The axis is widened so that the floor and the range are always on it. Empty markup where ``data`` holds
    no histogram.
    """
    bins = _bins(data)
    if bins is None:
        return Markup()
    edges, counts = bins
    shown: list[float] = [
        edges[0],
        edges[-1],
        *(v for v in (floor, *(band or ())) if v is not None and math.isfinite(v)),
    ]
    low, high = min(shown), max(shown)
    top, base = _TOP, _HEIGHT - _BOTTOM
    tallest = max(counts)

    def x(value: float) -> float:
        return _LEFT + (value - low) / (high - low) * (_WIDTH - _LEFT - _RIGHT)

    parts: list[Markup] = []
    if band is not None:
        parts.append(
            Markup(
                '<rect class="c-band" x="{}" y="{}" width="{}" height="{}"><title>{}</title></rect>'
            ).format(
                _f(x(band[0])), top, _f(max(2.0, x(band[1]) - x(band[0]))), base - top, "printed in the paper"
            )
        )
    for i, n in enumerate(counts):
        if n <= 0:
            continue
        left, right = x(edges[i]), x(edges[i + 1])
        height = max(1.5, n / tallest * (base - top))
        parts.append(
            Markup(
                '<rect class="c-bar" x="{}" y="{}" width="{}" height="{}"><title>{}</title></rect>'
            ).format(
                _f(left + 0.75),
                _f(base - height),
                _f(max(1.0, right - left - 1.5)),
                _f(height),
                f"{number(edges[i])} to {number(edges[i + 1])}: {count(n)}",
            )
        )
    parts.append(
        Markup('<line class="c-axis" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(
            _LEFT, _WIDTH - _RIGHT, base, base
        )
    )
    for tick in _ticks(low, high):
        at = x(tick)
        anchor = "start" if at < 24 else "end" if at > _WIDTH - 24 else "middle"
        parts.append(
            Markup(
                '<line class="c-axis" x1="{0}" x2="{0}" y1="{1}" y2="{2}"/>'
                '<text class="c-text" x="{0}" y="{3}" text-anchor="{4}">{5}</text>'
            ).format(_f(at), base, base + 4, _HEIGHT - 7, anchor, setting(tick))
        )
    marks = [("c-median", "median", median), ("c-floor", "floor", floor)]
    placed: list[tuple[float, float]] = []
    for css, word, value in marks:
        if value is None or not math.isfinite(value):
            continue
        at = min(max(x(value), _LEFT), _WIDTH - _RIGHT)
        label = f"{word} {setting(value) if word == 'floor' else number(value)}"
        room = 7.2 * len(label) + 8
        flip = at + room > _WIDTH or any(a < at + room and at < b for a, b in placed)
        flip = flip and at - room > 0
        placed.append((at - room, at) if flip else (at, at + room))
        parts.append(
            Markup(
                '<line class="{0}" x1="{1}" x2="{1}" y1="{2}" y2="{3}"/>'
                '<text class="c-text {0}-text" x="{4}" y="{5}" text-anchor="{6}">{7}</text>'
            ).format(
                css, _f(at), 6, base, _f(at - 5 if flip else at + 5), 17, "end" if flip else "start", label
            )
        )
    described = f"{title}: histogram of {count(sum(counts))} samples from {number(low)} to {number(high)}"
    return Markup('<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        _WIDTH, _HEIGHT, plain(described), Markup().join(parts)
    )


def sparkline(data: Mapping[str, Any] | None) -> Markup:
    """The histogram's outline, for a card; decoration, so hidden from readers that cannot see it."""
    bins = _bins(data)
    if bins is None:
        return Markup()
    _, counts = bins
    tallest, step = max(counts), 120 / len(counts)
    bars = Markup().join(
        Markup('<rect class="c-bar" x="{}" y="{}" width="{}" height="{}"/>').format(
            _f(i * step),
            _f(28 - max(0.8, 27 * n / tallest)),
            _f(max(0.5, step - 0.6)),
            _f(max(0.8, 27 * n / tallest)),
        )
        for i, n in enumerate(counts)
        if n > 0
    )
    return Markup(
        '<svg class="spark" viewBox="0 0 120 29" preserveAspectRatio="none" aria-hidden="true">{}'
        '<line class="c-axis" x1="0" x2="120" y1="28.5" y2="28.5"/></svg>'
    ).format(bars)


def bar(fraction: float) -> Markup:
    """One horizontal bar of a table; the number beside it carries the meaning."""
    width = min(max(fraction, 0.0), 1.0) * 100
    return Markup(
        '<svg class="bar" viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true">'
        '<rect class="c-track" width="100" height="10"/><rect class="c-bar" width="{}" height="10"/></svg>'
    ).format(_f(max(width, 0.6) if fraction > 0 else 0))


def stacked(parts: Sequence[tuple[str, str, float]]) -> Markup:
    """Shares of a whole in one bar: ``(class, name, n)`` each; nothing where the whole is nothing."""
    whole = sum(n for _, _, n in parts)
    if whole <= 0:
        return Markup()
    rects: list[Markup] = []
    at = 0.0
    for css, name, n in parts:
        width = 1000 * n / whole
        if n > 0:
            rects.append(
                Markup('<rect class="{}" x="{}" width="{}" height="14"><title>{}</title></rect>').format(
                    css, _f(at), _f(max(width - 2, 2)), f"{name}: {count(n)}"
                )
            )
        at += width
    words = ", ".join(f"{name} {share(n, whole)}" for _, name, n in parts)
    return Markup(
        '<svg class="stacked" viewBox="0 0 1000 14" preserveAspectRatio="none" role="img" aria-label="{}">'
        "{}</svg>"
    ).format(plain(words), Markup().join(rects))


def strip(quantiles: Mapping[str, float], low: float, high: float) -> Markup:
    """Five quantiles as a line, a box and a mark on the axis [low, high]; the table beside it has the numbers."""
    if high <= low or not {"p5", "p25", "p50", "p75", "p95"} <= quantiles.keys():
        return Markup()

    def x(name: str) -> float:
        return 4 + (quantiles[name] - low) / (high - low) * 232

    return Markup(
        '<svg class="strip" viewBox="0 0 240 18" aria-hidden="true">'
        '<line class="c-axis" x1="{0}" x2="{4}" y1="9" y2="9"/>'
        '<rect class="c-box" x="{1}" y="3" width="{5}" height="12"/>'
        '<line class="c-mid" x1="{2}" x2="{2}" y1="1" y2="17"/></svg>'
    ).format(
        _f(x("p5")), _f(x("p25")), _f(x("p50")), _f(x("p75")), _f(x("p95")), _f(max(1.0, x("p75") - x("p25")))
    )
