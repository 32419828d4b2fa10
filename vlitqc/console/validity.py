"""What ``vlitqc validate`` shows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from vlitqc.console.text import percent, visible


def validity(found: Mapping[str, Any]) -> Group:
    """Whether each metric notices what it should, what moves that should not, and what was not measured."""
    cells: Sequence[Mapping[str, Any]] = found["cells"]
    measured = [cell for cell in cells if cell["auc"] is not None]
    aimed = [cell for cell in cells if cell["role"] == "target"]
    targets = [cell for cell in aimed if _is_told(cell)]
    off = [cell for cell in measured if cell["role"] == "off"]
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
        parts.append(_matrix(targets))
        parts.append(
            Text(
                "AUC: how often a clean record beats a corrupted one, at the strongest strength. strength: mean rank "
                "correlation with it. null: share without a score any more.",
                style="dim",
            )
        )
    else:
        none = (
            "No metric could be held against what it must notice; the reasons are below."
            if aimed
            else "None of these metrics must notice any of these corruptions."
        )
        parts.append(Text(none, style="dim"))
    parts += ["", Text("What moves that should not?", style="bold")]
    if moved:
        parts.append(_matrix(sorted(moved, key=lambda cell: -cell["auc"]), verdict=False))
        parts.append(
            Text(
                f"{len(moved)} of {len(off)} pairs: AUC either way, where its interval lies above the limit.",
                style="dim",
            )
        )
    else:
        parts.append(Text(f"Nothing, of {len(off)} pairs of a metric and a corruption.", style="dim"))
    return Group(*parts, *_unmeasured(found["metrics"], cells))


def _is_told(cell: Mapping[str, Any]) -> bool:
    """Whether there is an AUC, or what says as much: the scores are gone."""
    return cell["auc"] is not None or cell["became_null"] > 0


def _matrix(cells: Iterable[Mapping[str, Any]], *, verdict: bool = True) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("metric", "corruption"):
        table.add_column(name, overflow="fold")
    for name in ("n", "AUC", "95% interval", "strength", "null"):
        table.add_column(name, justify="right", no_wrap=True)
    if verdict:
        table.add_column("wanted", no_wrap=True)
    last = None
    for cell in cells:
        name = visible(cell["metric"])
        row: list[RenderableType] = [
            Text("" if verdict and name == last else name),
            Text(visible(cell["corruption"])),
            f"{cell['n']:,}",
            "–" if cell["auc"] is None else f"{cell['auc']:.3f}",
            f"{cell['interval'][0]:.3f} – {cell['interval'][1]:.3f}" if cell["interval"] else "–",
            "–" if cell["spearman"] is None else f"{cell['spearman']:+.2f}",
            percent(cell["became_null"]) if cell["became_null"] else "",
        ]
        table.add_row(*row, *([_verdict(cell)] if verdict else []))
        last = name
    return table


def _verdict(cell: Mapping[str, Any]) -> Text:
    if cell["wanted"] is None or cell["holds"] is None:
        return Text("–", style="dim")
    limit = f"≥ {cell['wanted']['at_least']:.2f}"
    return Text(f"{limit} yes", style="green") if cell["holds"] else Text(f"{limit} NO", style="bold red")


def _unmeasured(metrics: Mapping[str, Any], cells: Sequence[Mapping[str, Any]]) -> list[RenderableType]:
    """Metrics without a value, and targets without an AUC, each with its reason."""
    reasons: dict[str, list[str]] = {}
    for name, metric in metrics.items():
        if metric["reason"] is not None:
            reasons.setdefault(metric["reason"], []).append(name)
    for cell in cells:
        if cell["role"] == "target" and not _is_told(cell) and metrics[cell["metric"]]["reason"] is None:
            reasons.setdefault(cell["reason"], []).append(f"{cell['metric']} under {cell['corruption']}")
    if not reasons:
        return []
    told = [Text(f"{visible(', '.join(names))}: {visible(reason)}") for reason, names in reasons.items()]
    return ["", Text("Not measured", style="bold"), *told]
