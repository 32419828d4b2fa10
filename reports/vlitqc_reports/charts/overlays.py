"""Several data sets in one chart: lines that differ in colour and dash, each with its letter on it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from vlitqc_reports.charts.axis import Scale, f, line, rounded, svg, text, ticks, value_axis, width_of
from vlitqc_reports.wording import count, number, setting

_WIDTH, _HEIGHT = 640, 220
_TOP, _BASE = 26, 186
_CURVE = (440, 240)
_SPAN = (220, 20)


def densities(
    edges: Sequence[float], counts: Sequence[Sequence[float] | None], letters: Sequence[str], *, title: str
) -> Markup:
    """The histograms of several data sets as outlines of equal area; nothing where no data set has a score."""
    shares = {i: np.asarray(one, np.float64) / sum(one) for i, one in enumerate(counts) if one and sum(one)}
    if not shares:
        return Markup()
    tallest = max(float(share.max()) for share in shares.values())
    x = Scale(edges[0], edges[-1], 8, _WIDTH - 8)
    y = Scale(0.0, tallest, _BASE, _TOP)
    parts = []
    for i, share in shares.items():
        corners = [(x(edges[0]), y(0))]
        for k, part in enumerate(share.tolist()):
            corners += [(x(edges[k]), y(part)), (x(edges[k + 1]), y(part))]
        corners.append((x(edges[-1]), y(0)))
        parts.append(_path(i, corners))
    for i, k in _own_places(shares).items():
        middle = (x(edges[k]) + x(edges[k + 1])) / 2
        parts.append(text(f"c-letter c-t{i}", middle, y(float(shares[i][k])) - 6, letters[i], "middle"))
    parts.append(
        value_axis(x, _BASE, [(tick, setting(round(tick, 10))) for tick in ticks(edges[0], edges[-1])])
    )
    names = ", ".join(letters[i] for i in shares)
    described = f"distributions of {names} from {number(edges[0])} to {number(edges[-1])}"
    return svg("overlay", (_WIDTH, _HEIGHT), "", title, described, parts)


def _own_places(shares: dict[int, NDArray[np.float64]]) -> dict[int, int]:
    """For each line the bin in which it stands out most above the others, no two in the same or next."""
    taken: list[int] = []
    found = {}
    for i, share in shares.items():
        others = [other for k, other in shares.items() if k != i]
        # Of places where it leads alike, the one where it is highest.
        lead = share * 1.001 - (np.max(others, axis=0) if others else 0.0)
        for k in taken:
            lead[max(0, k - 1) : k + 2] -= 2.0
        found[i] = int(np.argmax(lead))
        taken.append(found[i])
    return found


def curves(
    sets: Sequence[dict[str, Any] | None], letters: Sequence[str], m: int, *, title: str, up: str
) -> Markup:
    """A number over the size of the data for several data sets, with a mark at the size at which they are compared."""
    known = {i: one["curve"] for i, one in enumerate(sets) if one and one["curve"]}
    if not known:
        return Markup()
    width, height = _CURVE
    base, right = height - 44, width - 22
    _, highest = rounded(0.0, max(max(curve["values"]) for curve in known.values()))
    marks = ticks(0.0, highest, 4)
    left = max(width_of(setting(round(mark, 10))) for mark in marks) + 10
    x = Scale(0.0, max(curve["m"][-1] for curve in known.values()), left, right)
    y = Scale(0.0, highest, base, 26)
    parts = [text("c-caption", 0, 11, up)]
    for mark in marks:
        parts.append(line("c-grid" if mark else "c-axis", left, y(mark), right, y(mark)))
        parts.append(text("", left - 6, y(mark) + 4, setting(round(mark, 10)), "end"))
    parts.append(value_axis(x, base, [(tick, count(tick)) for tick in ticks(0.0, x.high, 4)]))
    parts.append(text("c-caption", right, height - 6, "records scored", "end"))
    parts.append(line("c-at", x(m), y(highest) - 6, x(m), base))
    near = x(m) > width * 0.6
    parts.append(
        text("c-at-text", x(m) - 5 if near else x(m) + 5, 18, f"{count(m)}", "end" if near else "start")
    )
    lowest = 0.0
    for i, curve in sorted(known.items(), key=lambda item: item[1]["values"][-1], reverse=True):
        start = [] if curve["drawn"] else [(x(0), y(0))]
        corners = [*start, *((x(a), y(b)) for a, b in zip(curve["m"], curve["values"], strict=True))]
        parts.append(_path(i, corners))
        end_x, end_y = corners[-1]
        # Where two curves end at one place their letters stand below each other.
        at = max(end_y, lowest)
        lowest = at + 14
        parts.append(text(f"c-letter c-t{i}", end_x + 6, at + 4, letters[i]))
    ends = ", ".join(
        f"{letters[i]} {number(curve['values'][-1])} at {count(curve['m'][-1])}" for i, curve in known.items()
    )
    return svg("curve", _CURVE, "", title, f"{up} over records scored; {ends}", parts)


def span(value: float, low: float, high: float) -> Markup:
    """A difference and its interval about 0; the numbers beside it carry the meaning."""
    width, height = _SPAN
    reach = max(abs(low), abs(high), abs(value)) * 1.06 or 1.0
    x = Scale(-reach, reach, 4, width - 4)
    middle = height / 2
    clear = "clear" if low > 0 or high < 0 else "open"
    return Markup(
        '<svg class="span" viewBox="0 0 {w} {h}" aria-hidden="true"><path class="c-zero" d="M{z} 0V{h}"/>'
        '<path class="c-span {clear}" d="M{a} {m}H{b}M{a} {u}V{v}M{b} {u}V{v}"/>'
        '<circle class="c-estimate {clear}" cx="{c}" cy="{m}" r="4"/></svg>'
    ).format(
        w=width,
        h=height,
        z=f(x(0.0)),
        a=f(x(low)),
        b=f(x(high)),
        c=f(x(value)),
        m=f(middle),
        u=f(middle - 4),
        v=f(middle + 4),
        clear=clear,
    )


def sample(i: int) -> Markup:
    """How the line of a data set looks, for a legend."""
    return Markup('<svg class="sample" viewBox="0 0 44 10" aria-hidden="true">{}</svg>').format(
        _path(i, [(1, 5), (43, 5)])
    )


def _path(i: int, corners: Sequence[tuple[float, float]]) -> Markup:
    """A line of a data set."""
    path = "L".join(f"{f(a)} {f(b)}" for a, b in corners)
    return Markup('<path class="c-line c-s{}" d="M{}"/>').format(i, path)
