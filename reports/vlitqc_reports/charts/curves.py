"""Rarefaction: how many kinds a random part of the data would hold."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from vlitqc_reports.charts.axis import Scale, f, line, rounded, svg, text, ticks, value_axis, width_of
from vlitqc_reports.wording import count, number, setting

_WIDTH, _HEIGHT = 400, 212
_TOP, _BASE, _RIGHT = 28, 168, 388
_FEW = 12
"""So few points are marked: between them the line is only drawn straight."""


def curve(
    points: Sequence[tuple[float, float]],
    *,
    title: str,
    across: str,
    up: str,
    limit: tuple[str, float] | None = None,
    name: str = "",
) -> Markup:
    """Expected kinds (``up``) among randomly drawn samples (``across``), from no sample to all of them.

    ``limit`` is a horizontal line with its name, such as an estimate of all kinds there are. Nothing where fewer than
    two points are given.
    """
    if len(points) < 2:
        return Markup()
    _, highest = rounded(0.0, max(points[-1][1], limit[1] if limit else 0.0, 1e-9))
    marks = ticks(0.0, highest, 4)
    left = max(width_of(setting(mark)) for mark in marks) + 10
    x = Scale(0.0, points[-1][0], left, _RIGHT)
    y = Scale(0.0, highest, _BASE, _TOP)
    parts = [text("c-caption", 0, 11, up)]
    for mark in marks:
        parts.append(line("c-grid" if mark else "c-axis", left, y(mark), _RIGHT, y(mark)))
        parts.append(text("", left - 6, y(mark) + 4, setting(round(mark, 10)), "end"))
    parts.append(value_axis(x, _BASE, [(tick, count(tick)) for tick in ticks(0.0, points[-1][0], 4)]))
    parts.append(text("c-caption", _RIGHT, _HEIGHT - 5, across, "end"))
    if limit:
        label, value = limit
        parts.append(line("c-limit", left, y(value), _RIGHT, y(value)))
        above = y(value) > _TOP + 12
        parts.append(text("c-limit-text", left + 6, y(value) + (-6 if above else 15), label))
    path = "L".join(f"{f(x(m))} {f(y(n))}" for m, n in points)
    parts.append(Markup('<path class="c-curve" d="M{}"/>').format(path))
    if len(points) <= _FEW:
        parts += [
            Markup('<circle class="c-point" cx="{}" cy="{}" r="2.5"/>').format(f(x(m)), f(y(n)))
            for m, n in points
        ]
    parts.append(
        Markup('<circle class="c-dot" cx="{}" cy="{}" r="4"/>').format(f(x.right), f(y(points[-1][1])))
    )
    m, n = points[-1]
    half = points[len(points) // 2]
    described = (
        f"curve of {up} against {across}; {number(half[1])} among {count(half[0])}, "
        f"{number(n)} among all {count(m)}" + (f"; {limit[0]}" if limit else "")
    )
    return svg("curve", (_WIDTH, _HEIGHT), name, title, described, parts)
