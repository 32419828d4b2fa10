"""A value beside the data sets of the paper: on one axis where the models are the same, on two where they are not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from vlitqc_reports.charts.axis import (
    Label,
    Scale,
    f,
    fitted,
    line,
    rect,
    rounded,
    rows,
    svg,
    text,
    ticks,
    value_axis,
)
from vlitqc_reports.wording import SHARES, is_number, number, setting

_WIDTH = 340
_WIDE = 500
_EDGE = 6
_CAPTION = 12
_ROW = 14


def against_paper(metric: Mapping[str, Any], profile: Mapping[str, Any]) -> tuple[Markup, ...]:
    """The charts of a metric of a scorecard beside the paper's data sets; none where it has no value.

    One chart with one axis for the profile "paper"; for another one the value alone and, where the paper prints
    something, its data sets on an axis of their own.
    """
    value = metric.get("value")
    if not is_number(value) or value is None:
        return ()
    name, title = str(metric["name"]), str(metric["title"])[:80]
    given = metric.get("interval")
    interval = (float(given[0]), float(given[1])) if given and all(map(is_number, given)) else None
    sets = _sets_of(metric.get("reference"))
    if sets and profile.get("name") == "paper":
        caption = "● this data set · ◆ the paper’s data sets, the same models"
        return (compared(value, interval, sets, caption=caption, title=title, name=f"{name}-paper"),)
    unit = str(metric.get("unit", ""))
    _, highest = metric.get("bounds") or (None, None)
    share = unit in SHARES
    own = measured(
        value,
        interval,
        highest if is_number(highest) else None,
        caption=fitted(f"this data set · {profile.get('name', '')} profile", _WIDTH),
        title=title,
        factor=100.0 if share else 1.0,
        suffix="%" if share else "",
        name=f"{name}-value",
    )
    if not sets:
        return (own,)
    caption = "paper’s data sets, paper’s models: do not compare"
    return own, printed(sets, caption=caption, title=title, name=f"{name}-paper")


def _sets_of(reference: Mapping[str, Any] | None) -> dict[str, float]:
    """Data sets by name; of a reference without any, the ends of its range."""
    if not reference:
        return {}
    sets = reference.get("sets") or {"lowest": reference.get("low"), "highest": reference.get("high")}
    return {str(name): float(value) for name, value in sets.items() if is_number(value)}


def measured(
    value: float,
    interval: tuple[float, float] | None,
    highest: float | None,
    *,
    caption: str,
    title: str,
    factor: float = 1.0,
    suffix: str = "",
    name: str = "",
) -> Markup:
    """A bar from zero to the value, with its 95% interval.

    The axis ends at the highest possible value where that is near, else at the next round number. ``factor`` and
    ``suffix`` are for the numbers at the ticks, such as 100 and "%".
    """
    low, high = interval or (value, value)
    nearest, furthest = rounded(min(0.0, value, low), max(0.0, value, high))
    if highest is not None and furthest >= 0.4 * highest:
        furthest = highest
    x = Scale(nearest, furthest, _EDGE, _WIDTH - _EDGE)
    y = _CAPTION + 8
    left, right = sorted((x(0.0), x(value)))
    parts = [
        text("c-caption", 0, _CAPTION - 1, caption),
        rect("c-track", x.left, y, x.right - x.left, 12),
        rect("c-bar", left, y, max(1.5, right - left), 12),
    ]
    if interval:
        parts.append(_whisker(x, interval, y + 6))
    marks = [(tick, setting(round(tick * factor, 10)) + suffix) for tick in ticks(x.low, x.high, 4)]
    parts.append(value_axis(x, y + 15, marks))
    described = f"{caption}: {number(value * factor)}{suffix}"
    if interval:
        described += f", 95% interval {number(low * factor)}{suffix} to {number(high * factor)}{suffix}"
    return svg("measured", (_WIDTH, y + 34), name, title, described, parts)


def printed(sets: Mapping[str, float], *, caption: str, title: str, name: str = "") -> Markup:
    """The paper's data sets as labelled ticks on an axis of their own; nothing where there are none."""
    if not sets:
        return Markup()
    low, high = _padded(list(sets.values()))
    x = Scale(low, high, _EDGE, _WIDTH - _EDGE)
    y = _CAPTION + 14
    below = _labels(sets, x)
    parts = [text("c-caption", 0, _CAPTION - 1, caption), *_sets(below, x, y)]
    height = y + 8 + _ROW * (1 + max(label.row for label in below))
    return svg("printed", (_WIDTH, height), name, title, f"{caption}: {_told(sets)}", parts)


def compared(
    value: float,
    interval: tuple[float, float] | None,
    sets: Mapping[str, float],
    *,
    caption: str,
    title: str,
    name: str = "",
) -> Markup:
    """The value with its 95% interval above, and the paper's data sets as labelled ticks below, one axis."""
    low, high = _padded([value, *(interval or ()), *sets.values()])
    x = Scale(low, high, _EDGE, _WIDE - _EDGE)
    y = _CAPTION + 22
    below = _labels(sets, x)
    parts = [text("c-caption", 0, _CAPTION - 1, caption)]
    if interval:
        parts.append(_whisker(x, interval, y - 9))
    parts.append(Markup('<circle class="c-dot" cx="{}" cy="{}" r="6"/>').format(f(x(value)), f(y - 9)))
    parts += _sets(below, x, y)
    described = f"{caption}: {number(value)}"
    if interval:
        described += f", 95% interval {number(interval[0])} to {number(interval[1])}"
    height = y + 8 + _ROW * (1 + max((label.row for label in below), default=0))
    return svg("compared", (_WIDE, height), name, title, f"{described}; {_told(sets)}", parts)


def _padded(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    room = 0.12 * (high - low) or 0.1 * abs(high) or 1.0
    return low - room, high + room


def _told(sets: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {setting(value)}" for name, value in sets.items())


def _labels(sets: Mapping[str, float], x: Scale) -> list[Label]:
    """One label a value: data sets of the same value share it."""
    of: dict[float, list[str]] = {}
    for name, value in sets.items():
        of.setdefault(value, []).append(name[:40])
    return rows(
        ((x(value), f"{', '.join(names)} {setting(value)}") for value, names in of.items()), x.left, x.right
    )


def _sets(below: Sequence[Label], x: Scale, y: float) -> list[Markup]:
    parts = [line("c-axis", x.left, y, x.right, y)]
    for label in below:
        top = y + 8 + _ROW * label.row
        if label.row:
            parts.append(line("c-leader", label.at, y + 5, label.at, top))
        parts.append(
            Markup('<path class="c-set" d="M{0} {1}l5 -5l-5 -5l-5 5z"/>').format(f(label.at), f(y + 5))
        )
    parts += [
        text("c-set-text", label.x, y + 18 + _ROW * label.row, label.text, label.anchor) for label in below
    ]
    return parts


def _whisker(x: Scale, interval: tuple[float, float], y: float) -> Markup:
    low, high = x(interval[0]), x(interval[1])
    return Markup().join(
        line(css, *ends)
        for css in ("c-halo", "c-whisker")
        for ends in ((low, y, high, y), (low, y - 4, low, y + 4), (high, y - 4, high, y + 4))
    )
