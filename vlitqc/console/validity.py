"""What ``vlitqc validate`` shows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import mode
from typing import Any

from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.table import Table
from rich.text import Text

from vlitqc.console.text import percent, visible

NEEDED_LEAST = ("strength", "lost", "95% interval", "n")
"""Columns that go where the terminal is too narrow for all, in this order."""
WIDER = 10_000
"""Columns at which a table is measured: all that it may ask for."""
LEGEND = {
    "AUC": "AUC: how often a clean record beats a corrupted one, at the strongest strength; null: no score is left.",
    "strength": "strength: mean rank correlation with it.",
    "lost": "lost: share without a score any more.",
}


def validity(found: Mapping[str, Any]) -> Group:
    """Whether each metric notices what it should, what moves that should not, and what was not measured."""
    cells: Sequence[Mapping[str, Any]] = found["cells"]
    aimed = [cell for cell in cells if cell["role"] == "target"]
    targets = [cell for cell in aimed if _is_told(cell)]
    off = [cell for cell in cells if cell["role"] == "off" and cell["auc"] is not None]
    moved = [cell for cell in off if cell["holds"] is False]
    parts: list[RenderableType] = [
        Text(
            f"{found['records']:,} clean records of {visible(found['data'])}, profile {visible(found['profile'])}",
            style="dim",
        ),
        "",
        Text("Does each metric notice what it should?", style="bold"),
    ]
    if targets:
        parts.append(_Matrix(targets))
    else:
        none = (
            "No pair of a metric and what it must notice could be measured."
            if aimed
            else "None of these metrics must notice any of these corruptions."
        )
        parts.append(Text(none, style="dim"))
    if any(cell["holds"] is False for cell in targets):
        parts.append(Text("What a metric cannot see is on its card: vlitqc metrics NAME"))
    parts += ["", Text("What moves that should not?", style="bold")]
    if moved:
        parts.append(_Matrix(sorted(moved, key=lambda cell: -cell["auc"]), verdict=False))
    parts.append(Text(_movement(off, moved), style="dim"))
    without = _unmeasured(found["metrics"], cells)
    if without:
        parts += ["", Text("Not measured", style="bold")]
    parts += [Text(f"{visible(', '.join(names))}: {visible(reason)}") for reason, names in without.items()]
    return Group(*parts)


def _is_told(cell: Mapping[str, Any]) -> bool:
    """Whether there is an AUC, or what says as much: the scores are gone."""
    return cell["auc"] is not None or cell["became_null"] > 0


def _movement(off: Sequence[Mapping[str, Any]], moved: Sequence[Mapping[str, Any]]) -> str:
    if not off:
        return "No pair could be measured."
    counted = (
        f"{len(moved) or 'None'} of {len(off)} pair{'s' * (len(off) != 1)} of a metric and a corruption."
    )
    limit = off[0]["wanted"]["below"]
    return (
        f"{counted} AUC is either way here, so above 0.5 by chance alone: a pair moves where its interval begins "
        f"at {limit:.2f} or above."
    )


@dataclass(frozen=True, slots=True)
class _Matrix:
    """Pairs of a metric and a corruption, with as many columns as there is room for; a legend with the verdict."""

    cells: Sequence[Mapping[str, Any]]
    verdict: bool = True

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        left_out: list[str] = []
        for column in (*NEEDED_LEAST, None):
            table = self._table(left_out)
            if (
                column is None
                or console.measure(table, options=options.update_width(WIDER)).maximum <= options.max_width
            ):
                break
            left_out.append(column)
        yield table
        if self.verdict:
            told = (text for column, text in LEGEND.items() if column not in left_out)
            yield Text(" ".join(told), style="dim")

    def _table(self, left_out: Iterable[str]) -> Table:
        table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
        rows = [_row(cell) for cell in self.cells]
        for column in rows[0]:
            if column in left_out or (column == "wanted" and not self.verdict):
                continue
            named = column in {"metric", "corruption", "wanted"}
            table.add_column(column, justify="left" if named else "right", no_wrap=True)
        last = None
        for row in rows:
            name = row["metric"]
            if self.verdict and last is not None and name.plain == last:
                row["metric"] = Text("")
            last = name.plain
            table.add_row(*(row[str(column.header)] for column in table.columns))
        return table


def _row(cell: Mapping[str, Any]) -> dict[str, Text]:
    """What each column says of a pair."""
    auc, interval, strength = cell["auc"], cell["interval"], cell["spearman"]
    lost = cell["became_null"]
    return {
        "metric": Text(visible(cell["metric"])),
        "corruption": Text(visible(cell["corruption"])),
        "n": Text(f"{cell['n']:,}"),
        "AUC": Text("null" if auc is None and lost else "–" if auc is None else f"{auc:.3f}"),
        "95% interval": Text(f"{interval[0]:.3f} – {interval[1]:.3f}" if interval else "–"),
        "strength": Text("–" if strength is None else f"{strength:+.2f}"),
        "lost": Text(percent(lost) if lost else ""),
        "wanted": _verdict(cell) if cell["role"] == "target" else Text(""),
    }


def _verdict(cell: Mapping[str, Any]) -> Text:
    if cell["wanted"] is None or cell["holds"] is None:
        return Text("–", style="dim")
    limit = f"≥ {cell['wanted']['at_least']:.2f}"
    return Text(f"{limit} yes", style="green") if cell["holds"] else Text(f"{limit} NO", style="bold red")


def _unmeasured(metrics: Mapping[str, Any], cells: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """What was not measured, by its reason: metrics of which nothing is told, and what others must notice.

    The page's section, ``vlitqc_reports.validity``, has the same rule.
    """
    without: dict[str, list[str]] = {}
    for name, metric in metrics.items():
        own = [cell for cell in cells if cell["metric"] == name]
        if not any(map(_is_told, own)):
            without.setdefault(metric["reason"] or mode(cell["reason"] for cell in own), []).append(name)
            continue
        for cell in own:
            if cell["role"] == "target" and not _is_told(cell):
                without.setdefault(cell["reason"], []).append(f"{name} under {cell['corruption']}")
    return without
