"""What ``vlitqc correlate`` shows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.table import Table
from rich.text import Text

from vlitqc.console.text import cut, visible

ROOM_FOR_BOTH = 112
"""Columns that both coefficients need beside each other."""
LONGEST_METRIC = 26
LONGEST_BENCHMARK = 18
ALPHA = 0.05
SMALLEST_PRINTED = 0.0005
HEADS = {"pearson": ("r", "Pearson"), "spearman": ("rho", "Spearman")}


def correlations(found: Mapping[str, Any]) -> Group:
    """The data sets, every pair of a metric and a benchmark, and what so many data sets can show."""
    parts: list[RenderableType] = [_joined(found), ""]
    if found["counts"]["pearson"]["tested"]:
        parts += [_Pairs(found), ""]
    parts += [Text(line) for line in conclusions(found)]
    notes = [*_untested(found), *_gaps(found), *_sizes(found)]
    if notes:
        parts += ["", *(Text(note, style="dim") for note in notes)]
    return Group(*parts)


def _joined(found: Mapping[str, Any]) -> Text:
    sets = [
        name if name == data else f"{name} ({data})"
        for name, data in ((one["name"], one["data"]) for one in found["sets"])
    ]
    told = Text(f"{len(sets)} data set{'s' * (len(sets) != 1)}: {visible(', '.join(sets))}; profile ")
    told.append(visible(found["profile"]["name"]))
    for key, words in (
        ("without_benchmarks", "not in the CSV, left out"),
        ("without_run", "in the CSV, but no run named"),
    ):
        if found[key]:
            told.append(f"\n{words}: {visible(', '.join(found[key]))}", style="yellow")
    return told


@dataclass(frozen=True, slots=True)
class _Pairs:
    """Both coefficients in one table where there is room for it, else in two."""

    found: Mapping[str, Any]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        if options.max_width >= ROOM_FOR_BOTH:
            yield self._table(("pearson", "spearman"))
            return
        yield self._table(("pearson",))
        yield ""
        yield self._table(("spearman",))

    def _table(self, coefficients: Sequence[str]) -> RenderableType:
        table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 1, 0, 0))
        table.add_column("metric", no_wrap=True)
        table.add_column("benchmark", no_wrap=True)
        table.add_column("n", justify="right", no_wrap=True)
        for name in coefficients:
            for head in (HEADS[name][0], "95% interval", "p", "q"):
                table.add_column(head, justify="right", no_wrap=True)
        before = None
        for pair in self.found["pairs"]:
            if pair["pearson"]["p"] is None:
                continue
            metric = "" if pair["metric"] == before else cut(visible(pair["metric"]), LONGEST_METRIC)
            before = pair["metric"]
            cells = [cell for name in coefficients for cell in _cells(pair[name])]
            benchmark = cut(visible(pair["benchmark"]), LONGEST_BENCHMARK)
            table.add_row(Text(metric), Text(benchmark), f"{pair['n']}", *cells)
        return table


def _cells(told: Mapping[str, Any]) -> Iterator[Text]:
    ends = told["interval"]
    style = "bold green" if told["q"] <= ALPHA else "yellow" if told["p"] <= ALPHA else ""
    yield Text(f"{told['value']:z.3f}", style=style)
    yield Text(f"{ends[0]:z.2f} to {ends[1]:z.2f}" if ends else "–", style="" if ends else "dim")
    yield Text(probability(told["p"]), style=style)
    yield Text(probability(told["q"]), style=style)


def probability(p: float) -> str:
    """Three decimals, and never a zero that it is not."""
    return f"{p:.3f}" if p >= SMALLEST_PRINTED else "<.001"


def conclusions(found: Mapping[str, Any]) -> list[str]:
    """What holds when all pairs are looked at together, and what so few data sets can show at all."""
    counts, limits = found["counts"], found["limits"]
    n, pairs = limits["n"], limits["pairs"]
    if not pairs:
        return ["No pair of a metric and a benchmark can be tested; it takes three data sets with both."]
    lines = []
    for name, (_, title) in HEADS.items():
        by_itself, holds = counts[name]["p"], counts[name]["q"]
        by_chance = f"{title}: {by_itself} of {pairs} p ≤ 0.05, where chance alone makes {pairs * ALPHA:.3g}"
        if holds:
            lines.append(f"{by_chance}; {holds} of {pairs} survive{'s' * (holds == 1)} Benjamini–Hochberg.")
        else:
            lines.append(f"{by_chance}; none of the {pairs} survives Benjamini–Hochberg.")
    first, *others = [(f"{each['correlation']:g}", f"{each['power']:.0%}") for each in limits["power"]]
    told = f"What {n} data sets can show: p ≤ 0.05 takes |r| ≥ {limits['smallest_r']:.3f}; where the true one is "
    told += f"{first[0]}, {first[1]} of studies get there"
    told += "".join(f", where it is {rho}, {share}" for rho, share in others)
    if pairs > 1:
        told += f"; a single one of {pairs} pairs needs {limits['smallest_r_alone']:.4f} to survive"
    if limits["smallest_spearman_p"] >= SMALLEST_PRINTED:
        told += f"; p of rho is {probability(limits['smallest_spearman_p'])} at the least"
    lines.append(f"{told}.")
    if found["overlapping"]:
        told = ", ".join(f"{a} and {b}" for a, b in found["overlapping"])
        lines.append(f"p supposes independent data sets; these share records: {visible(told)}.")
    return lines


def _untested(found: Mapping[str, Any]) -> Iterator[str]:
    """Pairs that cannot be tested and coefficients without an interval, by their reasons."""
    whole = len(found["benchmarks"])
    missing: dict[str, dict[str, list[str]]] = {}
    reasons = {metric["name"]: metric["reason"] for metric in found["metrics"]}
    for pair in found["pairs"]:
        if pair["pearson"]["p"] is None:
            why, known = pair["pearson"]["reason"], reasons[pair["metric"]]
            told = f"{why} ({known})" if known and pair["n"] < len(found["sets"]) else why
            missing.setdefault(told, {}).setdefault(pair["metric"], []).append(pair["benchmark"])
    for reason, metrics in missing.items():
        told = [
            metric if len(columns) == whole else f"{metric} with {', '.join(columns)}"
            for metric, columns in metrics.items()
        ]
        yield f"not tested: {visible('; '.join(told))}: {visible(reason)}"
    without = dict.fromkeys(
        pair[name]["reason"] for pair in found["pairs"] for name in HEADS if pair[name]["p"] is not None
    )
    for reason in without:
        if reason:
            yield f"–: {visible(reason)}"


def _gaps(found: Mapping[str, Any]) -> Iterator[str]:
    """Which data sets what was tested has no value of."""
    names = [one["name"] for one in found["sets"]]
    tested = [pair for pair in found["pairs"] if pair["pearson"]["p"] is not None]
    gaps: dict[tuple[str, str], list[str]] = {}
    for kind, key in (("metrics", "metric"), ("benchmarks", "benchmark")):
        used = {pair[key] for pair in tested}
        for one in found[kind]:
            missing = [name for name, value in zip(names, one["values"], strict=True) if value is None]
            if missing and one["name"] in used:
                why = one.get("reason") or "no score in the CSV"
                gaps.setdefault((", ".join(missing), why), []).append(one["name"])
    for (sets, why), columns in gaps.items():
        yield f"without {visible(sets)}: {visible(', '.join(columns))}: {visible(why)}"


def _sizes(found: Mapping[str, Any]) -> Iterator[str]:
    """Metrics at equal size, and those whose sizes differ as they are."""
    at: dict[int | None, list[str]] = {}
    for metric in found["metrics"]:
        if metric["sizes_differ"]:
            at.setdefault(metric["size"], []).append(metric["name"])
    for size, names in at.items():
        if size is None:
            yield f"sizes differ, which says more of size than of content: {visible(', '.join(names))}"
        else:
            yield f"at equal size, {size:,} scored records: {visible(', '.join(names))}"
