"""Counts as bars, shares of a whole, and five quantiles as a box."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from markupsafe import Markup

from vlitqc_reports.charts.axis import f, fitted, rect, svg, text
from vlitqc_reports.wording import count, plain, share

_WIDTH, _ROW = 420, 22
_NAME, _BAR = 154, 148
"""Room for the name and for the longest bar; the numbers take the rest."""


def ranked(rows: Sequence[tuple[str, float]], *, title: str, name: str = "", rest: str = "") -> Markup:
    """One bar a row with its count and its share of all rows; nothing where the whole is nothing.

    ``rest`` is the name of the row that sums up others; it is drawn lighter.
    """
    whole = sum(n for _, n in rows)
    if whole <= 0:
        return Markup()
    longest = max(n for _, n in rows)
    parts = []
    for i, (label, n) in enumerate(rows):
        y = i * _ROW
        width = max(1.5, n / longest * _BAR) if n > 0 else 0.0
        css = "c-rest" if rest and label == rest else "c-bar"
        parts.append(
            Markup("<g><title>{}</title>{}{}{}{}{}</g>").format(
                plain(f"{label}: {count(n)} ({share(n, whole)})"),
                text("c-name", _NAME - 8, y + 15, fitted(label, _NAME - 8), "end"),
                rect("c-track", _NAME, y + 4, _BAR, 14),
                rect(css, _NAME, y + 4, width, 14),
                text("c-value", _WIDTH - 54, y + 15, count(n), "end"),
                text("", _WIDTH - 2, y + 15, share(n, whole), "end"),
            )
        )
    told = "; ".join(f"{label[:80]}: {count(n)} ({share(n, whole)})" for label, n in rows)
    return svg("ranked", (_WIDTH, len(rows) * _ROW + 2), name, title, f"bars. {told}", parts)


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
            rects.append(rect(css, at, 0, max(width - 2, 2), 14, f"{name}: {count(n)}"))
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
    ).format(f(x("p5")), f(x("p25")), f(x("p50")), f(x("p75")), f(x("p95")), f(max(1.0, x("p75") - x("p25"))))
